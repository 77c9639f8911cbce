"""Comparisons: reconstructions are found or decoded again, verified, and cropped where the codecs differ."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lic_train.data.decode.images import read_image, save_png
from lic_train.evaluate.run import evaluate_run
from lic_train.files.bitstream import decode
from lic_train.files.checkpoint import load_model
from lic_train.rd.metrics import to_8bit
from lic_train.report.build import Options, _known_roots, build
from lic_train.report.comparisons import Comparer, most_different, typical
from lic_train.report.elements import Comparison, Section
from lic_train.report.gather import Gathered, gather
from lic_train.report.reconstructions import Reconstructions, find_originals
from lic_train.report.runs import read_runs
from lic_train.runs.layout import best_model
from tests.report_tree import put
from tests.tiny import FACTORIZED, HYPERPRIOR, make_run, picture

RUNS = {("bmshj2018_factorized", 0.01): FACTORIZED, ("bmshj2018_hyperprior", 0.01): HYPERPRIOR}
NAMES = ("a", "b_c")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """``photos/`` with a.png and b/c.png, and ``outputs/`` with two finished runs with real .lic files."""
    root = tmp_path_factory.mktemp("evaluated")
    images = {name: picture(48, 64, seed) for seed, name in enumerate(("a.png", "b/c.png"))}
    for name, image in images.items():
        save_png(root / "photos" / name, image)
    for seed, ((model, lmbda), config) in enumerate(RUNS.items()):
        run = root / "outputs" / model / model / f"lambda_{lmbda:g}"
        make_run(run, seed, config)
        evaluate_run(run, list(images.items()), "photos")
        content = {"lambda": lmbda, "distortion": "mse", "name": None, "steps": 7, "model": config}
        put(run / ".hydra/config.yaml", yaml.safe_dump(content))
        put(run / "finished.json", json.dumps({"step": 7, "results": {}}))
    return root


@pytest.fixture
def tree(evaluated, tmp_path) -> Path:
    """A copy that tests may damage."""
    return shutil.copytree(evaluated, tmp_path / "tree")


def gathered(tree: Path) -> Gathered:
    return gather(tree / "outputs", *read_runs(tree / "outputs"), "photos")


def comparer(tree: Path) -> Comparer:
    made = Reconstructions("photos", lambda: find_originals(tree / "photos", NAMES), tree / "made")
    return Comparer(gathered(tree), made)


def compare(tree: Path) -> tuple[Comparison | None, dict[str, str]]:
    compared = comparer(tree)
    found = compared("a", gathered(tree).curves)
    return found, {item.what: item.reason for item in compared.left_out()}


def test_reconstructions_are_decoded_from_the_files(tree):
    found, missing = compare(tree)
    assert missing == {}
    assert [shown.name for shown in found.pictures] == ["original", "bmshj2018_factorized", "bmshj2018_hyperprior"]
    run = gathered(tree).runs[0]
    codec, metadata = load_model(best_model(run.path))
    expected = to_8bit(decode(codec, (run.path / "eval/photos/a.lic").read_bytes(), metadata.fingerprint))
    shown = found.pictures[1]
    assert np.array_equal(read_image(shown.path).numpy(), expected.byte().numpy())
    assert (shown.bpp, shown.psnr) == (run.results["photos"].row("a").bpp_file, run.results["photos"].row("a").psnr)
    error = np.abs(expected.numpy() - read_image(tree / "photos/a.png").numpy()) * 8
    assert np.array_equal(read_image(shown.error).numpy(), np.minimum(error, 255))
    assert Image.open(shown.bits).size == (64, 48)


def test_second_report_reuses_decoded_pictures(tree):
    first, _ = compare(tree)
    for run in gathered(tree).runs:
        best_model(run.path).unlink()
    again, missing = compare(tree)
    assert missing == {}
    assert again == first


def test_saved_pictures_are_used(tree):
    run = gathered(tree).runs[0]
    codec, metadata = load_model(best_model(run.path))
    saved = run.path / "eval/photos/decoded/a.png"
    save_png(saved, decode(codec, (run.path / "eval/photos/a.lic").read_bytes(), metadata.fingerprint))
    best_model(run.path).unlink()
    found, missing = compare(tree)
    assert missing == {}
    assert (found.pictures[1].path, found.pictures[1].error) == (saved, None)


def damage_model(run: Path) -> None:
    best_model(run).write_bytes(b"nothing")


def damage_file(run: Path) -> None:
    path = run / "eval/photos/a.lic"
    path.write_bytes(path.read_bytes()[:-1])


def remove_file(run: Path) -> None:
    (run / "eval/photos/a.lic").unlink()


def other_model(run: Path) -> None:
    make_run(run, seed=5)


def other_picture(run: Path) -> None:
    save_png(run / "eval/photos/decoded/a.png", picture(48, 64, 9))


def other_size(run: Path) -> None:
    save_png(run / "eval/photos/decoded/a.png", picture(48, 65, 9))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_model, "cannot be read"),
        (damage_file, "The .lic file is cut short"),
        (remove_file, "the file is missing"),
        (other_model, "The .lic file is from another model"),
        (other_picture, "is not the one that was measured"),
        (other_size, "has another size. Expected: 64 × 48; got: 65 × 48"),
    ],
)
def test_codec_without_reconstruction_is_left_out(tree, damage, reason):
    damage(gathered(tree).runs[0].path)
    found, missing = compare(tree)
    assert [shown.name for shown in found.pictures] == ["original", "bmshj2018_hyperprior"]
    assert reason in missing["photographs by bmshj2018_factorized"]


def test_other_originals_are_detected(tree):
    save_png(tree / "photos/a.png", picture(48, 64, 9))
    found, missing = compare(tree)
    assert found is None
    assert len(missing) == 2
    assert all("is not the one that was measured" in reason for reason in missing.values())


def test_missing_originals_are_listed_once(tree):
    written = build(Options(tree / "outputs", tree / "report", set="photos", root=tree / "nowhere"))
    (missing,) = [item for item in written.left_out if "photographs" in item.what]
    assert missing.what == "photographs by bmshj2018_factorized, bmshj2018_hyperprior"
    assert "give the folder with --root" in missing.reason


def test_originals_are_found_by_the_root_of_the_runs(tree):
    for run in gathered(tree).runs:
        config = yaml.safe_load((run.path / ".hydra/config.yaml").read_text())
        config["eval"] = {"name": "photos", "root": str(tree / "photos")}
        put(run.path / ".hydra/config.yaml", yaml.safe_dump(config))
    written = build(Options(tree / "outputs", tree / "report", set="photos"))
    assert not [item for item in written.left_out if "photographs" in item.what]


def test_set_without_a_folder_of_its_own_is_searched_in_the_runs_only():
    assert _known_roots(Gathered(Path("outputs"), "folder")) == []


def test_page_and_files_contain_crops_of_report_and_paper(tree, monkeypatch):
    def sections(name, gather, compare):
        found = compare("photos", "b_c", gather("photos").curves, (8, 4, 32, 24))
        return [Section(name, [replace(found, key="paper_crops", title="As in the paper")])]

    monkeypatch.setattr("lic_train.report.build.papers.sections", sections)
    written = build(Options(tree / "outputs", tree / "report", set="photos", paper="iblic", root=tree / "photos"))
    page = (tree / "report/index.html").read_text()
    (crops,) = re.findall(r'id="element-paper_crops">(.*?)<div class="inspector"', page, re.DOTALL)
    shown = re.findall(r'data-codec="([^"]+)"><img data-layer="picture"[^>]*base64,([^"]+)"', crops)
    assert [name for name, _ in shown] == ["original", "bmshj2018_factorized", "bmshj2018_hyperprior"]
    assert {Image.open(io.BytesIO(base64.b64decode(data))).size for _, data in shown} == {(32, 24)}
    assert page.count("element comparison") == 1 + len(NAMES)
    files = {path.name for path in written.places["files"].iterdir()}
    assert {f"{key}.{kind}" for key in ("paper_crops", "picture_a", "picture_b_c") for kind in ("pdf", "png")} <= files
    assert not any("photographs" in item.what for item in written.left_out)


def test_names_of_originals_match_evaluation(tree):
    assert find_originals(tree / "photos", NAMES) == {"a": tree / "photos/a.png", "b_c": tree / "photos/b/c.png"}


def test_typical_photographs(tree):
    curves = gathered(tree).curves
    mean = {
        name: sum(image.psnr for c in curves for p in c.points for image in p.images if image.name == name)
        for name in NAMES
    }
    assert typical(curves) == sorted(NAMES, key=lambda name: mean[name])
    assert typical([]) == []


def test_crop_where_the_codecs_differ(tmp_path):
    grey = np.full((64, 96, 3), 128, np.uint8)
    paths = []
    for name, spots in {"original": [], "one": [(8, 8, 90), (40, 70, 60)], "two": [(8, 8, 90)]}.items():
        image = grey.copy()
        for top, left, value in spots:
            image[top : top + 8, left : left + 8] += np.uint8(value)
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(image).save(paths[-1])
    left, top, width, height = most_different(paths[0], paths[1:], (16, 12))
    assert (width, height) == (16, 12)
    assert left <= 70 <= 78 <= left + 16  # both have the same error at (8, 8)
    assert top <= 40 <= 48 <= top + 12
    left, top, *_ = most_different(paths[0], paths[1:2], (16, 12))  # one codec: its largest error
    assert left <= 8 <= 16 <= left + 16
    assert most_different(paths[0], paths[1:], (256, 192)) == (0, 0, 96, 64)
