"""Evaluation options of other authors: padding, multiple and kind of PSNR; published results beside measured ones."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressai.ops import compute_padding
from rich.console import Console
from torch import Tensor

from lic_train.errors import ConfigError
from lic_train.evaluate.bench import Settings
from lic_train.evaluate.protocol import Protocol
from lic_train.evaluate.run import evaluate_run, show
from lic_train.evaluate.sets import read_options
from lic_train.files.bitstream import decode
from lic_train.files.checkpoint import load_model, save_model
from tests.tiny import HYPERPRIOR, make_codec, picture

IMAGE = picture(97, 131, 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zoo") / "stf_0067.safetensors"
    published = {
        "name": "stf_0067",
        "source": "the authors",
        "set": "one",
        "bpp": 0.298,
        "psnr": 32.15,
        "options": {"padding": "zero_centred", "multiple": 64, "psnr": "float"},
    }
    extra = {"lambda": 0.0067, "distortion": "mse", "source": "stf_0067.pth.tar", "published": published}
    save_model(path, make_codec(HYPERPRIOR), HYPERPRIOR, extra)
    return path


def measured(model: Path, **protocol: Any) -> dict[str, Any]:
    settings = Settings(panels=0, protocol=Protocol(**protocol))
    return evaluate_run(model, [("a.png", IMAGE)], "one", settings=settings)


def padded_by_compressai(multiple: int) -> Tensor:
    around, _ = compute_padding(97, 131, min_div=multiple)
    return torch.nn.functional.pad(IMAGE[None].float() / 255, around)


def psnr_of_floats(x_hat: Tensor) -> float:
    error = x_hat.double().clamp(0, 1).numpy() - IMAGE.double().div(255).numpy()
    return float(-10 * np.log10(np.mean(error**2)))


@pytest.mark.parametrize("multiple", [64, 256])
def test_zero_centred_padding_is_that_of_compressai(model: Path, multiple: int) -> None:
    row = measured(model, padding="zero_centred", multiple=multiple, psnr="float")["rows"][0]
    x = padded_by_compressai(multiple)
    left, _, top, _ = compute_padding(97, 131, min_div=multiple)[0]
    codec, metadata = load_model(model)
    with torch.no_grad():
        out = codec(x)
    x_hat = out["x_hat"][0, :, top : top + 97, left : left + 131]
    assert row["psnr"] == pytest.approx(psnr_of_floats(x_hat), abs=1e-3)
    bits = -sum(float(likelihoods.log2().sum()) for likelihoods in out["likelihoods"].values())
    assert row["bpp"] == pytest.approx(bits / (97 * 131), rel=1e-4)
    assert (row["width"], row["height"], row["equal"]) == (131, 97, True)
    data = (model.parent / "stf_0067" / "eval" / "one" / "a.lic").read_bytes()
    assert row["bpp_file"] == 8 * len(data) / (97 * 131)
    assert decode(codec, data, metadata.fingerprint).shape == x.shape[1:]


def test_zero_padding_is_at_the_bottom_and_right(model: Path) -> None:
    row = measured(model, padding="zero")["rows"][0]
    codec, _ = load_model(model)
    x = torch.zeros(1, 3, 128, 192)
    x[0, :, :97, :131] = IMAGE / 255
    with torch.no_grad():
        bits = -sum(float(likelihoods.log2().sum()) for likelihoods in codec(x)["likelihoods"].values())
    assert row["bpp"] == pytest.approx(bits / (97 * 131), rel=1e-4)


def test_only_the_requested_part_of_the_convention_changes(model: Path) -> None:
    house, floats, wide = measured(model), measured(model, psnr="float"), measured(model, multiple=256)
    rows = [result["rows"][0] for result in (house, floats, wide)]
    assert rows[0]["bytes"] == rows[1]["bytes"] < rows[2]["bytes"]
    assert rows[0]["ms_ssim"] == rows[1]["ms_ssim"]
    assert 0 < abs(rows[0]["psnr"] - rows[1]["psnr"]) < 0.1
    codec, metadata = load_model(model)
    data = (model.parent / "stf_0067" / "eval" / "one" / "a.lic").read_bytes()
    assert decode(codec, data, metadata.fingerprint).shape == (3, 256, 256)


def test_results_record_the_options(model: Path) -> None:
    measured(model, padding="zero_centred", multiple=128)
    stored = json.loads((model.parent / "stf_0067" / "eval" / "one.json").read_text())
    assert stored["protocol"] == {"padding": "zero_centred", "multiple": 128, "psnr": "uint8", "tile": None}
    assert "zeros, on all sides, to multiples of 128" in stored["definitions"]["padding"]
    assert "8 bits" in stored["definitions"]["psnr"]
    assert measured(model)["protocol"] == {"padding": "replicate", "multiple": None, "psnr": "uint8", "tile": None}


def test_multiple_must_fit_the_model(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)eval\.multiple.*a multiple of its downsampling factor 64.*got: 100"):
        measured(model, multiple=100)


def test_options_have_names_on_the_command_line() -> None:
    options = read_options(["eval=kodak", "eval.padding=zero_centred", "eval.multiple=128", "eval.tile=512"])
    assert options.eval.protocol == Protocol(padding="zero_centred", multiple=128, tile=512)
    assert read_options(["eval=folder", "eval.root=/x"]).eval.protocol.is_house
    with pytest.raises(ConfigError, match=r"eval\.padding: should be 'replicate', 'zero' or 'zero_centred'"):
        read_options(["eval=kodak", "eval.padding=mirror"])


def test_published_result_is_printed_beside_the_measured_one(model: Path) -> None:
    for protocol in ({}, {"padding": "zero_centred", "multiple": 64, "psnr": "float"}):
        result = measured(model, **protocol)
        console = Console(record=True, width=200, file=io.StringIO())
        show(result, model.parent / "stf_0067", console)
        printed = console.export_text()
        mean = result["mean"]
        here = f"{mean['bpp_file']:.3f} bpp {mean['psnr']:.2f} dB"
        assert f"published 0.298 bpp 32.15 dB, here {here}" in printed
        options = "eval.padding=zero_centred eval.multiple=64 eval.psnr=float"
        assert (f"the authors measured with {options}" in printed) == (not protocol)
        assert (f"\nmeasured with {options}" in printed) == bool(protocol)
