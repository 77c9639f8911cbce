"""The trained codec inside the package: usable without a run, and as good as docs/demo.md reports."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import lic_train as lic
from lic_train.codec.__main__ import main
from lic_train.errors import CheckpointError
from lic_train.files.checkpoint import read_metadata
from lic_train.files.shipped import FILE
from tests.conftest import ROOT, SHARED

KODAK = SHARED / "kodak"


def reported() -> dict[int, tuple[float, float]]:
    """Return bits per pixel and PSNR of every level in the table of docs/demo.md."""
    rows = re.findall(r"^\| (\d) \| [\d.]+ \| ([\d.]+) \| ([\d.]+) \|", (ROOT / "docs/demo.md").read_text(), re.M)
    return {int(level): (float(bpp), float(psnr)) for level, bpp, psnr in rows}


def test_file_is_small_and_has_its_recipe() -> None:
    assert FILE.stat().st_size < 2_000_000
    metadata = read_metadata(FILE)
    assert metadata.training["steps"] == metadata.extra["step"]
    assert metadata.extra["run_config"]["choice"] == {"model": "demo", "recipe": "demo"}


def test_compress_and_decompress_without_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photograph = data.coffee()
    Image.fromarray(photograph).save("photo.png")
    assert main(["compress", "photo.png", "photo.lic", "--bpp", "0.5"]) == 0
    assert main(["decompress", "photo.lic", "back.png"]) == 0
    size = Path("photo.lic").stat().st_size
    assert 0.9 * 0.5 < 8 * size / photograph[..., 0].size <= 0.5

    codec = lic.load("demo")
    data_of_python = codec.encode(photograph, bpp=0.5)
    assert data_of_python == Path("photo.lic").read_bytes()
    decoded = np.asarray(Image.open("back.png"), dtype=float)
    np.testing.assert_array_equal(decoded, np.asarray(codec.decode(data_of_python)))

    error = np.square(decoded - photograph).mean()
    jpeg = io.BytesIO()
    Image.fromarray(photograph).save(jpeg, "JPEG", quality=20, subsampling=0)
    assert jpeg.tell() > size  # more bytes, larger error
    assert np.square(np.asarray(Image.open(jpeg), dtype=float) - photograph).mean() > error


def test_name_is_the_codec_in_the_package_and_a_path_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert lic.load("demo").metadata.path == FILE
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        lic.load(tmp_path / "demo")


@pytest.mark.skipif(not KODAK.is_dir(), reason="needs the Kodak photographs")
def test_kodak_at_a_level_of_the_reported_curve() -> None:
    levels = reported()
    assert set(levels) == set(range(7))
    result = lic.evaluate(lic.load("demo"), KODAK, levels=[2])
    assert len(result.rows) == 24
    assert all(row["equal"] for row in result.rows)
    assert (round(result.mean["bpp_file"], 3), round(result.mean["psnr"], 2)) == pytest.approx(levels[2], abs=0.0101)
