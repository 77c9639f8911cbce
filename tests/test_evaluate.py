"""Evaluation: rows and result files agree with the .lic files, tables fit the terminal, differences are reported."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from lic_train.data.decode.images import save_png
from lic_train.errors import ConfigError, DataError
from lic_train.evaluate.__main__ import main
from lic_train.evaluate.bench import Settings
from lic_train.evaluate.measure import same_picture
from lic_train.evaluate.results import DEFINITIONS, Result, Row, describe
from lic_train.evaluate.run import evaluate, evaluate_run, show
from lic_train.evaluate.sets import SetOptions, open_images, read_options
from lic_train.files.bitstream import decode, estimate
from lic_train.models.base import Codec
from lic_train.rd import metrics
from lic_train.runs.load import load_run
from tests.conftest import SHARED
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


def test_rows_agree_with_the_files(run, result):
    codec, metadata = load_run(run)
    assert [row["name"] for row in result["rows"]] == ["large", "sub_odd", "dot"]
    for row, (_, image) in zip(result["rows"], IMAGES, strict=True):
        data = (run / "eval" / "three" / f"{row['name']}.lic").read_bytes()
        x = image.float() / 255
        x_hat = decode(codec, data, metadata.fingerprint)
        height, width = image.shape[1:]
        assert (row["height"], row["width"], row["bytes"]) == (height, width, len(data))
        assert row["bpp_file"] == 8 * len(data) / (height * width)
        assert row["bpp"] == pytest.approx(estimate(codec, x).bits / (height * width))
        mse = np.mean((metrics.to_8bit(x_hat).numpy() - image.numpy().astype(float)) ** 2)
        assert row["psnr"] == pytest.approx(10 * math.log10(255**2 / mse), abs=1e-3)
        assert row["equal"] is True
        assert row["max_difference"] < 1e-5
        assert row["encode_seconds"] > 0
        assert row["decode_seconds"] > 0
    x = IMAGES[0][1].float() / 255
    similarity = metrics.ms_ssim(x, estimate(codec, x).x_hat)
    assert result["rows"][0]["ms_ssim"] == pytest.approx(float(similarity), abs=1e-5)
    assert [row["ms_ssim"] for row in result["rows"][1:]] == [None, None]


def test_result_file_describes_images_model_and_environment(run, result):
    stored = json.loads((run / "eval" / "three.json").read_text())
    assert stored == result
    rows = stored["rows"]
    assert stored["images"] == 3
    assert stored["mean"]["psnr"] == pytest.approx(sum(row["psnr"] for row in rows) / 3)
    assert stored["mean"]["bpp_file"] == pytest.approx(sum(row["bpp_file"] for row in rows) / 3)
    assert stored["mean"]["ms_ssim"] is None
    best = run / "checkpoints" / "best.safetensors"
    assert stored["checkpoint"] == {
        "file": "checkpoints/best.safetensors",
        "sha256": hashlib.sha256(best.read_bytes()).hexdigest(),
    }
    assert stored["fingerprint"] == load_run(run)[1].fingerprint.hex()
    assert stored["model"] == HYPERPRIOR
    assert stored["training"] == {"lambda": 0.0067, "step": 7}
    assert stored["environment"]["torch"] == torch.__version__
    assert stored["environment"]["threads"] == torch.get_num_threads()
    assert {"device", "python", "platform", "compressai"} <= stored["environment"].keys()
    assert set(rows[0]) - {"name", "width", "height", "bytes"} <= set(stored["definitions"])
    assert str(run) not in json.dumps(stored)


def test_result_file_validates_as_result(run, result):
    stored = json.loads((run / "eval" / "three.json").read_text())
    read = Result.model_validate(stored)
    assert [row.model_dump(exclude_unset=True) for row in read.rows] == stored["rows"]
    assert read.mean.model_dump(exclude_unset=True) == {key: stored["mean"][key] for key in read.mean.model_fields_set}
    names = {field.alias or name for name, field in Row.model_fields.items()}
    assert names - {"name", "width", "height", "bytes"} <= set(DEFINITIONS)
    assert read.row("dot").width == 1
    assert read.row("none") is None
    with pytest.raises(ValueError, match="two rows have the same name"):
        Result.model_validate({**stored, "rows": [stored["rows"][0]] * 2})


def test_image_list_hash_depends_on_names_and_pixels(run, result, tmp_path):
    def list_hash(images):
        return evaluate_run(run / "checkpoints" / "best.safetensors", images, "x", settings=Settings(panels=0))[
            "image_list_sha256"
        ]

    digest = hashlib.sha256()
    for name, image in [("a", IMAGES[2][1]), ("b", IMAGES[1][1])]:
        digest.update(f"{name}\0{image.shape[1]}\0{image.shape[2]}\0".encode())
        digest.update(image.permute(1, 2, 0).contiguous().numpy().tobytes())
    assert list_hash([("a.png", IMAGES[2][1]), ("b.png", IMAGES[1][1])]) == digest.hexdigest()
    assert list_hash([("a.png", IMAGES[2][1])]) != list_hash([("b.png", IMAGES[2][1])])


def test_first_images_have_panels(run, result):
    drawn = sorted(path.name for path in (run / "pictures").glob("three_*.png"))
    assert drawn == ["three_large.png", "three_sub_odd.png"]
    assert Image.open(run / "pictures" / drawn[0]).width > 600


def test_table_fits_80_columns(run, result):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    long = {**result["rows"][0], "name": "a_very_long_name_of_a_photograph", "psnr": None, "encode_seconds": 1234.5}
    show({**result, "rows": [long, *result["rows"]]}, run, console)
    lines = console.export_text().splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("results"))]
    assert max(map(len, table)) <= 80
    heading = next(line for line in table if "bpp_file" in line)
    assert heading.split() == ["picture", "bpp_file", "bpp", "PSNR", "MS-SSIM", "enc", "s", "dec", "s", "equal"]
    large = next(line for line in table if line.lstrip().startswith("large")).split()
    row = result["rows"][0]
    assert large[1:5] == [f"{row['bpp_file']:.4f}", f"{row['bpp']:.4f}", f"{row['psnr']:.2f}", f"{row['ms_ssim']:.4f}"]
    assert large[-1] == "yes"
    assert any("eval/three.json" in line for line in lines)


def test_table_shows_the_whole_level_of_24_pictures(run, result):
    # A file stores its level in steps of 1/1024: 2.7 becomes 2.7001953125.
    rows = [{**result["rows"][0], "name": f"kodim{number:02}", "level": 2765 / 1024} for number in range(1, 25)]
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show({**result, "rows": rows, "levels": [{"level": 2765 / 1024, "mean": result["mean"]}]}, run, console)
    text = console.export_text()
    assert "kodim24 @ 2.7 " in text
    assert "mean of 24 @ 2.7 " in text


def test_wrong_reconstruction_is_red_and_fails(run, tmp_path, capsys, monkeypatch):
    _, metadata = load_run(run)
    wrong = make_codec(HYPERPRIOR)
    with torch.no_grad():
        wrong.g_s[-1].bias += 2 / 255  # simulates a decoder on a different machine
    result = evaluate(
        make_codec(HYPERPRIOR), wrong, IMAGES[:1], tmp_path, "bad", describe(metadata), settings=Settings(panels=0)
    )
    assert result["rows"][0]["equal"] is False
    assert result["mean"]["equal"] is False
    assert result["rows"][0]["max_difference"] == pytest.approx(2 / 255, rel=0.1)
    console = Console(width=80, record=True, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(result, tmp_path, console)
    text = console.export_text(styles=True)
    assert "\x1b[1;31mlarge" in text
    assert "decoded differently from the encoder: large" in text
    monkeypatch.setattr("lic_train.evaluate.__main__.evaluate_run", lambda *_: result)
    save_png(tmp_path / "set" / "large.png", IMAGES[0][1])
    assert main([str(run), "eval=folder", f"eval.root={tmp_path / 'set'}", "eval.name=bad"]) == 1


def test_same_picture_ignores_only_float_order():
    a = torch.full((3, 4, 4), 100.5 / 255)
    assert same_picture(a - 1e-6, a + 1e-6)  # on both sides of a rounding boundary
    assert not same_picture(a - 1e-6, a + 1e-3)
    assert same_picture(a + 0.1 / 255, a + 0.4 / 255)  # the same in 8 bits
    b = a.clone()
    b[2, 3, 3] += 1 / 255
    assert not same_picture(a, b)


def test_psnr_of_equal_images_is_null(run, tmp_path):
    class Lossless(Codec):
        downsampling_factor = 1

        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return {"x_hat": x, "likelihoods": {"y": torch.full_like(x, 2.0**-8)}}

        def compress(self, x):
            return {"strings": [bytes((x * 255).round().byte().flatten().tolist())], "shape": x.shape[2:]}

        def decompress(self, strings, shape):
            return {"x_hat": torch.tensor(list(strings[0])).view(1, 3, *shape) / 255}

    info = describe(load_run(run)[1])
    result = evaluate(Lossless(), Lossless(), IMAGES[:1], tmp_path, "lossless", info, settings=Settings(panels=1))
    row = json.loads((tmp_path / "eval" / "lossless.json").read_text())["rows"][0]
    assert row["psnr"] is None
    assert row["ms_ssim_db"] is None
    assert row["bpp"] == pytest.approx(24)
    assert result["mean"]["psnr"] is None


def test_pictures_that_need_more_memory_than_the_machine_has_are_named_before_coding(
    run, tmp_path, monkeypatch, capsys
):
    for name, height in (("small", 40), ("large", 41)):
        save_png(tmp_path / "set" / f"{name}.png", torch.zeros(3, height, 50, dtype=torch.uint8))
    command = [str(run), "eval=folder", f"eval.root={tmp_path / 'set'}", "eval.name=memory", "panels=0"]
    monkeypatch.setattr("lic_train.evaluate.run.memory_bytes", lambda: 80 * 40 * 50)
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "1 of 2 images of the evaluation set cannot be used" in message
    assert "large.png: 2,050 pixels need" in message
    assert not list((run / "eval").glob("memory*"))
    monkeypatch.setattr("lic_train.evaluate.run.memory_bytes", lambda: 80 * 41 * 50)
    assert main(command) == 0


def test_names_are_unique(run, tmp_path):
    best = run / "checkpoints" / "best.safetensors"
    dot = IMAGES[2][1]
    result = evaluate_run(best, [("a.png", dot), ("a.jpg", dot), ("../b", dot)], "names", settings=Settings(panels=0))
    assert [row["name"] for row in result["rows"]] == ["a", "a.jpg", "_b"]
    written = sorted(path.name for path in (best.parent / "best" / "eval" / "names").glob("*.lic"))
    assert written == ["_b.lic", "a.jpg.lic", "a.lic"]
    with pytest.raises(DataError, match=r"got: 'a\.png' twice"):
        evaluate_run(best, [("a.png", dot), ("a.png", dot)], "names", settings=Settings(panels=0))
    with pytest.raises(DataError, match="at least one image"):
        evaluate_run(best, [], "names")


def test_command_line_on_a_folder(run, tmp_path, capsys):
    for number in range(3):
        save_png(tmp_path / "set" / f"{number}.png", picture(20, 30, number))
    arguments = [str(run), "eval=folder", "eval.name=mine", f"eval.root={tmp_path / 'set'}", "eval.limit=2", "panels=0"]
    assert main(arguments) == 0
    stored = json.loads((run / "eval" / "mine.json").read_text())
    assert [row["name"] for row in stored["rows"]] == ["0", "1"]
    assert "mine.json" in capsys.readouterr().out


def test_heldout_set_is_the_validation_set_of_the_run(run, tmp_path):
    folder = tmp_path / "photographs"
    for part, count in (("train", 2), ("val", 3)):
        for number in range(count):
            save_png(folder / part / f"{part}_{number}.png", picture(70, 80, number))
    config = f"""
