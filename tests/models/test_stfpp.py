"""STF++: counts of its specification part by part, features of the loss, identities, rounding errors of z."""

import re

import pytest
import torch
from torch import nn

from lic_train.complexity.count import macs_by_module
from lic_train.entropy.precision import repeatable
from lic_train.models.stf import STF
from lic_train.models.stfpp import STFPlusPlus
from lic_train.recipes.losses import bpp, feature_enhancement, mse
from tests.conftest import ROOT, small_config

pytestmark = pytest.mark.usefixtures("seeded_on_one_thread")

SMALL = {name: value for name, value in small_config("stfpp").items() if name != "_target_"}


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return STFPlusPlus().to("meta")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters(full):
    extraction, refinement, _ = full.extract
    assert [count(part) for part in (extraction, refinement, full.enhance, full.assemble)] == [
        12_608,
        153_680,
        80_368,
        12_550,
    ]
    assert [count(part) for part in (*full.g_a.embed, full.g_s.end)] == [69_168, 96, 69_280]
    stages = (*full.g_a.stages, *full.g_s.stages)
    assert sum(count(stage.refine) for stage in stages) == 2_554_560
    compensation = (full.compensate_y, full.restore_y, full.compensate_z, full.restore_z)
    assert sum(map(count, compensation)) == 738_432
    assert count(full) == 103_313_770
    with torch.device("meta"):
        backbone = STF()
    assert sum(count(stage) - count(stage.refine) for stage in stages) == sum(
        map(count, (*backbone.g_a.stages, *backbone.g_s.stages))
    )


def test_multiplications(full):
    found = macs_by_module(full, 512, 768)
    assert round(found[""] / 1e9, 2) == 294.95
    refined = [f"{net}.stages.{i}.refine" for net in ("g_a", "g_s") for i in range(4)]
    assert round(sum(found[name] for name in refined) / 1e9, 1) == 11.8
    compensation = ("compensate_y", "restore_y", "compensate_z", "restore_z")
    assert round(sum(found[name] for name in compensation) / 1e9, 1) == 0.9


@torch.no_grad()
def test_features_are_those_of_the_loss():
    model, x = STFPlusPlus(**SMALL).eval(), torch.rand(1, 3, 64, 128)
    features = model(x)["features"]
    assert torch.equal(features["refined"], model.extract(x))
    assert features["enhanced"].shape == features["refined"].shape == (1, 4 * 5, 32, 64)


@torch.no_grad()
def test_compensation_is_initially_the_identity():
    model, x = STFPlusPlus(**SMALL).eval(), torch.rand(1, 3, 64, 64)
    refined = model.extract(x)
    y, z = model._latents(refined)
    assert torch.equal(y, model.g_a(refined))
    assert torch.equal(z, model.h_a(y))
    z_hat = model.entropy_bottleneck.quantize(z)
    with repeatable(model.h_s):
        assert torch.equal(model._psi(z_hat), model.h_s(z_hat))


def test_documented_third_backbone_trains_and_codes():
    """The example of docs/adding_a_model.md: WACNN with the modules of IB-LIC."""
    page = (ROOT / "docs/adding_a_model.md").read_text(encoding="utf-8")
    code = re.search(
        r"^```python\n(from torch import nn\n.*?InterleavedWACNN.*?)^```$", page, re.MULTILINE | re.DOTALL
    )[1]
    namespace = {}
    exec(code, namespace)
    torch.manual_seed(0)
    model = namespace["InterleavedWACNN"](16, 32, C=4, slices=4, support=2, widths=[8])
    x = torch.rand(1, 3, 64, 128)
    out = model.train()(x)
    (bpp(out, x) + 100 * mse(out, x) + feature_enhancement(out, x)).backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == ["entropy_bottleneck.quantiles"]
    with torch.no_grad(), model.ready_to_code():
        decoded = model.decompress(**model.compress(x))["x_hat"]
        torch.testing.assert_close(decoded, model(x)["x_hat"].clamp(0, 1), rtol=0, atol=1e-5)
