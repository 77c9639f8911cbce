"""Everything that a scraped collection holds: the check before training, and training itself."""

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

COPY = "dir.png/inside.png"  # of good/000.png


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return scraped(tmp_path_factory.mktemp("sets") / "scraped")


def run(root: Path, to: Path, *options: str) -> tuple[int, dict, str]:
    """Exit status, report and page of a check."""
    status = check.main([str(root), "--to", str(to), "--crop", str(CROP), "--jobs", "2", *options])
    (folder,) = to.iterdir()
    return status, json.loads((folder / "report.json").read_text()), (folder / "index.html").read_text()


# ---- the check


def test_every_file_is_handled_as_it_should_be(root):
    source = FolderSource(root)
    looks = {source.name(i): look_at(source, i, CROP) for i in range(len(source))}
    assert set(looks) == set(WHOLE) | set(DAMAGED) | set(UNUSUAL) | {COPY}
    for name, look in looks.items():
        if name in DAMAGED:
            assert DAMAGED[name] in look.damage, name
        else:
            assert look.damage == "", name
            assert set(look.notes) == UNUSUAL.get(name, set()), name
    assert (source.index.hidden, source.index.others) == (3, 5)  # two pipes among the others


def test_the_check_names_and_counts_everything(root, tmp_path, capsys):
    status, report, _ = run(root, tmp_path)
    assert status == 1
    assert {entry["file"]: True for entry in report["damaged"]} == dict.fromkeys(DAMAGED, True)
    assert all(DAMAGED[entry["file"]] in entry["reason"] for entry in report["damaged"])
    expected = {kind: sum(kind in kinds for kinds in UNUSUAL.values()) for kind in report["notes"]}
    assert report["notes"] == expected
    assert report["copies"] == [{"file": "good/000.png", "of": COPY}]
    said = capsys.readouterr().out
    for name in DAMAGED:
        assert name in said
    assert "Training goes on" in said
    assert all(len(line) <= 80 for line in said.splitlines() if not line.startswith(("page", "report")))


class Reader(HTMLParser):
    """Collects what a browser would load and run."""

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


def test_the_page_shows_the_worst_and_runs_nothing_from_outside(tmp_path):
    names = ["<script>alert(1)</script>.jpg", "a'b\"&amp;.png", "\u202egnp.png", "caf\udce9.png"]
    small = {name: png(i, 10, 10) for i, name in enumerate(names[1:])}
    jpeg = io.BytesIO()
    Image.open(io.BytesIO(png(7, 90, 90))).save(jpeg, "JPEG")
    try:
        write_tree(tmp_path / "set", small | {names[0]: jpeg.getvalue()[:3000], "whole.png": png(8, 90, 90)})
    except OSError:
        pytest.skip("this file system takes no such names")
    _, report, page = run(tmp_path / "set", tmp_path / "out")
    assert report["damaged"][0]["file"] == names[0]
    reader = Reader()
    reader.feed(page)
    assert reader.tags.isdisjoint({"script", "link", "iframe", "object"})
    assert all(source.startswith("data:image/jpeg;base64,") for source in reader.sources)
    assert len(reader.sources) == 1 + 3 + 4  # a damaged one, three small ones, and all whole ones by bits
    assert names[0] in reader.text
    assert names[1] in reader.text
    assert "\u202e" not in page
    assert not re.search(r"https?://", page)


def test_exit_status_tells(tmp_path, capsys):
    good = {f"{i}.png": png(i, 40, 40) for i in range(30)}
    write_tree(tmp_path / "good", good)
    assert run(tmp_path / "good", tmp_path / "a")[0] == 0
    write_tree(tmp_path / "one", good | {"bad.png": b"x"})
    assert run(tmp_path / "one", tmp_path / "b")[0] == 1
    write_tree(tmp_path / "many", good | {f"bad{i}.png": b"x" for i in range(3)})
    assert run(tmp_path / "many", tmp_path / "c")[0] == 2
    assert "more than 5%" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "nothing", tmp_path / "d")
    assert stopped.value.code == 2
    assert "no folder or archive" in capsys.readouterr().err
    tar = tar_bytes({name: data * 9 for name, data in good.items()})
    write_tree(tmp_path, {"cut.tar": tar[: len(tar) - 12000]})
    status, report, page = run(tmp_path / "cut.tar", tmp_path / "e")
    assert status == 1
    assert "cut short" in report["archives"][0]["reason"]
    assert "cut short" in page


def test_archives_are_checked_as_folders_are(tmp_path):
    files = dict(list(WHOLE.items())[:40]) | {"bad.png": b"x"}
    write_tree(tmp_path, {"x.zip": zip_bytes(files), "x.tar": tar_bytes(files)})
    write_tree(tmp_path / "x", files)
    reports = []
    for name in ("x", "x.zip", "x.tar"):
        _, report, _ = run(tmp_path / name, tmp_path / f"out{name}")
        reports.append({key: value for key, value in report.items() if key != "root"})
    assert reports[0] == reports[1] == reports[2]
    assert reports[0]["damaged"][0]["file"] == "bad.png"


def test_a_process_that_dies_ends_the_check_with_an_error(tmp_path, monkeypatch, capsys):
    write_tree(tmp_path / "set", {f"{i}.png": png(i, 8, 8) for i in range(3)})
    monkeypatch.setattr(check, "look_at", lambda *_: os.kill(os.getpid(), 9))
    with pytest.raises(SystemExit):
        run(tmp_path / "set", tmp_path / "out")
    assert "--jobs" in capsys.readouterr().err


def test_the_command_line_runs(tmp_path):
    write_tree(tmp_path / "set", {"a.png": png(0, 40, 40)})
    command = [sys.executable, "-m", "lic_train.data.check", str(tmp_path / "set"), "--crop", "32"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs/data_check/set/index.html").exists()


def test_a_summary_is_the_same_in_any_order():
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


# ---- training on it


def test_training_goes_on_over_all_of_it_and_names_each_damaged_file_once(root, tmp_path, capsys):
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
    said, written = capsys.readouterr().out, json.loads((tmp_path / "data_report.json").read_text())
    met = {entry["file"]: entry["reason"] for entry in written["damaged"]}
    in_training = {photographs.train.name(i) for i in range(len(photographs.train))}
    assert set(met) == set(DAMAGED) & in_training
    assert all(DAMAGED[name] in reason for name, reason in met.items())
    assert all(said.count(f"{name} (") == 1 for name in met)


def _as_nobody(check_root: Path, results) -> None:
    if os.geteuid() == 0:  # who may read everything
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        source = open_source(str(check_root), Cache())
        results.put([look_at(source, i, CROP).damage for i in range(len(source))])
    except DataError as error:
        results.put(str(error))


def test_a_file_without_permission_is_damaged_and_a_folder_without_is_an_error():
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        Path(name).chmod(0o755)
        root = write_tree(Path(name) / "set", {"a.png": png(0, 40, 40), "b/b.png": png(1, 40, 40)})
        (root / "a.png").chmod(0)
        assert _asked_as_nobody(root) == ["Permission denied", ""]
        for closed in (root / "b", root, Path(name)):
            closed.chmod(0)
            assert re.match(r"cannot (list|read) .*: Permission denied", str(_asked_as_nobody(root)))
            closed.chmod(0o755)


def _asked_as_nobody(root: Path) -> list[str] | str:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_as_nobody, args=(root, results))
    process.start()
    result = results.get(timeout=300)
    process.join(60)
    return result
