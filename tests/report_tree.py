"""Synthetic outputs/ trees with the files of runs, and synthetic anchors: test data, not measurements.

``python -m tests.report_tree FOLDER`` writes an example: three models at four lambdas, eight anchors, and typical
defects of a real tree.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import yaml

from lic_train.rd import curves
from lic_train.rd.curves import Curve, ImagePoint, Point

LAMBDAS = (0.0018, 0.0067, 0.025, 0.0483)
PICTURES = tuple(f"photo{number:02}" for number in range(1, 7))
# PSNR in dB at 0.5 bits per pixel, also for the anchors.
MODELS = {"mbt2018": 32.9, "cwam": 33.8, "gaacnn": 33.5}
ANCHORS = {
    "jpeg": ("JPEG", 29.6),
    "jpeg2000": ("JPEG 2000", 31.6),
    "webp": ("WebP", 31.0),
    "avif": ("AVIF", 32.8),
    "jxl": ("JPEG XL", 30.6),
    "hevc": ("HEVC (x265)", 32.9),
    "av1": ("AV1 (libaom)", 33.3),
    "vvc": ("VVC (VVenC)", 33.5),
}
HOSTILE = "</script><script>document.title = 'owned'</script>"


def digest(names: tuple[str, ...] = PICTURES) -> str:
    return hashlib.sha256(" ".join(names).encode()).hexdigest()


def row(name: str, bpp: float, level: float, better: float = 0) -> dict[str, Any]:
    """Return the row of one picture.

    ``level`` is the codec's PSNR at 0.5 bits per pixel; the difficulty of a picture depends on its name only.
    """
    hard = random.Random(name).uniform(-2, 2)
    lucky = random.Random(f"{name} {level}").uniform(-0.3, 0.3)
    psnr = level + 3.1 * math.log2(bpp / 0.5) - hard + lucky + better
    ms_ssim = 1 - 10 ** (-(psnr - 17) / 11)
    size = round(bpp * (1 + hard / 8) * 768 * 512 / 8)
    return {
        "name": name,
        "width": 768,
        "height": 512,
        "bytes": size,
        "bpp_file": 8 * size / (768 * 512),
        "bpp": 8 * size / (768 * 512) * 0.998,
        "psnr": psnr,
        "ms_ssim": ms_ssim,
        "encode_seconds": 0.31,
        "decode_seconds": 0.42,
        "equal": True,
        "max_difference": 0.0,
        "ms_ssim_db": -10 * math.log10(1 - ms_ssim),
    }


def result(lmbda: float, level: float, names: tuple[str, ...] = PICTURES, set_name: str = "kodak") -> dict[str, Any]:
    """Return the content of ``eval/<set>.json``."""
    rows = [row(name, 0.12 * (lmbda / 0.0018) ** 0.68, level) for name in names]
    return {
        "format": 2,
        "set": set_name,
        "images": len(rows),
        "image_list_sha256": digest(names),
        "model": {"_target_": "lic_train.models.cwam.CWAM", "N": 128},
        "training": {"lambda": lmbda, "step": 300},
        "checkpoint": {"file": "checkpoints/best.safetensors", "sha256": "0" * 64},
        "fingerprint": "0" * 16,
        "mean": mean(rows),
        "rows": rows,
        "environment": {"device": "cpu", "torch": "2.15.0"},
        "definitions": {"psnr": "dB"},
    }


def mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("bytes", "bpp_file", "bpp", "psnr", "ms_ssim", "encode_seconds", "decode_seconds")
    means = {name: sum(row[name] for row in rows) / len(rows) for name in names}
    return {**means, "ms_ssim_db": -10 * math.log10(1 - means["ms_ssim"]), "equal": True}


def write_run(outputs: Path, model: str, lmbda: float, level: float, **options: Any) -> Path:
    """Write a finished run. Options: recipe, name, steps, distortion, folder, config (model keys), result."""
    name, recipe = options.get("name"), options.get("recipe", model)
    folder = options.get("folder", f"lambda_{lmbda:g}" + (f"_{name}" if name else ""))
    run, steps = outputs / model / recipe / folder, options.get("steps", 300)
    config = {"lambda": lmbda, "distortion": options.get("distortion", "mse"), "name": name, "steps": steps, "seed": 0}
    config["choice"] = {"model": model, "recipe": options.get("recipe", model)}
    config["model"] = {"_target_": f"lic_train.models.{model}.Codec", "N": 128, **options.get("config", {})}
    put(run / ".hydra/config.yaml", yaml.safe_dump(config))
    put(run / "finished.json", json.dumps({"step": steps, "results": {}}))
    put(run / "environment.json", json.dumps({"torch": {"version": "2.15.0"}, "command": ["train.py"]}))
    put(run / "metrics.csv", log(steps, lmbda, level))
    content = options.get("result", result(lmbda, level))
    put(run / "eval" / f"{content['set']}.json", json.dumps(content))
    return run


def log(steps: int, lmbda: float, level: float) -> str:
    rng = random.Random(f"{lmbda} {level}")
    rows = ["step,train/bpp,train/loss,train/psnr"]
    for step in range(1, steps + 1):
        done = 1 - math.exp(-5 * step / steps)
        bpp = 0.12 * (lmbda / 0.0018) ** 0.68 * (2 - done) * rng.uniform(0.9, 1.1)
        psnr = (level - 14) + 13 * done + rng.uniform(-0.8, 0.8)
        rows.append(f"{step},{bpp:.9g},{bpp + lmbda * 255**2 * 10 ** (-psnr / 10):.9g},{psnr:.9g}")
    return "\n".join(rows) + "\n"


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def anchor(key: str, names: tuple[str, ...] = PICTURES, rates: int = 6, better: float = 0) -> Curve:
    """Return a synthetic classical codec whose PSNR exceeds that of ANCHORS by ``better`` dB."""
    title, level = ANCHORS[key]
    points = []
    for number in range(rates):
        rows = [row(name, 0.1 * 1.75**number, level, better) for name in names]
        images = tuple(ImagePoint(r["name"], r["bpp_file"], r["psnr"], r["ms_ssim_db"]) for r in rows)
        means = mean(rows)
        points.append(Point(f"QP {42 - 5 * number}", means["bpp_file"], means["psnr"], means["ms_ssim_db"], images))
    return Curve(key, title, "anchor", "kodak", tuple(points), digest(names), {"version": "synthetic"})


def write_anchors(folder: Path, keys: tuple[str, ...] = tuple(ANCHORS), better: float = 0) -> Path:
    """Write anchor and cited curves in the layout that `lic_train.report.gather` reads."""
    for key in keys:
        curves.save(folder / "anchors" / "kodak" / f"{key}.json", anchor(key, better=better))
    points = (Point("λ 1", 0.2, 30.2), Point("λ 2", 0.4, 32.4), Point("λ 3", 0.8, 35.2))
    cited = Curve("paper", "A paper", "cited", "kodak", points, None, {"source": "synthetic"})
    curves.save(folder / "cited" / "kodak" / "paper.json", cited)
    return folder


def write_models(outputs: Path) -> None:
    """Write every model of MODELS at every lambda."""
    for model, level in MODELS.items():
        for lmbda in LAMBDAS:
            write_run(outputs, model, lmbda, level)


def write_complexity(outputs: Path) -> None:
    for number, model in enumerate(MODELS, start=1):
        content = {
            "format": 1,
            "model": model,
            "config": {"N": 128},
            "quantiles": 384,
            "parameters": {"total": 14_000_000 * number, "g_a": 5_000_000 * number, "g_s": 6_000_000 * number},
            "macs": [{"height": 512, "width": 768, "total": 170_000_000_000 * number, "g_a": 80_000_000_000}],
            "time": {
                **{"height": 512, "width": 768, "device": "cpu"},
                **{"forward_ms": 410.0, "forward_runs": 9, "forward_peak_bytes": 900_000_000},
                **{"encode_ms": 520.0, "encode_runs": 9, "encode_peak_bytes": 900_000_000},
                **{"decode_ms": 640.0, "decode_runs": 9, "decode_peak_bytes": 900_000_000},
            },
            "peak_bytes": 900_000_000,
            "environment": {"device": "cpu"},
            "definitions": {"macs": "multiply-adds of one forward pass"},
        }
        put(outputs / "complexity" / f"{model}.json", json.dumps(content))


def write_mistakes(outputs: Path) -> None:
    """Write defects of real trees: an unfinished run, a duplicate lambda, other pictures, damaged files, odd names."""
    unfinished = write_run(outputs, "cwam", 0.1, 33)
    (unfinished / "finished.json").unlink()
    write_run(outputs, "cwam", 0.0067, 33, folder="lambda_0.00670", steps=100)
    write_run(outputs, "cwam", 0.2, 33, result=result(0.2, 33, PICTURES[:2]))
    put(write_run(outputs, "gaacnn", 0.2, 33) / "eval/kodak.json", '{"format": 2, "set": "kodak", "rows": [')
    no_number = json.dumps(result(0.3, 33)).replace('"psnr": ', '"psnr": NaN, "was": ')
    put(write_run(outputs, "gaacnn", 0.3, 33) / "eval/kodak.json", no_number)
    put(write_run(outputs, "gaacnn", 0.4, 33) / "eval/kodak.json", json.dumps(result(0.4, 33) | {"format": 9}))
    (write_run(outputs, "gaacnn", 0.5, 33) / ".hydra/config.yaml").unlink()
    write_run(outputs, "cwam", 0.0067, 33.1, name=HOSTILE, folder="lambda_0.0067_<img src=x onerror=alert(1)>")


def write_ablation(outputs: Path) -> None:
    """Write two variants of cwam."""
    for lmbda in LAMBDAS:
        write_run(outputs, "cwam", lmbda, 33.4, name="no_attention", config={"attention": False})
    write_run(outputs, "cwam", 0.0067, 32.9, name="narrow", config={"N": 64})


if __name__ == "__main__":
    where = Path(sys.argv[1])
    for write in (write_models, write_complexity, write_ablation, write_mistakes):
        write(where / "outputs")
    write_anchors(where)
