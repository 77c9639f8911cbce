"""Record of damaged files: each is printed once and counted, and their number is limited."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

from lic_train.data.damage import DataReport
from lic_train.errors import DataError


def screen() -> Console:
    return Console(file=io.StringIO(), width=200)


def batch(*failures: tuple[str, str], small: int = 0) -> dict:
    return {"x": torch.zeros(4, 3, 1, 1, dtype=torch.uint8), "failures": list(failures), "small": small}


def test_report_prints_each_file_once_and_counts(tmp_path):
    console = screen()
    report = DataReport(tmp_path / "run" / "data_report.json", "/set", 100, console)
    report.add(batch(("[b]a.png", "truncated"), ("c.png", "empty"), small=2))
    report.add(batch(("[b]a.png", "truncated"), small=1))
    report.write()
    printed = console.file.getvalue()
    assert printed.count("[b]a.png (truncated)") == 1
    assert printed.count("c.png (empty)") == 1
    assert json.loads(report.path.read_text()) == {
        "root": "/set",
        "photographs": 100,
        "limit": 0.05,
        "samples": 8,
        "replaced": 3,
        "small": 3,
        "archives": [],
        "damaged": [{"file": "[b]a.png", "reason": "truncated"}, {"file": "c.png", "reason": "empty"}],
    }


def test_report_raises_above_five_percent(tmp_path):
    report = DataReport(tmp_path / "data_report.json", "/set", 100, screen())
    for i in range(5):
        report.add(batch((f"{i}.png", "empty")))
    report.add(batch(("0.png", "empty")))
    with pytest.raises(DataError, match="at most 5% of 100") as caught:
        report.add(batch(("5.png", "empty")))
    for part in ("/set", "0.png: empty", "to do", "data_report.json"):
        assert part in str(caught.value)
    assert len(json.loads(report.path.read_text())["damaged"]) == 6


def test_report_of_a_resumed_run_keeps_and_does_not_repeat_earlier_files(tmp_path):
    path = tmp_path / "data_report.json"
    DataReport(path, "/set", 40, screen()).add(batch(("a.png", "empty"), ("b.png", "empty")))
    console = screen()
    again = DataReport(path, "/set", 40, console)
    again.add(batch(("a.png", "empty"), ("new.png", "cut")))  # b.png was repaired; two of 40 are within the limit
    assert console.file.getvalue().splitlines() == ["damaged file skipped: new.png (cut)"]
    assert [entry["file"] for entry in json.loads(path.read_text())["damaged"]] == ["a.png", "b.png", "new.png"]
    path.write_text("{not json")
    assert DataReport(path, "/set", 40, screen()).damaged == {}


def test_report_limits_its_output(tmp_path):
    console = screen()
    report = DataReport(tmp_path / "data_report.json", "/set", 10**6, console)
    for i in range(500):
        report.add(batch((f"{i}.png", "empty")))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 21
    assert "data_report.json" in lines[-1]
    assert len(json.loads(report.path.read_text())["damaged"]) == 500
