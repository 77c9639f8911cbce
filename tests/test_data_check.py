"""The check of a scraped collection before training, and training on the same collection."""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lic_train.data.archives.indexed import Cache
from lic_train.data.archives.opening import open_source
from lic_train.data.check import __main__ as check
from lic_train.data.check.looks import Look, Summary, look_at
from lic_train.data.module import Photographs
from lic_train.data.sets.sources import FolderSource, folder
from lic_train.errors import DataError
from tests.made_up import png, tar_bytes, write_tree, zip_bytes
from tests.scraped import CROP, DAMAGED, UNUSUAL, WHOLE, scraped

COPY = "dir.png/inside.png"  # a copy of good/000.png


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return scraped(tmp_path_factory.mktemp("sets") / "scraped")


def run(root: Path, to: Path, *options: str) -> tuple[int, dict, str]:
    """Run a check and return exit status, report and page."""
    status = check.main([str(root), "--to", str(to), "--crop", str(CROP), "--jobs", "2", *options])
    (folder,) = to.iterdir()
    return status, json.loads((folder / "report.json").read_text()), (folder / "index.html").read_text()


# ---- the check


def test_every_file_has_its_expected_result(root):
    source = FolderSource(root)
    looks = {source.name(i): look_at(source, i, CROP) for i in range(len(source))}
    assert set(looks) == set(WHOLE) | set(DAMAGED) | set(UNUSUAL) | {COPY}
    for name, look in looks.items():
        if name in DAMAGED:
            assert DAMAGED[name] in look.damage, name
        else:
            assert look.damage == "", name
            assert set(look.notes) == UNUSUAL.get(name, set()), name
    assert (source.index.hidden, sum(source.index.others.values())) == (3, 5)  # two pipes among the others


def test_check_lists_and_counts_everything(root, tmp_path, capsys):
    status, report, _ = run(root, tmp_path)
    assert status == 1
    assert {entry["file"]: True for entry in report["damaged"]} == dict.fromkeys(DAMAGED, True)
    assert all(DAMAGED[entry["file"]] in entry["reason"] for entry in report["damaged"])
    expected = {kind: sum(kind in kinds for kinds in UNUSUAL.values()) for kind in report["notes"]}
    assert report["notes"] == expected
    assert report["copies"] == [{"file": "good/000.png", "of": COPY}]
    output = capsys.readouterr().out
    for name in DAMAGED:
        assert name in output
    assert "Training continues" in output
    assert all(len(line) <= 80 for line in output.splitlines() if not line.startswith(("page", "report")))


