"""benchmarks/gpu.py runs to its end without a GPU; failures are recorded and do not stop the parts after them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_parts import correctness
from benchmarks.gpu_parts.setting import Setting

PARTS = list(gpu.SHARES)


def quick(folder: Path) -> Setting:
    return Setting("cpu", True, folder, None, None)


def test_quick_run_on_the_cpu(tmp_path, monkeypatch, capsys):
    """All five parts, with generated photographs and pictures."""
    path = tmp_path / "gpu.json"
    missing = ["--photographs", str(tmp_path / "none"), "--kodak", str(tmp_path / "none")]
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--quick", "--json", str(path), *missing])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 0
    found = json.loads(path.read_text())
    assert list(found)[-len(PARTS) :] == PARTS
    assert not any(found[part].get("failed") or "error" in found[part] for part in PARTS)
    for row in found["losses"]["rows"].values():
        assert row["difference"]["32"] == 0  # the device is the CPU
        assert 0 < row["difference"]["bf16"] < 0.05
    assert found["files"]["rows"]["mbt2018_mean"] == {"pictures": 2, "largest_difference": 0}
    speeds = [way["images_per_second"] for row in found["training"]["rows"].values() for way in row.values()]
    assert len(speeds) == 4
    assert min(speeds) > 0
    assert found["loading"]["crops_per_second"] > 0
    assert found["kodak"]["steps"] == 4
    assert found["kodak"]["mean"]["equal"]
    shown = capsys.readouterr().out
    assert "5/5 kodak" in shown
    assert "0 problems" in shown


def test_failed_part_is_recorded_and_the_next_one_runs(tmp_path):
    path, seen = tmp_path / "found.json", []

    def fails(seconds: float, result: dict) -> dict:
        raise RuntimeError("out of memory")

    def part(seconds: float, result: dict) -> dict:
        seen.append((seconds, json.loads(path.read_text())))
        return {"value": 1}

    gpu.run_parts({"losses": fails, "files": part, "kodak": part}, 1, path, {})
    found = json.loads(path.read_text())
    assert "out of memory" in found["losses"]["error"]
    assert found["kodak"]["value"] == 1
    (first, before), (last, _) = seen
    assert "losses" in before
    assert first == pytest.approx(60 * 0.1 / 0.35, abs=1)  # a share of what is left
    assert last == pytest.approx(60, abs=2)


def test_other_losses_fail_and_models_without_time_are_skipped(tmp_path, monkeypatch):
    calls = iter(range(100))
    monkeypatch.setattr(correctness, "losses", lambda *_, **__: [1.0, 1.0, 1.0 + 0.002 * next(calls)])
    failed = correctness.check_losses(quick(tmp_path), 60)["failed"]
    assert failed[0].startswith("mbt2018_mean in 32: 0.002")
    rows = correctness.check_losses(quick(tmp_path), -1)["rows"]
    assert set(map(str, rows.values())) == {"{'skipped': 'no time left'}"}


def test_file_that_the_other_device_cannot_read_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(correctness, "encode", lambda *_: b"no file")
    failed = correctness.check_files(quick(tmp_path), 60)["failed"]
    assert len(failed) == 3
    assert all("BitstreamError" in line for line in failed)


def test_nan_is_a_difference():
    assert not correctness.largest_difference([float("nan")], [1.0]) <= 1


def test_noise_is_that_of_the_cpu():
    from lic_train.entropy import quantize

    torch.manual_seed(3)
    expected = quantize.add_noise(torch.zeros(2, 3))
    before = quantize.uniform
    with correctness.noise_of_the_cpu():
        assert quantize.uniform is not before
        torch.manual_seed(3)
        assert torch.equal(quantize.add_noise(torch.zeros(2, 3)), expected)
        assert quantize.uniform(torch.empty(2, device="meta")).device.type == "meta"
    assert quantize.uniform is before
