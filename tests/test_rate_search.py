"""Files at a wanted level, lambda, rate, size or quality of a codec with a variable rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lic_train.codec import rate
from lic_train.codec.__main__ import main
from lic_train.codec.load import load
from lic_train.data.decode.images import save_png
from lic_train.errors import ConfigError
from lic_train.files import bitstream
from lic_train.files.checkpoint import save_model
from lic_train.files.container import unpack
from lic_train.models.base import Codec
from lic_train.rd import metrics
from tests.tiny import HYPERPRIOR, make_codec, make_run, picture

CONFIG = {**HYPERPRIOR, "lambdas": [0.002, 0.008, 0.032, 0.128]}
FINGERPRINT = bytes(8)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return make_codec(CONFIG)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return picture(128, 192).float() / 255


def counted(function: Callable[[float], float]) -> tuple[Callable[[float], float], list[float]]:
    calls: list[float] = []

    def call(level: float) -> float:
        if level not in calls:
            calls.append(level)
        return function(level)

    return call, calls


@pytest.mark.parametrize("wanted", [0.1, 1.0, 3.14, 8.9])
@pytest.mark.parametrize("at_least", [True, False])
@pytest.mark.parametrize("shape", [lambda t: t, math.expm1, lambda t: t**3, lambda t: math.floor(20 * t) / 20])
def test_search_ends_on_the_requested_side_after_few_values(wanted, at_least, shape):
    """Functions from 0 to 9, one of them with steps that are wider than the tolerance."""
    value, calls = counted(lambda level: 9 * shape(level / 7) / shape(1))
    level = rate._find(value, wanted, 7, 0.01, at_least)
    found, step = value(level), 1 / 1024
    assert found >= wanted if at_least else found <= wanted
    beyond = level - step if at_least else level + step
    within = abs(found - wanted) <= 0.01
    assert within or (value(beyond) < wanted if at_least else value(beyond) > wanted)
    assert len(calls) <= 20
    if within:
        assert len(calls) <= 12


def test_search_returns_an_end_that_has_exactly_the_wanted_value():
    assert rate._find(lambda level: level, 5.0, 5, 0.0, False) == 5
    assert rate._find(lambda level: level, 0.0, 5, 0.0, True) == 0


@pytest.mark.parametrize(
    ("wanted", "level"), [({}, 1.5), ({"level": 0.5}, 0.5), ({"lmbda": 0.016}, 1.5), ({"lmbda": 0.128}, 3)]
)
def test_level_and_lambda_select_the_level_of_the_file(codec, x, wanted, level):
    coded = rate.encode(codec, x, FINGERPRINT, rate.Wanted(**wanted))
    assert (coded.level, coded.passes) == (level, 1)
    assert coded.data == bitstream.encode(codec, x, FINGERPRINT, level=level)


def test_largest_file_of_at_most_the_wanted_size(codec, x):
    ends = [len(bitstream.encode(codec, x, FINGERPRINT, level=level)) for level in (0, 3)]
    wanted = round(0.6 * ends[0] + 0.4 * ends[1])
    by_bytes = rate.encode(codec, x, FINGERPRINT, rate.Wanted(num_bytes=wanted))
    assert wanted - max(0.005 * wanted, 8) - 1 <= len(by_bytes.data) <= wanted
    assert by_bytes.passes <= 12
    by_bpp = rate.encode(codec, x, FINGERPRINT, rate.Wanted(bpp=8 * wanted / (128 * 192)))
    assert by_bpp.data == by_bytes.data
    assert unpack(by_bytes.data)[0].level == round(1024 * by_bytes.level)


def test_smallest_file_with_the_wanted_psnr(x, monkeypatch):
    """Of an untrained codec, whose reconstruction is replaced by one whose error decreases with the level."""
    codec = make_codec(CONFIG)

    def reconstruct(codec, x, tile=None, *, level):
        return bitstream.Estimate((x + 0.1 * 0.5**level).clamp(0, 1), [])

    monkeypatch.setattr(rate.bitstream, "estimate", reconstruct)
    coded = rate.encode(codec, 0.5 * x, FINGERPRINT, rate.Wanted(psnr=30.0))
    psnr, below = (
        float(metrics.psnr(0.5 * x, reconstruct(codec, 0.5 * x, level=level).x_hat))
        for level in (coded.level, coded.level - 1 / 1024)
    )
    assert coded.psnr == psnr
    assert psnr >= 30
    assert psnr <= 30.02 or below < 30  # in 8 bits the quality has steps
    assert coded.data == bitstream.encode(codec, 0.5 * x, FINGERPRINT, level=coded.level)


@pytest.mark.parametrize("wanted", [{"num_bytes": 10}, {"bpp": 50.0}, {"psnr": 90.0}])
def test_out_of_reach_names_the_reachable_range(codec, x, wanted):
    sizes = [len(bitstream.encode(codec, x, FINGERPRINT, level=level)) for level in (0, 3)]
    with pytest.raises(ConfigError, match="out of reach") as caught:
        rate.encode(codec, x, FINGERPRINT, rate.Wanted(**wanted))
    if "num_bytes" in wanted:
        assert f"bytes from {sizes[0]} to {sizes[1]}" in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"bpp": 0}, "wanted bpp is not valid.*\nexpected: a number above 0\ngot: 0"),
        ({"psnr": math.nan}, "wanted psnr is not valid"),
        ({"level": -1}, "at least 0"),
        ({"num_bytes": -5}, "wanted bytes is not valid"),
        ({"level": 1, "bpp": 0.5}, "More than one rate"),
    ],
)
def test_invalid_wishes_raise(wanted, message):
    with pytest.raises(ConfigError, match=message):
        rate.Wanted(**wanted)


@pytest.mark.parametrize(("wanted", "message"), [({"level": 3.5}, "from 0 to 3"), ({"lmbda": 1}, "0.002 to 0.128")])
def test_levels_and_lambdas_outside_the_ladder_raise(codec, x, wanted, message):
    with pytest.raises(ConfigError, match=message):
        rate.encode(codec, x, FINGERPRINT, rate.Wanted(**wanted))


def test_rate_option_of_a_model_with_one_rate_raises(x):
    with pytest.raises(ConfigError, match=r"one rate\.\nexpected: .*rate=variable\ngot: bpp=0.5"):
        rate.encode(make_codec(HYPERPRIOR), x, FINGERPRINT, rate.Wanted(bpp=0.5))


def test_command_and_python_code_at_a_wanted_size(tmp_path: Path, capsys):
    run = tmp_path / "run"
    codec = make_run(run, config=CONFIG)
    image = picture(96, 128)
    save_png(tmp_path / "in.png", image)
    size = len(bitstream.encode(codec, image, FINGERPRINT, level=1.2))
    files = [str(tmp_path / "in.png"), str(tmp_path / "out.lic"), "--run", str(run)]
    assert main(["compress", *files, "--bytes", str(size)]) == 0
    data = (tmp_path / "out.lic").read_bytes()
    assert size - 9 - 0.005 * size <= len(data) <= size
    assert "wanted bytes" in capsys.readouterr().out
    assert load(run).encode(tmp_path / "in.png", num_bytes=size) == data
    decoded = load(run).decode(data, as_tensor=True)
    expected = bitstream.decode(codec, data, unpack(data)[0].fingerprint)
    torch.testing.assert_close(decoded, expected)
    assert main(["compress", *files, "--bpp", "0"]) == 2
    assert "a number above 0" in capsys.readouterr().err


def test_exported_model_keeps_its_rates(tmp_path: Path, codec):
    save_model(tmp_path / "model.safetensors", codec, CONFIG, {})
    loaded = load(tmp_path / "model.safetensors")
    assert loaded.model.ladder.lambdas == tuple(CONFIG["lambdas"])
    image = picture(64, 64)
    assert loaded.encode(image.permute(1, 2, 0).numpy(), level=2.5) == bitstream.encode(
        codec, image, loaded.metadata.fingerprint, level=2.5
    )
