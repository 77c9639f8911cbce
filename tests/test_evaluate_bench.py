"""Evaluation of many images: kept files, resumption, several processes, and the parts of the times."""

from __future__ import annotations

import io
import json
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from lic_train.data.decode.images import save_png
from lic_train.entropy.stopwatch import coding_time, entropy_coding
from lic_train.errors import BitstreamError, CheckpointError, ConfigError
from lic_train.evaluate.__main__ import main
from lic_train.evaluate.bench import Bench, Settings, Task, load_bench, measure_all
from lic_train.evaluate.measure import _timed, code, compare
from lic_train.evaluate.pictures import ERROR_GAIN
from lic_train.evaluate.results import describe
from lic_train.evaluate.run import evaluate, evaluate_run
from lic_train.files.bitstream import decode
from lic_train.rd import metrics
from lic_train.runs.load import load_run
from tests.tiny import HYPERPRIOR, make_codec, make_run, picture

IMAGES = [("large.png", picture(170, 180, 1)), ("sub/odd.jpg", picture(97, 131, 2)), ("dot", picture(1, 1, 3))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    make_run(path, config=HYPERPRIOR)
    return path


@pytest.fixture(scope="module")
def result(run):
    return evaluate_run(run, IMAGES, "three", settings=Settings(panels=2))


def test_second_evaluation_measures_only_missing_images(run, tmp_path, monkeypatch):
    names = []

    def watched(encoder, decoder, name, *rest):
        names.append(name)
        return code(encoder, decoder, name, *rest)

    monkeypatch.setattr("lic_train.evaluate.bench.code", watched)
    info = describe(load_run(run)[1])
    codec = make_codec(HYPERPRIOR)

    def again(images=IMAGES, **settings):
        names.clear()
        result = evaluate(codec, codec, images, tmp_path, "again", info, Settings(panels=1, **settings))
        return result, list(names)

    first, measured = again()
    assert measured == ["large", "sub_odd", "dot"]
    assert again() == (first, [])
    (tmp_path / "eval" / "again" / "sub_odd.lic").write_bytes(b"cut short")
    assert again()[1] == ["sub_odd"]
    (tmp_path / "eval" / "again" / "dot.json").write_text("{")
    (tmp_path / "pictures" / "again_large.png").unlink()
    assert again()[1] == ["large", "dot"]
    changed = [*IMAGES[:2], ("dot", 255 - IMAGES[2][1])]
    assert again(changed)[1] == ["dot"]
    assert again(changed, repeats=2)[1] == ["large", "sub_odd", "dot"]
    assert again(changed, repeats=2, fresh=True)[1] == ["large", "sub_odd", "dot"]
    assert again(changed, repeats=2, metrics=("ssim",))[1] == ["large", "sub_odd", "dot"]
    assert again(changed, repeats=2, metrics=("ssim",))[1] == []
    info["fingerprint"] = "00" * 8
    assert again(changed, repeats=2)[1] == ["large", "sub_odd", "dot"]


def test_invalid_settings_raise():
    for settings in ({"repeats": 0}, {"jobs": 0}, {"panels": -1}):
        with pytest.raises(ValueError, match="expected repeats and jobs of at least 1"):
            Settings(**settings)


def test_infinite_estimate_raises(tmp_path):
    codec = make_codec(HYPERPRIOR)
    forward = codec.forward
    codec.forward = lambda x: {**forward(x), "likelihoods": {"y": torch.zeros(1, 1, 1, 1)}}
    with pytest.raises(BitstreamError, match="estimated rate of dot is not finite"):
        code(codec, codec, "dot", IMAGES[2][1], bytes(8), tmp_path / "dot.lic")


def test_two_processes_give_the_results_of_one(run, result):
    two = evaluate_run(run, IMAGES, "parallel", settings=Settings(panels=1, jobs=2))
    for key in ("name", "bytes", "equal", "width", "height"):
        assert [row[key] for row in two["rows"]] == [row[key] for row in result["rows"]]
    assert [row["psnr"] for row in two["rows"]] == pytest.approx([row["psnr"] for row in result["rows"]], abs=1e-4)
    assert two["image_list_sha256"] == result["image_list_sha256"]
    assert two["environment"]["jobs"] == 2
    assert (run / "pictures" / "parallel_large.png").exists()


def without_times(rows):
    return [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in rows]


@pytest.fixture
def overlapping(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr(Bench, "overlaps", True)


def test_overlapped_evaluation_gives_equal_rows_and_pictures(run, result, overlapping):
    settings = Settings(panels=1, metrics=("ssim",), save_images=True)
    overlapped = evaluate_run(run, IMAGES, "overlapped", settings=settings)
    rows = [{key: value for key, value in row.items() if key != "ssim"} for row in overlapped["rows"]]
    assert without_times(rows) == without_times(result["rows"])
    for stem in ("large", "sub_odd", "dot"):
        coded = [(run / "eval" / name / f"{stem}.lic").read_bytes() for name in ("overlapped", "three")]
        assert coded[0] == coded[1]
        assert (run / "eval" / "overlapped" / "decoded" / f"{stem}.png").exists()
    assert (run / "pictures" / "overlapped_large.png").exists()


def test_image_is_compared_while_the_next_one_is_coded(tmp_path, overlapping, monkeypatch):
    """The comparison of an image waits until the next one is being coded."""
    coding = {name: threading.Event() for name in ("sub_odd", "dot")}
    following = {"large": "sub_odd", "sub_odd": "dot"}

    def watched(encoder, decoder, name, *rest):
        if name in coding:
            coding[name].set()
        return code(encoder, decoder, name, *rest)

    def waiting(coded, protocol):
        if coded.name in following:
            assert coding[following[coded.name]].wait(60)
        return compare(coded, protocol)

    monkeypatch.setattr("lic_train.evaluate.bench.code", watched)
    monkeypatch.setattr("lic_train.evaluate.bench.compare", waiting)
    codec = make_codec(HYPERPRIOR)
    result = evaluate(codec, codec, IMAGES, tmp_path, "three", {"fingerprint": "00" * 8})
    assert [row["name"] for row in result["rows"]] == ["large", "sub_odd", "dot"]


@pytest.mark.parametrize("error", [BitstreamError("damaged"), KeyboardInterrupt()])
def test_overlapped_evaluation_stores_what_was_coded_before_an_error(error, tmp_path, overlapping, monkeypatch):
    def fails(encoder, decoder, name, *rest):
        if name == "dot":
            raise error
        return code(encoder, decoder, name, *rest)

    monkeypatch.setattr("lic_train.evaluate.bench.code", fails)
    codec = make_codec(HYPERPRIOR)
    with pytest.raises(type(error)):
        evaluate(codec, codec, IMAGES, tmp_path, "three", {"fingerprint": "00" * 8})
    assert sorted(path.name for path in (tmp_path / "eval" / "three").glob("*.json")) == ["large.json", "sub_odd.json"]


def test_error_of_the_comparison_ends_an_overlapped_evaluation(tmp_path, overlapping, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lic_train.evaluate.bench.atomic.replace_text", full)
    codec = make_codec(HYPERPRIOR)
    with pytest.raises(OSError, match="No space left"):
        evaluate(codec, codec, IMAGES, tmp_path, "three", {"fingerprint": "00" * 8})


def test_progress_bar_counts_images(run, tmp_path, monkeypatch):
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=80)
    monkeypatch.setattr("lic_train.evaluate.run.Console", lambda **options: terminal)
    codec = make_codec(HYPERPRIOR)
    evaluate(codec, codec, IMAGES, tmp_path, "three", describe(load_run(run)[1]))
    assert "three" in shown.getvalue()
    assert "3/3" in shown.getvalue()


def test_process_that_cannot_start_raises(run, tmp_path):
    broken = tmp_path / "broken.safetensors"
    tasks = [Task("dot", IMAGES[2][1].numpy(), None)]
    make = partial(load_bench, broken, "cpu", {}, tmp_path, Settings())
    with pytest.raises(ConfigError, match="use fewer jobs"):
        list(measure_all(tasks, make, 2))


def test_times_are_split_into_networks_and_coding(run, result):
    for row in result["rows"]:
        for side in ("encode", "decode"):
            model, coding = row[f"{side}_model_seconds"], row[f"{side}_coding_seconds"]
            assert model > 0
            assert coding > 0
            assert row[f"{side}_seconds"] == pytest.approx(model + coding)
        assert row["io_seconds"] > 0
    assert result["median"]["encode_seconds"] == sorted(row["encode_seconds"] for row in result["rows"])[1]
    assert result["environment"]["repeats"] == 1


def test_times_are_medians_of_the_calls(run, tmp_path, monkeypatch):
    ticks = iter([0.0, 5.0, 10.0, 11.0, 20.0, 22.0])  # calls of 5, 1 and 2 seconds
    monkeypatch.setattr("lic_train.evaluate.measure.time.perf_counter", lambda: next(ticks))
    last, seconds = _timed(lambda: "decoded", 3, torch.device("cpu"))
    assert (last, seconds) == ("decoded", (2.0, 2.0, 0.0))


def test_coding_time_counts_decorated_functions_inside_the_block():
    @entropy_coding
    def code():
        time.sleep(0.02)

    code()
    with coding_time() as outer:
        code()
        with coding_time() as inner:
            pass
    assert 0.02 <= outer.seconds < 1
    assert inner.seconds == 0
    before = outer.seconds
    code()
    assert outer.seconds == before


def test_decoded_images_and_maps_are_kept_if_requested(run, tmp_path):
    codec, metadata = load_run(run)
    settings = Settings(panels=0, save_images=True, quality_map=True)
    evaluate(codec, codec, IMAGES[:2], tmp_path, "kept", describe(metadata), settings)
    folder = tmp_path / "eval" / "kept"
    for stem, image in (("large", IMAGES[0][1]), ("sub_odd", IMAGES[1][1])):
        x_hat = decode(codec, (folder / f"{stem}.lic").read_bytes(), metadata.fingerprint)
        decoded = metrics.to_8bit(x_hat).numpy()
        pixels = np.asarray(Image.open(folder / "decoded" / f"{stem}.png")).transpose(2, 0, 1)
        assert (pixels == decoded).all()
        error = np.asarray(Image.open(folder / "error" / f"{stem}.png")).transpose(2, 0, 1)
        assert (error == np.minimum(np.abs(decoded - image.numpy()) * ERROR_GAIN, 255)).all()
        bits = Image.open(folder / "bits" / f"{stem}.png")
        assert bits.size == (image.shape[2], image.shape[1])
        assert "bits per pixel" in bits.text["Description"]


def test_stale_tables_raise(run, tmp_path):
    codec, metadata = load_run(run)
    with torch.no_grad():
        codec.entropy_bottleneck.biases[0] += 0.01
    with pytest.raises(CheckpointError, match="stale"):
        evaluate(codec, codec, IMAGES[2:], tmp_path, "stale", describe(metadata))
    codec.update()
    assert evaluate(codec, codec, IMAGES[2:], tmp_path, "stale", describe(metadata))["mean"]["equal"]


def test_tree_of_runs_on_two_sets(tmp_path, capsys):
    for name in ("a/r/lambda_0.01", "b/r/lambda_0.02", "b/r/lambda_0.03.old-1", "c/r/lambda_0.04"):
        make_run(tmp_path / "outputs" / name, config=HYPERPRIOR)
        (tmp_path / "outputs" / name / ".hydra").mkdir()
        (tmp_path / "outputs" / name / ".hydra" / "config.yaml").write_text("{}")
    (tmp_path / "outputs" / "c/r/lambda_0.04" / "checkpoints" / "best.safetensors").write_bytes(b"broken")
    for folder, number in (("x", 1), ("y", 2)):
        save_png(tmp_path / folder / "same_name.png", picture(20, 30, number))
    roots = f"eval.root=[{tmp_path / 'x'},{tmp_path / 'y'}]"
    assert main([str(tmp_path / "outputs"), "eval=kodak,folder", roots, "panels=0"]) == 2
    for run in ("a/r/lambda_0.01", "b/r/lambda_0.02"):
        for name in ("kodak", "folder"):
            stored = json.loads((tmp_path / "outputs" / run / "eval" / f"{name}.json").read_text())
            assert [row["name"] for row in stored["rows"]] == ["x_same_name", "y_same_name"]
    assert not (tmp_path / "outputs" / "b/r/lambda_0.03.old-1" / "eval").exists()
    printed = capsys.readouterr()
    assert printed.err.count("lambda_0.04: There is no intact checkpoint") == 2
    lines = [line for line in printed.out.splitlines() if line.lstrip().startswith(("a/r", "b/r"))]
    assert [line.split()[1] for line in lines] == ["kodak", "folder"] * 2
    assert max(map(len, printed.out.splitlines())) <= 80


def test_ctrl_c_prints_how_to_continue(run, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lic_train.evaluate.__main__.evaluate_run", interrupted)
    save_png(tmp_path / "a.png", IMAGES[2][1])
    assert main([str(run), "eval=folder", f"eval.root={tmp_path}"]) == 130
    assert "continues after the measured images" in capsys.readouterr().err
