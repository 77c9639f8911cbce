"""The public API: `load`, the codec object, `evaluate` and `bd_rate`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import lic_train as lic
from lic_train.codec.image_codec import PictureError
from lic_train.data.decode.images import save_png
from lic_train.errors import BitstreamError, CheckpointError, ConfigError, DataError
from lic_train.rd.metrics import psnr, to_8bit
from tests.tiny import FACTORIZED, HYPERPRIOR, make_run, picture, save_checkpoint


@pytest.fixture
def run(tmp_path):
    make_run(tmp_path / "run", config=HYPERPRIOR)
    return tmp_path / "run"


@pytest.fixture
def codec(run):
    return lic.load(run)


def test_every_kind_of_picture_gives_the_same_file(codec, tmp_path):
    x = picture(50, 70)
    array = x.permute(1, 2, 0).numpy()
    save_png(tmp_path / "x.png", x)
    files = [
        codec.encode(image)
        for image in (
            x.float() / 255,
            x.double() / 255,
            array,
            np.asfortranarray(array),
            Image.fromarray(array),
            str(tmp_path / "x.png"),
            tmp_path / "x.png",
        )
    ]
    assert len(set(files)) == 1
    assert files[0].startswith(b"LIC1")


def test_decoded_picture_is_the_estimated_one(codec):
    x = picture(50, 70).float() / 255
    data = codec.encode(x)
    estimate = codec.estimate(x)
    tensor, image = codec.decode(data, as_tensor=True), codec.decode(data)
    assert tensor.shape == (3, 50, 70)
    assert image.size == (70, 50)
    assert torch.equal(to_8bit(tensor), to_8bit(estimate.x_hat))
    assert np.array_equal(np.asarray(image), to_8bit(tensor).permute(1, 2, 0).numpy())
    assert estimate.bits_map.shape == (50, 70)
    assert estimate.bpp == pytest.approx(estimate.bits / (50 * 70))
    likelihoods = estimate.likelihoods.values()
    assert estimate.bits == pytest.approx(-sum(float(values.log2().sum()) for values in likelihoods))
    assert 8 * len(data) == pytest.approx(estimate.bits, rel=0.3)  # random weights: outliers are overpriced
    assert set(estimate.likelihoods) == {"y", "z"}


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1", "LA"])
def test_pil_images_of_any_mode_are_coded(codec, mode):
    assert codec.decode(codec.encode(Image.new(mode, (30, 20)))).size == (30, 20)


def test_model_and_configuration_are_public(codec, run):
    assert codec.config == HYPERPRIOR
    assert isinstance(codec.model, torch.nn.Module)
    assert not codec.model.training
    assert "ScaleHyperprior" in repr(codec)


def test_runs_models_and_checkpoints_are_loaded_from_strings_and_paths(run, tmp_path):
    expected = lic.load(run).encode(picture(40, 40).float() / 255)
    best = run / "checkpoints" / "best.safetensors"
    assert lic.load(str(best)).encode(picture(40, 40).float() / 255) == expected
    save_checkpoint(tmp_path / "x.ckpt", lic.load(run).model, HYPERPRIOR, 3)
    assert lic.load(tmp_path / "x.ckpt", device="cpu").config == HYPERPRIOR


def test_load_of_something_else_raises(tmp_path, run):
    save_png(tmp_path / "photo.png", picture(20, 20))
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "photo.png", tmp_path / "empty", tmp_path / "none", "outputs/none/at/all"):
        with pytest.raises(CheckpointError):
            lic.load(path)
    with pytest.raises(ConfigError, match="device"):
        lic.load(run, device="toaster")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 3, 20, 20), r"\(1, 3, 20, 20\)\nto do: pass one picture"),
        (torch.rand(20, 20, 3), "channels last, tensors first"),
        (torch.rand(1, 20, 20), "grey"),
        (torch.rand(4, 20, 20), "alpha"),
        (torch.rand(3, 0, 20), r"\(3, 0, 20\)"),
        (torch.zeros(3, 20, 20, dtype=torch.uint8), r"torch.uint8\nto do: x.float\(\) / 255"),
        (torch.rand(3, 20, 20) * 255, "to 25"),
        (torch.full((3, 20, 20), -0.1), "-0.1 to -0.1"),
        (torch.full((3, 20, 20), float("nan")), "NaN"),
        (np.zeros((3, 20, 20), np.uint8), "channels last"),
        (np.zeros((20, 20), np.uint8), "grey"),
        (np.zeros((20, 20, 4), np.uint8), "alpha"),
        (np.zeros((20, 20, 3), np.float32), "float32"),
        (np.zeros((20, 20, 3), np.uint16), "uint16"),
        ([[0, 1], [2, 3]], "builtins.list"),
        (None, "NoneType"),
    ],
)
def test_encode_of_an_invalid_picture_raises_one_clear_error(codec, image, message):
    with pytest.raises(PictureError, match=message) as caught:
        codec.encode(image)
    assert isinstance(caught.value, ValueError)
    assert "expected: " in str(caught.value)


def test_unreadable_files_and_foreign_bytes_raise(codec, tmp_path):
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x\.png"):
        codec.encode(tmp_path / "x.png")
    with pytest.raises(BitstreamError):
        codec.decode(b"nothing")
    make_run(tmp_path / "other", config=FACTORIZED)
    with pytest.raises(BitstreamError, match="model"):
        codec.decode(lic.load(tmp_path / "other").encode(picture(20, 20).float() / 255))


def test_evaluate_codes_real_files(codec, tmp_path):
    for number in range(3):
        save_png(tmp_path / "set" / f"{number}.png", picture(40, 50, number))
    found = lic.evaluate(codec, tmp_path / "set")
    assert [row["name"] for row in found.rows] == ["0", "1", "2"]
    for number, row in enumerate(found.rows):
        x = picture(40, 50, number).float() / 255
        data = codec.encode(x)
        assert row["bytes"] == len(data)
        assert row["psnr"] == pytest.approx(float(psnr(x, codec.decode(data, as_tensor=True))))
        assert row["equal"]
    assert found.mean["bpp_file"] == pytest.approx(sum(row["bpp_file"] for row in found.rows) / 3)


def test_evaluate_stays_callable_after_its_package_was_imported(codec, tmp_path):
    import lic_train.evaluate.run  # noqa: F401 the package `lic_train.evaluate` has the name of the function

    save_png(tmp_path / "x.png", picture(40, 50))
    assert len(lic.evaluate(codec, [tmp_path / "x.png"]).rows) == 1


def test_bd_rate_takes_pairs_and_names():
    curve = [(0.1, 28.0), (0.2, 30.0), (0.4, 32.5), (0.8, 35.5), (1.6, 39.0)]
    assert lic.bd_rate(curve, curve) == pytest.approx(0)
    assert lic.bd_rate(curve, [(rate / 2, quality) for rate, quality in curve]) == pytest.approx(-50)
    assert lic.bd_rate("hevc", "vvc") == pytest.approx(-9.9, abs=0.1)  # docs/anchors.md


def test_only_the_public_names_are_exported():
    assert sorted(lic.__all__) == ["__version__", "bd_rate", "evaluate", "load"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lic.nothing