crop: 64
batch_size: 2
data:
  _target_: lic_train.data.module.Photographs
  source: {{_target_: lic_train.data.sets.sources.folder, _partial_: true}}
  root: {folder}
"""
    (run / ".hydra").mkdir()
    (run / ".hydra" / "config.yaml").write_text(config)
    options = read_options(["eval=heldout"]).eval
    assert [name for name, _ in open_images(options, run)] == ["val/val_0.png", "val/val_1.png"]
    everything = SetOptions(name="heldout", root=None, limit=None)
    images = list(open_images(everything, run))
    assert len(images) == 3
    assert torch.equal(images[2][1], picture(70, 80, 2))


@pytest.mark.parametrize("place", range(4))
def test_flags_may_be_anywhere_on_the_command_line(run, tmp_path, monkeypatch, place):
    settings = []

    def stop(*arguments):
        settings.append(arguments[-1])
        raise DataError("stopped here")

    monkeypatch.setattr("lic_train.evaluate.__main__.evaluate_run", stop)
    save_png(tmp_path / "a.png", IMAGES[2][1])
    words = [str(run), "eval=folder", f"eval.root={tmp_path}", "panels=0"]
    assert main([*words[:place], "--save-images", *words[place:], "--quality-map"]) == 2
    assert settings == [Settings(panels=0, save_images=True, quality_map=True)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval=kodac", r"no eval 'kodac'(.*\n)+.*did you mean kodak\?"),
        ("chekpoint=last", r"no key 'chekpoint'(.*\n)+.*did you mean checkpoint\?"),
        ("eval.rot=x", r"no key 'eval.rot'(.*\n)+.*did you mean eval.root"),
        ("kodak", "expected: KEY=VALUE"),
        ("eval.limit=0", "eval.limit: .*greater than 0"),
        ("eval.limit=many", "eval.limit: .*integer"),
        ("panels=-1", "panels: "),
        ("eval.name=a/b", "eval.name: "),
        ("eval.limit=[", "The value of eval.limit cannot be read"),
        ("metrics=ssin", r"'ssin'(.|\n)*did you mean ssim"),
        ("metrics=ssim,ssim", "named twice"),
    ],
)
def test_invalid_override_raises_with_the_nearest_names(override, message):
    with pytest.raises(ConfigError, match=message):
        read_options([override])


def test_every_shipped_set_composes():
    for name in ("clic", "folder", "heldout", "kodak", "tecnick"):
        options = read_options([f"eval={name}", "checkpoint=last", *(["eval.root=x"] if name == "folder" else [])])
        assert options.eval.name == name
        assert options.checkpoint == "last"


def test_missing_set_is_an_error(run, tmp_path, capsys):
    assert main([str(run), "eval=kodak", f"eval.root={tmp_path / 'none'}"]) == 2
    assert f"expected: images in {tmp_path / 'none'}\ngot: no such folder" in capsys.readouterr().err
    assert main([str(run), "eval=folder"]) == 2
    assert "set eval.root=/path/to/images" in capsys.readouterr().err
    assert main([str(run / "checkpoints" / "best.safetensors"), "eval=heldout"]) == 2
    assert "evaluate on a folder of images instead" in capsys.readouterr().err
    assert main([str(tmp_path), "eval=heldout"]) == 2
    assert "There are no runs with checkpoints in" in capsys.readouterr().err
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(b"broken")
    assert main([str(run), "eval=folder", f"eval.root={tmp_path / 'set'}"]) == 2
    (tmp_path / "set" / "b.png").write_bytes(b"broken")
    assert main([str(run), "eval=folder", f"eval.root={tmp_path / 'set'}"]) == 2
    shown = capsys.readouterr().err
    assert "2 of 2 images" in shown
    assert "a.png: not an image" in shown
    assert "b.png: not an image" in shown


@pytest.mark.skipif(not (SHARED / "kodak").is_dir(), reason="the Kodak images are not available")
def test_kodak(run):
    assert main([str(run), "eval=kodak", f"eval.root={SHARED / 'kodak'}", "eval.limit=1", "panels=0"]) == 0
    row = json.loads((run / "eval" / "kodak.json").read_text())["rows"][0]
    assert (row["name"], row["width"], row["height"]) == ("kodim01", 768, 512)
    assert row["equal"]
