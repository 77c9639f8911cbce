"""One Adam with two parameter groups: the network, and the quantiles of the factorised densities.

The quantiles get a gradient from the auxiliary loss only, and the network gets none from it. CompressAI's example and
the scripts derived from it clip before the auxiliary backward pass, when only the network has gradients. One backward
pass, a clip of the network's gradients and one optimiser therefore equal their two optimisers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Adam

from lic_train.models.base import Codec
from lic_train.recipes.recipe import Recipe


def make_optimizer(model: Codec, recipe: Recipe) -> Adam:
    """Return Adam over the groups "net" and "aux", with the learning rates of step 0."""
    groups = [
        {"name": "net", "params": model.net_parameters(), "lr": recipe.stage(0).lr},
        {"name": "aux", "params": model.aux_parameters(), "lr": recipe.aux_lr},
    ]
    return Adam(groups, fused=True)


def set_learning_rate(optimizer: Adam, recipe: Recipe, step: int) -> float:
    """Set the learning rate of ``step`` in the net group and return it; that of the quantiles is constant."""
    lr = recipe.stage(step).lr
    next(group for group in optimizer.param_groups if group["name"] == "net")["lr"] = lr
    return lr


def clip_net(model: Codec, max_norm: float) -> Tensor:
    """Clip the network's gradient to a global L2 norm of ``max_norm`` (0: no clipping); return the norm before."""
    limit = max_norm if max_norm > 0 else float("inf")
    return torch.nn.utils.clip_grad_norm_(model.net_parameters(), limit)
