"""One Adam with two parameter groups: the network, and the quantiles of the factorised densities.

The quantiles get a gradient from the auxiliary loss only, and the network gets none from it. CompressAI's example and
the scripts derived from it clip before the auxiliary backward pass, when only the network has gradients. One backward
pass, a clip of the network's gradients and one optimiser therefore equal their two optimisers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lic_train.models.base import Codec
from lic_train.recipes.recipe import Recipe


def make_optimizer(model: Codec, recipe: Recipe) -> Adam:
    """Return Adam over the groups "net" and "aux", with the learning rates of step 0.

    The fused kernels keep the step counters on the device, and read ``found_inf`` there. ``capturable=True`` would only
    permit the capture in a CUDA graph, and PyTorch warns if nothing is captured.
    """
    groups = [
        {"name": "net", "params": model.net_parameters(), "lr": recipe.stage(0).lr},
        {"name": "aux", "params": model.aux_parameters(), "lr": recipe.aux_lr},
    ]
    return Adam(groups, fused=True)


def set_learning_rate(optimizer: Adam, recipe: Recipe, step: int) -> float:
    """Set the learning rate of ``step`` in the net group and return it; that of the quantiles is constant."""
    lr = recipe.stage(step).lr
    optimizer.param_groups[0]["lr"] = lr
    return lr


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters of all groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def gradient_norms(optimizer: Optimizer) -> Tensor:
    """Return the L2 norm of the gradient of each of `parameters_of` that has one, (parameters,), in one pass."""
    return torch.stack(torch._foreach_norm([p.grad for p in parameters_of(optimizer) if p.grad is not None]))


def applied(optimizer: Optimizer) -> Tensor | float:
    """Return the share of an update that ``optimizer`` applies: 1, or 0 if it is suppressed (``found_inf``)."""
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    return 1.0 if found_inf is None else 1 - found_inf


def clip_net(optimizer: Adam, norms: Tensor, max_norm: float) -> Tensor:
    """Clip the gradient of the group "net" to a global L2 norm of ``max_norm`` (0: no clipping).

    Args:
        optimizer: see `make_optimizer`; "net" is its first group.
        norms: its `gradient_norms`.
        max_norm: limit of the norm.

    Returns:
        The norm before clipping.
    """
    net = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
    norm = torch.linalg.vector_norm(norms[: len(net)])
    if max_norm > 0:  # as `nn.utils.clip_grads_with_norm_`, without grouping the gradients by device and dtype
        torch._foreach_mul_(net, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm
