"""Recipes as functions of the step, and the single optimiser compared with the usual two."""

from __future__ import annotations

import pytest
import torch

from lic_train.recipes import losses
from lic_train.recipes.recipe import Recipe
from lic_train.recipes.stage import lay_out
from lic_train.training.optim import clip_net, gradient_norms, make_optimizer, set_learning_rate
from tests.test_codecs import photograph

STAGES = [
    {"name": "first", "share": "1/3", "lr": 1e-4, "loss": {"bpp": 1, "distortion": 1, "mse": 2}},
    {"name": "second", "share": "1/3", "lr": 1e-4},
    {"name": "third", "share": "1/4", "lr": 1e-5},
    {"name": "last", "share": "1/12", "lr": 1e-6},
]


def recipe(steps: int = 1200, distortion: str = "mse", clip_norm: float = 1.0) -> Recipe:
    return Recipe(STAGES, steps, 0.01, distortion, {"aux_lr": 1e-3, "clip_norm": clip_norm})


@pytest.mark.parametrize("steps", [12, 1200, 1201, 7])
def test_stages_cover_every_step_once(steps):
    stages = lay_out(STAGES, steps)
    assert [step for stage in stages for step in range(stage.start, stage.stop)] == list(range(steps))


def test_boundaries_are_exact():
    assert [stage.stop for stage in lay_out(STAGES, 2_500_000)] == [833_333, 1_666_667, 2_291_667, 2_500_000]


def test_loss_changes_exactly_at_the_boundary():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 8, 8, generator=generator)
    out = {"x_hat": x + 0.1, "likelihoods": {"y": torch.full((2, 4, 1, 1), 0.25)}}
    mse, bpp = 0.01, 2 * 4 * 2 / (2 * 64)
    before, after = recipe()(out, x, 399), recipe()(out, x, 400)
    assert before["loss"].item() == pytest.approx(bpp + (0.01 * 255**2 + 2) * mse, rel=1e-5)
    assert after["loss"].item() == pytest.approx(bpp + 0.01 * 255**2 * mse, rel=1e-5)
    assert recipe().stage(10**9).name == "last"


def test_term_of_another_stage_is_returned_without_gradient():
    stages = [
        {"name": "a", "share": "1/2", "lr": 1, "loss": {"bpp": 1, "mse": 5}},
        {"name": "b", "share": "1/2", "lr": 1},
    ]
    plan = Recipe(stages, 10, 2.0, "ms_ssim", {"aux_lr": 1e-3, "clip_norm": 1.0})
    x = photograph(192, 192)[None]
    x_hat = (x + 0.1).requires_grad_()
    out = {"x_hat": x_hat, "likelihoods": {"y": torch.full((1, 1, 1, 1), 0.5)}}
    first, second = plan(out, x, 0), plan(out, x, 9)
    assert first.keys() == second.keys() == {"bpp", "mse", "ms_ssim", "loss"}
    assert [terms["mse"].item() for terms in (first, second)] == pytest.approx([0.01, 0.01], rel=1e-4)
    assert [first["mse"].requires_grad, second["mse"].requires_grad] == [True, False]
    torch.testing.assert_close(second["loss"], second["bpp"] + 2 * second["ms_ssim"])


def test_ms_ssim_loss_has_no_factor_255():
    x = photograph(192, 192)[None]
    out = {"x_hat": (x + 0.05 * torch.randn(x.shape)), "likelihoods": {"y": torch.full((1, 1, 1, 1), 0.5)}}
    terms = recipe(distortion="ms_ssim")(out, x, 1100)
    expected = terms["bpp"] + 0.01 * losses.ms_ssim(out, x)
    torch.testing.assert_close(terms["loss"], expected)
    assert 0 < losses.ms_ssim(out, x).item() < 1


def test_table_shows_the_loss():
    rows = recipe().table()
    assert rows[0] == ("first", "0 - 400", "0.0001", "bpp + lambda * 255^2 * mse + 2 * mse")
    assert rows[3][2] == "1e-06"


def test_one_adam_with_two_groups_equals_two_adams(small_codec):
    """CompressAI's example has two optimisers, two backward passes, and a clip over the net's parameters."""
    ours, theirs = small_codec("mbt2018_mean").train(), small_codec("mbt2018_mean").train()
    plan = recipe(steps=12, clip_norm=0.05)
    one = make_optimizer(ours, plan)
    net = torch.optim.Adam(theirs.net_parameters(), lr=1e-4)
    aux = torch.optim.Adam(theirs.aux_parameters(), lr=1e-3)
    x = torch.stack([photograph(64, 64, seed) for seed in range(2)])
    for step in range(12):
        torch.manual_seed(step)
        lr = set_learning_rate(one, plan, step)
        one.zero_grad()
        (plan(ours(x), x, step)["loss"] + ours.aux_loss()).backward()
        norm = clip_net(one, gradient_norms(one), plan.clip_norm)
        assert norm > 0.05
        one.step()

        torch.manual_seed(step)
        net.param_groups[0]["lr"] = lr
        net.zero_grad()
        aux.zero_grad()
        plan(theirs(x), x, step)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(theirs.net_parameters(), 0.05)
        net.step()
        theirs.aux_loss().backward()
        aux.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


def test_every_parameter_is_in_exactly_one_group(small_codec):
    model = small_codec("cheng2020_anchor")
    groups = make_optimizer(model, recipe()).param_groups
    assert [group["name"] for group in groups] == ["net", "aux"]
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in model.parameters())
    assert groups[1]["lr"] == 1e-3
