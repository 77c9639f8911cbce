"""Classical codecs: real files, correct colours, no silent change of format, resuming after interruptions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lic_train.anchors import __main__ as command
from lic_train.anchors import run, ycbcr
from lic_train.anchors.codecs import ANCHORS
from lic_train.anchors.measure import measure
from lic_train.data.decode.images import save_png
from lic_train.errors import AnchorError, DataError
from lic_train.evaluate.run import evaluate_run
from lic_train.evaluate.sets import SetOptions, open_images
from lic_train.rd import curves, metrics
from tests.conftest import ROOT
from tests.tiny import make_run, picture

VIDEO = ("hevc", "av1", "vvc")


def installed(key):
    anchor = ANCHORS[key]
    try:
        anchor.require()
    except AnchorError as error:
        pytest.skip(str(error))
    return anchor


def array(x):
    """Convert a tensor (3, H, W) to an array (H, W, 3)."""
    return np.ascontiguousarray(x.permute(1, 2, 0).numpy())


@pytest.fixture
def folder(tmp_path):
    """Three pictures: in a subfolder, of an odd size, and large enough for MS-SSIM."""
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    for name, x in (("b.png", picture(64, 96)), ("a.x.png", picture(61, 75, 1)), ("sub/c.png", picture(168, 176, 2))):
        save_png(root / name, x)
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, which will contain ``outputs``, with its own folder of temporary files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """A function that replaces ffmpeg by a shell script."""

    def make(script):
        path = tmp_path / "ffmpeg"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))

    return make


# Colour


def test_bt709_colours():
    """Pure colours by ITU-R BT.709-6 in full range: Y from the weights, extreme chroma at an end of the range."""
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]], np.uint8)
    planes = np.frombuffer(ycbcr.to_planes(colours, "yuv444p10le"), "<u2").reshape(3, 5)
    assert planes[0].tolist() == [round(1023 * y) for y in (0.2126, 0.7152, 0.0722, 1, 0)]
    assert planes[1, [2, 3, 4]].tolist() == [1023, 512, 512]
    assert planes[2, [0, 3, 4]].tolist() == [1023, 512, 512]
    assert planes[1, 0] == round(1023 * (0.5 - 0.2126 / 1.8556))
    assert planes[2, 2] == round(1023 * (0.5 - 0.0722 / 1.5748))


def test_444_round_trip_is_exact():
    values = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    values[0, :256] = np.arange(256, dtype=np.uint8)[:, None]
    values[1, :8] = np.indices((2, 2, 2)).reshape(3, 8).T * 255
    data = ycbcr.to_planes(values, "yuv444p10le")
    assert len(data) == 6 * 300 * 400
    assert np.array_equal(ycbcr.from_planes(data, "yuv444p10le", 300, 400), values)


@pytest.mark.parametrize("size", [(64, 96), (61, 75), (1, 1)])
def test_420_round_trip_of_smooth_colours(size):
    """A grey picture is exact; the loss on slow colour gradients is small, so chroma is not shifted."""
    rows, columns = np.indices(size)
    grey = np.repeat((rows * 3 + columns)[..., None] % 256, 3, axis=-1).astype(np.uint8)
    smooth = np.stack([rows * 2, columns * 2, 200 - rows - columns // 2], axis=-1).astype(np.uint8)
    for values, tolerance in ((grey, 0), (smooth, 2)):
        data = ycbcr.to_planes(values, "yuv420p10le")
        back = ycbcr.from_planes(data, "yuv420p10le", *size)
        assert np.abs(back.astype(int) - values).max() <= tolerance


# Codecs


@pytest.mark.parametrize("key", ANCHORS)
def test_quality_and_bytes_increase_with_rate_at_odd_sizes(key):
    anchor = installed(key)
    assert 6 <= len(anchor.rates) <= 8
    rows = [measure(anchor, rate, "odd", picture(61, 75)) for rate in (anchor.rates[1], anchor.rates[-1])]
    assert rows[0].bytes < rows[1].bytes
    assert rows[0].psnr < rows[1].psnr
    assert rows[1].psnr > 29
    assert [row.ms_ssim for row in rows] == [None, None]
    assert rows[1].bpp == 8 * rows[1].bytes / (61 * 75)


@pytest.mark.parametrize("key", ["jpeg", "hevc"])
def test_row_matches_the_file(key, tmp_path):
    anchor, x = installed(key), picture(168, 176)
    row = measure(anchor, anchor.rates[3], "p", x)
    path = tmp_path / f"p{anchor.suffix}"
    anchor.encode(array(x), anchor.rates[3], path)
    assert row.bytes == path.stat().st_size
    decoded = anchor.decode(path, 168, 176)
    assert row.psnr == pytest.approx(10 * np.log10(255**2 / np.mean((decoded.astype(float) - array(x)) ** 2)), abs=1e-4)
    pair = [torch.from_numpy(values.copy()).permute(2, 0, 1) / 255 for values in (array(x), decoded)]
    assert row.ms_ssim == pytest.approx(float(metrics.ms_ssim(*pair)))
    assert row.encode_seconds > 0
    assert row.decode_seconds > 0


@pytest.mark.parametrize("key", ANCHORS)
def test_colours_are_preserved(key, tmp_path):
    """Large patches of saturated colours are decoded almost exactly: matrix, range and order are correct."""
    anchor = installed(key)
    colours = np.array([[200, 40, 40], [40, 180, 60], [40, 50, 210], [128, 128, 128]], np.uint8)
    patches = colours.reshape(2, 2, 3).repeat(32, axis=0).repeat(32, axis=1)
    path = tmp_path / f"p{anchor.suffix}"
    anchor.encode(patches, anchor.rates[-1], path)
    decoded = anchor.decode(path, 64, 64).astype(int)
    centres = decoded[16::32, 16::32].reshape(4, 3)
    assert np.abs(centres - colours).max() <= 4


def test_changed_pixel_format_raises(tmp_path):
    anchor = replace(installed("vvc"), pixel_format="yuv444p10le")
    anchor.encode(array(picture(64, 64)), 40, tmp_path / "p.vvc")
    with pytest.raises(
        AnchorError, match=r"(?s)libvvenc wrote another pixel format.*expected: yuv444p10le\ngot: yuv420p10le"
    ):
        anchor.decode(tmp_path / "p.vvc", 64, 64)


@pytest.mark.parametrize(("key", "option"), [("jpeg", 2), ("avif", "4:2:0")])
def test_subsampled_chroma_raises(key, option, tmp_path):
    anchor = installed(key)
    wrong = replace(anchor, options={**anchor.options, "subsampling": option})
    path = tmp_path / f"p{anchor.suffix}"
    wrong.encode(array(picture(64, 64)), 50, path)
    with pytest.raises(AnchorError, match="expected: 4:4:4\ngot: 4:2:0"):
        anchor.decode(path, 64, 64)


def test_foreign_file_raises(tmp_path):
    for key in ("jpeg2000", "hevc"):
        (tmp_path / "p").write_bytes(b"nothing of that kind" * 10)
        with pytest.raises(AnchorError):
            installed(key).decode(tmp_path / "p", 64, 64)


def test_ffmpeg_failure_reports_the_end_of_its_output(fake_ffmpeg, tmp_path):
    fake_ffmpeg('yes words | head -c 5000 >&2; echo "no such thing as this" >&2; exit 3')
    with pytest.raises(AnchorError, match=r"(?s)exit status 3\.\ngot:\n  words.*no such thing as this$") as caught:
        ANCHORS["hevc"].encode(array(picture(16, 16)), 30, tmp_path / "p.hevc")
    assert len(str(caught.value)) < 1000


def test_recorded_command_line_is_executed(fake_ffmpeg, tmp_path):
    fake_ffmpeg(f'echo "$@" > {tmp_path}/arguments; cat > /dev/null')
    for key in VIDEO:
        anchor = ANCHORS[key]
        anchor.encode(array(picture(32, 48)), 33, tmp_path / f"picture{anchor.suffix}")
        expected = anchor.command.replace("{rate}", "33").replace("{width}x{height}", "48x32")
        ran = (tmp_path / "arguments").read_text().strip().replace(f"{tmp_path}/", "")
        assert ran.removeprefix("-loglevel warning ") == expected.removeprefix("ffmpeg ")


# The run of a set


def test_curves_of_a_folder(folder, here, capsys):
    assert command.main(["--set", "three", "--root", str(folder), "--codec", "jpeg", "jpeg2000", "--jobs", "1"]) == 0
    curve = curves.load(here / "outputs" / "anchors" / "three" / "jpeg.json")
    assert (curve.key, curve.kind, curve.set, len(curve.points)) == ("jpeg", "anchor", "three", 7)
    assert [point.parameter for point in curve.points][:2] == ["quality 5", "quality 10"]
    middle = curve.points[3]
    assert [image.name for image in middle.images] == ["a.x", "b", "sub_c"]
    rows = [measure(ANCHORS["jpeg"], 35, "p", x) for _, x in open_images(options(folder), Path())]
    assert [image.bpp for image in middle.images] == pytest.approx([row.bpp for row in rows], abs=1e-6)
    assert middle.bpp == pytest.approx(np.mean([row.bpp for row in rows]), abs=1e-6)
    assert middle.psnr == pytest.approx(np.mean([row.psnr for row in rows]), abs=1e-4)
    assert middle.images[2].ms_ssim_db == pytest.approx(-10 * np.log10(1 - rows[2].ms_ssim), abs=1e-4)
    assert middle.ms_ssim_db is None
    about = curve.about
    assert re.fullmatch(r"Pillow [\d.]+, libjpeg-turbo [\d.]+", about["encoder"])
    assert about["command"] == "PIL.Image.save(file, 'JPEG', quality={rate}, subsampling=0, optimize=True)"
    assert re.search(r"black picture of 64 x 64 takes [1-9]\d+ bytes", about["bytes"])
    assert len(about["encode_seconds"]) == len(about["decode_seconds"]) == 7
    assert str(here) not in json.dumps(about)
    assert not list((here / "temporary").iterdir())
    output = capsys.readouterr()
    assert max(map(len, output.out.splitlines())) <= 80
    assert "jpeg2000  outputs/anchors/three/jpeg2000.json\n" in output.err


def options(folder):
    return SetOptions(name="three", root=str(folder), limit=None)


def test_image_list_equals_that_of_an_evaluation(folder, here):
    make_run(here / "run")
    result = evaluate_run(here / "run", open_images(options(folder), Path()), "three")
    pictures = run.read_pictures("three", open_images(options(folder), Path()))
    assert pictures.sha256 == result["image_list_sha256"]
    assert list(pictures.names) == [row["name"] for row in result["rows"]]
    save_png(folder / "b.png", picture(64, 96, 9))
    assert run.read_pictures("three", open_images(options(folder), Path())).sha256 != result["image_list_sha256"]


def test_interrupted_run_resumes(folder, here, monkeypatch):
    """After an interruption at ten rows and an incomplete line, ten rows are kept and the curve is the same."""
    arguments = ["--set", "three", "--root", str(folder), "--codec", "jpeg", "--jobs", "1"]
    measured = []

    def counted(anchor, rate, name, x):
        if len(measured) == 10:
            raise KeyboardInterrupt
        measured.append((rate, name))
        return measure(anchor, rate, name, x)

    monkeypatch.setattr(run, "measure", counted)
    assert command.main(arguments) == 130
    rows = here / "outputs" / "anchors" / "three" / "rows" / "jpeg.jsonl"
    with rows.open("a") as file:
        file.write('{"key": "half a li')
    again = []
    monkeypatch.setattr(run, "measure", lambda *values: again.append(values[1:3]) or measure(*values))
    assert command.main(arguments) == 0
    assert len(again) == 3 * 7 - 10 + 1
    assert not set(again) & set(measured)
    first = curves.load(here / "outputs" / "anchors" / "three" / "jpeg.json")
    again.clear()
    assert command.main(arguments) == 0
    assert [pair[1] for pair in again] == ["black"]
    rows.unlink()
    assert command.main(arguments) == 0
    assert curves.load(here / "outputs" / "anchors" / "three" / "jpeg.json").points == first.points


def test_killed_run_with_several_processes_resumes(folder, here):
    """JPEG XL in two processes, which both load the plug-in; the run is completed in one process."""
    installed("jxl")
    arguments = ["--set", "three", "--root", str(folder), "--codec", "jxl"]
    code = [sys.executable, "-m", "lic_train.anchors", *arguments, "--jobs", "2"]
    process = subprocess.Popen(code, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    rows = here / "outputs" / "anchors" / "three" / "rows" / "jxl.jsonl"
    while process.poll() is None and not rows.exists():
        time.sleep(0.01)
    assert rows.exists(), process.communicate()
    process.kill()
    process.communicate(timeout=120)  # returns when no process has the error stream open
    kept = [line for line in rows.read_text().splitlines() if line.endswith("}}")]
    assert command.main([*arguments, "--jobs", "1"]) == 0
    assert all(line in rows.read_text() for line in kept)
    curve = curves.load(here / "outputs" / "anchors" / "three" / "jxl.json")
    pictures = run.read_pictures("three", open_images(options(folder), Path()))
    assert run.make(ANCHORS["jxl"], "v", pictures, here / "alone", 1, lambda: None).points == curve.points


def test_row_keys_depend_on_picture_rate_codec_and_version(folder):
    def keys(anchor, version):
        pictures = run.read_pictures("three", open_images(options(folder), Path()))
        return {task.key for task in run._tasks(anchor, version, pictures)}

    first = keys(ANCHORS["jpeg"], "1")
    assert len(first) == 3 * 7
    slower = replace(ANCHORS["jpeg"], options={"subsampling": 0, "optimize": False})
    assert not first & (keys(ANCHORS["jpeg"], "2") | keys(ANCHORS["webp"], "1") | keys(slower, "1"))
    save_png(folder / "b.png", picture(64, 96, 9))
    assert len(first & keys(ANCHORS["jpeg"], "1")) == 2 * 7


def test_missing_codec_is_left_out(folder, here, fake_ffmpeg, capsys):
    fake_ffmpeg('echo " V....D libx265  libx265 H.265"')
    codecs = ["jpeg", "vvc", "av1"]
    assert command.main(["--set", "three", "--root", str(folder), "--codec", *codecs, "--jobs", "1"]) == 1
    printed = capsys.readouterr().err
    assert "vvc is left out: The encoder libvvenc is missing.\nexpected: ffmpeg with libvvenc" in printed
    assert "av1 is left out" in printed
    assert "imageio-ffmpeg>=0.8.1" in printed
    assert [path.name for path in (here / "outputs" / "anchors" / "three").glob("*.json")] == ["jpeg.json"]


def test_failing_codec_is_left_out_with_the_picture(folder, here, capsys):
    """x265 cannot encode a picture of 2 x 2; the other codec is not affected."""
    installed("hevc")
    save_png(folder / "small.png", picture(2, 2))
    assert command.main(["--set", "four", "--root", str(folder), "--codec", "hevc", "jpeg", "--jobs", "1"]) == 1
    printed = capsys.readouterr().err
    assert re.search(r"hevc is left out: small at QP 46: ffmpeg ended with exit status", printed)
    assert [path.name for path in (here / "outputs" / "anchors" / "four").glob("*.json")] == ["jpeg.json"]
    assert not list((here / "temporary").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "../x", "--root", "pictures"], "expected: letters, digits"),
        (["--set", "kodka"], "kodak"),
        (["--set", "folder"], "got: none\nto do: give the folder with --root"),
        (["--set", "x", "--root", "nowhere"], "got: nowhere\nto do: give the folder with --root"),
        (["--set", "kodak", "--root", "pictures"], "These are not the pictures of kodak"),
    ],
)
def test_invalid_arguments(folder, here, capsys, arguments, message):
    assert command.main([*arguments, "--codec", "jpeg"]) == 2
    assert message in capsys.readouterr().err
    assert not list(here.rglob("*.json"))


def test_unreadable_picture_stops_before_encoding(folder, here, capsys):
    (folder / "z.png").write_bytes(b"no picture")
    assert command.main(["--set", "three", "--root", str(folder), "--codec", "jpeg"]) == 2
    assert "z.png" in capsys.readouterr().err


def test_two_pictures_of_one_name_raise():
    with pytest.raises(DataError, match="twice"):
        run.read_pictures("two", [("a.png", picture(8, 8)), ("a.png", picture(8, 8, 1))])


def test_exact_reconstruction_has_no_psnr(here):
    """Middle grey is exact in JPEG: the PSNR is null, not infinity, also in the mean."""
    images = [("grey", torch.full((3, 32, 32), 128, dtype=torch.uint8)), ("other", picture(32, 32))]
    pictures = run.read_pictures("two", images)
    curve = run.make(ANCHORS["jpeg"], "v", pictures, here / "rows", 1, lambda: None)
    curves.save(here / "jpeg.json", curve)
    point = curves.load(here / "jpeg.json").points[0]
    assert point.psnr is None
    assert point.images[0].psnr is None
    assert point.images[1].psnr > 10


def test_progress_counts_every_row(folder, here):
    pictures = run.read_pictures("three", open_images(options(folder), Path()))
    steps = []
    run.make(ANCHORS["jpeg"], "v", pictures, here / "rows", 1, lambda: steps.append(1))
    assert len(steps) == len(pictures.names) * len(ANCHORS["jpeg"].rates)


def test_missing_pillow_library_raises(monkeypatch):
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    for key in ("avif", "webp", "jpeg2000"):
        with pytest.raises(AnchorError, match="built without it"):
            ANCHORS[key].require()
    with pytest.raises(AnchorError, match="install pillow-jxl-plugin"):
        ANCHORS["jxl"].require()


def test_file_of_another_format_raises(tmp_path):
    """The decoder does not detect formats: a PNG with a JPEG suffix raises."""
    Image.new("RGB", (8, 8)).save(tmp_path / "p.jpg", "PNG")
    with pytest.raises(AnchorError):
        ANCHORS["jpeg"].decode(tmp_path / "p.jpg", 8, 8)