class Reader(HTMLParser):
    """Collects the tags, sources and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.text += data


def test_page_escapes_names_and_loads_nothing(tmp_path):
    names = ["<script>alert(1)</script>.jpg", "a'b\"&amp;.png", "\u202egnp.png", "caf\udce9.png"]
    small = {name: png(i, 10, 10) for i, name in enumerate(names[1:])}
    jpeg = io.BytesIO()
    Image.open(io.BytesIO(png(7, 90, 90))).save(jpeg, "JPEG")
    try:
        write_tree(tmp_path / "set", small | {names[0]: jpeg.getvalue()[:3000], "whole.png": png(8, 90, 90)})
    except OSError:
        pytest.skip("this file system does not support these names")
    _, report, page = run(tmp_path / "set", tmp_path / "out")
    assert report["damaged"][0]["file"] == names[0]
    reader = Reader()
    reader.feed(page)
    assert reader.tags.isdisjoint({"script", "link", "iframe", "object"})
    assert all(source.startswith("data:image/jpeg;base64,") for source in reader.sources)
    assert len(reader.sources) == 1 + 3 + 4  # a damaged image, three small ones, and all usable ones by bits
    assert names[0] in reader.text
    assert names[1] in reader.text
    assert "\u202e" not in page
    assert not re.search(r"https?://", page)


def test_exit_status(tmp_path, capsys):
    good = {f"{i}.png": png(i, 40, 40) for i in range(30)}
    write_tree(tmp_path / "good", good)
    assert run(tmp_path / "good", tmp_path / "a")[0] == 0
    write_tree(tmp_path / "one", good | {"bad.png": b"x"})
    assert run(tmp_path / "one", tmp_path / "b")[0] == 1
    write_tree(tmp_path / "many", good | {f"bad{i}.png": b"x" for i in range(3)})
    assert run(tmp_path / "many", tmp_path / "c")[0] == 2
    assert "more than 5%" in capsys.readouterr().out
    assert check.main([str(tmp_path / "nothing"), "--to", str(tmp_path / "d")]) == 2
    assert "No folder or archive" in capsys.readouterr().err
    tar = tar_bytes({name: data * 9 for name, data in good.items()})
    write_tree(tmp_path, {"cut.tar": tar[: len(tar) - 12000]})
    status, report, page = run(tmp_path / "cut.tar", tmp_path / "e")
    assert status == 1
    assert "cut short" in report["archives"][0]["reason"]
    assert "cut short" in page


def test_archives_and_folders_have_equal_reports(tmp_path):
    files = dict(list(WHOLE.items())[:40]) | {"bad.png": b"x"}
    write_tree(tmp_path, {"x.zip": zip_bytes(files), "x.tar": tar_bytes(files)})
    write_tree(tmp_path / "x", files)
    reports = []
    for name in ("x", "x.zip", "x.tar"):
        _, report, _ = run(tmp_path / name, tmp_path / f"out{name}")
        reports.append({key: value for key, value in report.items() if key != "root"})
    assert reports[0] == reports[1] == reports[2]
    assert reports[0]["damaged"][0]["file"] == "bad.png"


def test_dying_process_ends_the_check_with_an_error(tmp_path, monkeypatch, capsys):
    write_tree(tmp_path / "set", {f"{i}.png": png(i, 8, 8) for i in range(3)})
    monkeypatch.setattr(check, "look_at", lambda *_: os.kill(os.getpid(), 9))
    assert check.main([str(tmp_path / "set"), "--to", str(tmp_path / "out"), "--jobs", "2"]) == 2
    assert "--jobs" in capsys.readouterr().err


def test_command_line(tmp_path):
    write_tree(tmp_path / "set", {"a.png": png(0, 40, 40)})
    command = [sys.executable, "-m", "lic_train.data.check", str(tmp_path / "set"), "--crop", "32"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs/data_check/set/index.html").exists()


def test_summary_does_not_depend_on_the_order():
    chance = np.random.default_rng(0)
    looks = [
        Look(i, "bad" if i % 50 == 7 else "", ("small",), i % 9 + 1, 20, chance.random(), 5.0, i % 70)
        for i in range(200)
    ]
    summaries = []
    for order in (range(200), chance.permutation(200)):
        summary = Summary()
        for i in order:
            summary.add(looks[i])
        summaries.append(
            (summary.worst("small"), summary.worst("bits"), summary.copies(), summary.sides(), summary.notes)
        )
    assert summaries[0] == summaries[1]
    worst, _, copies, sides, notes = summaries[0]
    whole = [i for i in range(200) if i % 50 != 7]
    worst_of_two = 24 - sum(i % 9 == 0 for i in whole)
    assert [i % 9 for i, _ in worst] == [0] * (24 - worst_of_two) + [1] * worst_of_two
    firsts: dict[int, int] = {}
    assert copies == [(i, firsts[i % 70]) for i in whole if firsts.setdefault(i % 70, i) != i]
    assert sides[0] == 1
    assert notes["small"] == len(whole)


# ---- training on the same collection


def test_training_continues_and_reports_each_damaged_file_once(root, tmp_path, capsys):
    def data(workers: int) -> Photographs:
        return Photographs(folder, root=str(root), crop=CROP, batch_size=8, num_workers=workers, seed=0)

    runs = []
    for workers in (0, 2):
        loader = data(workers).stream()
        runs.append(list(itertools.islice(iter(loader), 100)))  # more than two epochs
        loader.close()
    assert all(torch.equal(a["x"], b["x"]) for a, b in zip(*runs, strict=True))
    photographs = data(0)
    report = photographs.report(tmp_path)
    for batch in runs[0]:
        report.add(batch)
    report.write()
    output, written = capsys.readouterr().out, json.loads((tmp_path / "data_report.json").read_text())
    failed = {entry["file"]: entry["reason"] for entry in written["damaged"]}
    in_training = {photographs.train.name(i) for i in range(len(photographs.train))}
    assert set(failed) == set(DAMAGED) & in_training
    assert all(DAMAGED[name] in reason for name, reason in failed.items())
    assert all(output.count(f"{name} (") == 1 for name in failed)


def _check_without_privileges(check_root: Path, results) -> None:
    if os.geteuid() == 0:  # root may read everything
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        source = open_source(str(check_root), Cache())
        results.put([look_at(source, i, CROP).damage for i in range(len(source))])
    except DataError as error:
        results.put(str(error))


def test_file_without_permission_is_damaged_and_folder_raises():
    with tempfile.TemporaryDirectory() as name:  # other users cannot read the folders of pytest
        Path(name).chmod(0o755)
        root = write_tree(Path(name) / "set", {"a.png": png(0, 40, 40), "b/b.png": png(1, 40, 40)})
        (root / "a.png").chmod(0)
        assert _damage_without_privileges(root) == ["Permission denied", ""]
        for closed in (root / "b", root, Path(name)):
            closed.chmod(0)
            assert re.match(r"Cannot (list|read) .*: Permission denied", str(_damage_without_privileges(root)))
            closed.chmod(0o755)


def _damage_without_privileges(root: Path) -> list[str] | str:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_check_without_privileges, args=(root, results))
    process.start()
    result = results.get(timeout=300)
    process.join(60)
    return result
