"""Choice of precision=auto."""

import pytest
import torch

from lic_train.training.precision import precision

AMX = {"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel Xeon"}
AMD = {"avx512_bf16": True, "cpu_name": "AMD EPYC"}
INTEL = {"avx512_bf16": True, "cpu_name": "Intel Xeon"}


@pytest.mark.parametrize(
    ("cpu", "expected"), [(AMX, "bf16-mixed"), (AMD, "bf16-mixed"), (INTEL, "32-true"), ({}, "32-true")]
)
def test_auto_selects_bf16_on_cpus_that_are_faster_in_it(cpu, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert precision("auto", "cpu") == expected


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_depends_on_the_gpu_if_there_is_one(has_bf16, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 or including_emulation)
    assert precision("auto", "gpu") == expected


@pytest.mark.parametrize("cpu", [AMD, {}])
def test_explicit_precision_is_kept(cpu, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert precision("32", "cpu") == "32-true"
    assert precision("bf16-mixed", "cpu") == "bf16-mixed"
