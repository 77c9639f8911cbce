"""Evaluation of a loaded codec from Python."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lic_train.codec.load import load
from lic_train.data.decode.images import save_png
from lic_train.errors import ConfigError, DataError
from lic_train.evaluate.api import evaluate
from lic_train.evaluate.bench import Settings
from lic_train.evaluate.protocol import Protocol
from lic_train.evaluate.results import Result
from lic_train.evaluate.run import evaluate_run
from tests.tiny import HYPERPRIOR, SERIAL, make_run, picture


def without_times(row: dict) -> dict:
    return {name: value for name, value in row.items() if not name.endswith("_seconds")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    make_run(path, config=HYPERPRIOR)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "Photographs"
    for number in range(3):
        save_png(folder / f"{number}.png", picture(45, 50, number))
    return folder


def test_folder_gives_the_rows_of_the_command(run, photographs, tmp_path):
    evaluation = evaluate(load(run), photographs, metrics=["ssim"], limit=2)
    images = [(f"{number}.png", picture(45, 50, number)) for number in range(2)]
    expected = evaluate_run(run, images, "photographs", settings=Settings(panels=0, metrics=("ssim",)))
    assert [without_times(row) for row in evaluation.rows] == [without_times(row) for row in expected["rows"]]
    assert evaluation.mean["psnr"] == expected["mean"]["psnr"]
    assert evaluation.content["set"] == "photographs"
    assert evaluation.content["image_list_sha256"] == expected["image_list_sha256"]
    evaluation.save(tmp_path / "new" / "result.json")
    stored = json.loads((tmp_path / "new" / "result.json").read_text())
    assert stored == evaluation.content
    Result.model_validate(stored)


def test_kinds_of_images_give_equal_results(run, photographs):
    image = picture(45, 50, 0)
    array = image.permute(1, 2, 0).numpy()
    kinds = [
        photographs / "0.png",
        str(photographs / "1.png"),
        Image.fromarray(array),
        array,
        image.float() / 255,
    ]
    rows = evaluate(load(run), iter(kinds)).rows
    assert [row["name"] for row in rows] == ["0", "1", "0003", "0004", "0005"]
    assert {row["psnr"] for row in rows[2:]} == {rows[0]["psnr"]}
    assert {row["bytes"] for row in rows[2:]} == {rows[0]["bytes"]}


def test_options_with_which_authors_measured(run, photographs):
    options = {"padding": "zero_centred", "multiple": 128, "psnr": "float"}
    evaluation = evaluate(load(run), photographs, limit=1, **options)
    settings = Settings(panels=0, protocol=Protocol(**options))
    expected = evaluate_run(run, [("0.png", picture(45, 50, 0))], "photographs", settings=settings)
    assert [without_times(row) for row in evaluation.rows] == [without_times(row) for row in expected["rows"]]
    assert evaluation.content["protocol"] == {**options, "tile": None}
    assert "zeros, on all sides" in evaluation.content["definitions"]["padding"]
    house = evaluate(load(run), photographs, limit=1)
    assert house.rows[0]["bytes"] < evaluation.rows[0]["bytes"]
    assert house.content["protocol"] == {"padding": "replicate", "multiple": None, "psnr": "uint8", "tile": None}


def test_out_keeps_files_and_rows(run, photographs, tmp_path):
    codec = load(run)
    first = evaluate(codec, photographs, name="mine", out=tmp_path, limit=1, panels=1, save_images=True)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    files = {"eval/mine.json", "eval/mine/0.json", "eval/mine/0.lic", "eval/mine/decoded/0.png", "pictures/mine_0.png"}
    assert written == files
    assert evaluate(codec, photographs, name="mine", out=tmp_path, limit=1, panels=1, save_images=True) == first


def test_decoder_is_a_second_instance(run, photographs, monkeypatch):
    instances = []

    def pair(encoder, decoder, *_):
        instances.extend([encoder, decoder])
        return {}

    monkeypatch.setattr("lic_train.evaluate.api.evaluate_pair", pair)
    codec = load(run)
    evaluate(codec, photographs)
    encoder, decoder = instances
    assert encoder is codec.model
    storages = [{value.data_ptr() for value in model.state_dict().values() if value.numel()} for model in instances]
    assert not storages[0] & storages[1]
    assert all(torch.equal(value, decoder.state_dict()[name]) for name, value in encoder.state_dict().items())
    assert not decoder.training


def test_serial_context_model_is_evaluated(tmp_path, photographs):
    make_run(tmp_path, config=SERIAL)
    assert evaluate(load(tmp_path), photographs, limit=1).mean["equal"]


def test_to_pandas(run, photographs, monkeypatch):
    evaluation = evaluate(load(run), photographs, limit=2)
    pandas = pytest.importorskip("pandas")
    frame = evaluation.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["name"].tolist() == ["0", "1"]
    assert frame["bytes"].mean() == evaluation.mean["bytes"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        evaluation.to_pandas()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8)),
        np.zeros((8, 8, 3), dtype=np.float32),
        torch.zeros(1, 3, 8, 8),
        torch.full((3, 8, 8), 255.0),
        torch.full((3, 8, 8), float("nan")),
        None,
    ],
)
def test_object_that_is_not_an_image_raises(run, image):
    with pytest.raises(DataError, match="expected: a"):
        evaluate(load(run), [image])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a/b"}, "name: "),
        ({"limit": 0}, "limit: "),
        ({"padding": "mirror"}, "padding: .*'zero_centred'"),
        ({"psnr": "int"}, "psnr: "),
        ({"multiple": 0}, "multiple: "),
        ({"multiple": 100}, "eval.multiple"),
        ({"tile": -1}, "tile: "),
        ({"metrics": ["ssin"]}, "did you mean ssim"),
    ],
)
def test_invalid_option_raises(run, photographs, options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(load(run), photographs, **options)


def test_missing_images_raise(run, tmp_path):
    with pytest.raises(DataError):
        evaluate(load(run), tmp_path / "none")
    with pytest.raises(DataError, match=r"none\.png"):
        evaluate(load(run), [tmp_path / "none.png"])
    with pytest.raises(DataError, match="expected: at least one image"):
        evaluate(load(run), [])
