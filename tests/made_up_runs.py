"""Synthetic runs with given numbers for the tests of papers and cards: all pictures of a run have equal results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests import report_tree

KODAK = tuple(f"kodim{number:02}" for number in range(1, 25))
SWITCHES = {  # default values of the configuration keys that the papers vary
    "iblic": {
        "N": 128, "M": 320, "size": "full", "patch": 2, "levels": 2, "fexm": True, "frm": True, "fenm": True,
        "crm": True, "qecm": "learned",
    },
    "gcab_gmm": {"N": 128, "M": 192, "K": 3, "mixture": True, "gcab_after": [1, 2, 3]},
}  # fmt: skip
STAGES = [{"name": "enhance", "loss": {"bpp": 1, "distortion": 1, "feature_enhancement": 1}}]


def result(bpp: float, psnr: float, ms_ssim: float, set_name: str, names: tuple[str, ...] = KODAK) -> dict[str, Any]:
    """Return the content of ``eval/<set>.json``."""
    content = report_tree.result(0.0067, 30, names, set_name)
    for row in content["rows"]:
        row |= {"bpp_file": bpp, "psnr": psnr, "ms_ssim": ms_ssim, "encode_seconds": 0.5, "decode_seconds": 0.25}
        row |= {"ms_ssim_db": report_tree.mean([row])["ms_ssim_db"]}
    return content | {"mean": report_tree.mean(content["rows"])}


def write(
    outputs: Path, model: str, lmbda: float, bpp: float = 0.5, psnr: float = 30.0, ms_ssim: float = 0.9, **options: Any
) -> Path:
    """Write a finished run.

    Options: set, names (of the pictures), recipe, name, steps, distortion, batch_size, feature_enhancement, log (values
    of the training loss), and config (further keys of the model's configuration).
    """
    content = result(bpp, psnr, ms_ssim, options.pop("set", "kodak"), options.pop("names", KODAK))
    more = SWITCHES.get(model, {}) | options.pop("config", {})
    weight, batch, log = options.pop("feature_enhancement", 1), options.pop("batch_size", 8), options.pop("log", None)
    run = report_tree.write_run(outputs, model, lmbda, 30, result=content, config=more, **options)
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    stages = [{**STAGES[0], "loss": {**STAGES[0]["loss"], "feature_enhancement": weight}}]
    config |= {"batch_size": batch, "crop": 256, "recipe": {"stages": stages}}
    config["data"] = {"source": {"_target_": "lic_train.data.sets.sources.imagenet"}}
    report_tree.put(run / ".hydra/config.yaml", yaml.safe_dump(config))
    if log is not None:
        rows = "".join(f"{step},{loss}\n" for step, loss in enumerate(log, start=1))
        report_tree.put(run / "metrics.csv", f"step,train/loss\n{rows}")
    return run
