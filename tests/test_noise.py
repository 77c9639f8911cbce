"""The noise of a step belongs to the images of its batch, independent of devices and micro-batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.entropy.noise import part_of_batch, uniform
from lic_train.models.base import build
from tests.conftest import SMALL, small_config


@pytest.mark.parametrize("dim", [0, 1])
def test_parts_of_a_batch_draw_the_noise_of_the_batch(dim: int) -> None:
    whole = torch.empty(3, 3, 5)
    torch.manual_seed(1)
    drawn = uniform(whole, -2, 3, dim)
    assert drawn.min() < -1.5
    assert drawn.max() > 2.5
    for positions in (torch.tensor([0, 2]), torch.tensor([1])):
        torch.manual_seed(1)
        with part_of_batch(positions, 3):
            part = uniform(whole.index_select(dim, positions), -2, 3, dim)
        assert torch.equal(part, drawn.index_select(dim, positions))


def test_memory_format_does_not_change_the_noise() -> None:
    x = torch.empty(2, 3, 4, 5)
    torch.manual_seed(1)
    plain = uniform(x)
    torch.manual_seed(1)
    assert torch.equal(uniform(x.to(memory_format=torch.channels_last)), plain)


@pytest.mark.parametrize("name", SMALL)
def test_every_model_trains_equally_on_parts_and_on_the_whole(name: str) -> None:
    torch.manual_seed(0)
    model = build(small_config(name)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # batch statistics always belong to the part
    x = torch.rand(2, 3, 64, 64)
    torch.manual_seed(2)
    whole = model(x)
    for image in range(2):
        torch.manual_seed(2)
        with part_of_batch(torch.tensor([image]), 2):
            part = model(x[image : image + 1])
        for latent, likelihoods in part["likelihoods"].items():
            torch.testing.assert_close(likelihoods[0], whole["likelihoods"][latent][image], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(part["x_hat"][0], whole["x_hat"][image], rtol=1e-3, atol=1e-4)
    torch.manual_seed(3)
    other, first = model(x)["likelihoods"], next(iter(whole["likelihoods"]))
    assert not torch.allclose(other[first], whole["likelihoods"][first], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_has_a_gradient_in_every_stage(name: str) -> None:
    """Distributed training assumes this and would wait forever for a missing gradient."""
    torch.manual_seed(0)
    recipe = checked(compose([f"model={name}"])).make_recipe()
    model = build(small_config(name)).train()
    x = torch.rand(1, 3, 64, 64)
    for stage in {tuple(stage.loss.items()): stage for stage in recipe.stages}.values():
        model.zero_grad(set_to_none=True)
        (recipe(model(x), x, stage.start)["loss"] + model.aux_loss()).backward()
        assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
