"""Parameters and multiply-adds (MACs) of a codec by sub-network, computed from shapes only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.errors import ConfigError
from lic_train.files.tiles import padding
from lic_train.models.base import Codec, build

Rules = Mapping[Any, Callable[..., int]]  # operator -> flops, the custom_mapping of FlopCounterMode

DEFINITIONS = {
    "parameters": "all learned parameters, including masked weights and the three quantiles for each channel of a "
    "factorised density",
    "quantiles": "number of the parameters that are quantiles, which update() computes; some papers do not count them",
    "macs": "multiply-adds of one pass of every network as in training, with contexts in parallel over the whole map: "
    "convolutions (transposed ones at their input positions, masked ones with all computed taps), linear layers, "
    "attention and GDN; not counted are biases, norms, activations and densities. FlopCounterMode on the meta device, "
    "flops / 2, of an image padded to multiples of the model's downsampling factor",
    "itself": "multiply-adds or parameters of the codec outside its sub-networks; absent if there are none",
}


def on_meta(config: Mapping[str, Any]) -> Codec:
    """Build a codec on the meta device, which allocates no memory.

    Raises:
        ConfigError: ``config`` does not build a model.
    """
    try:
        return build(config).to("meta")  # built on the CPU, because CompressAI's GDN cannot be built on meta
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            "model: the configuration does not build a model.", expected="valid arguments of the model", got=str(error)
        ) from error


def count_parameters(codec: Codec) -> dict[str, int]:
    """Return the parameters of the codec, "total", and of each direct child that has any; these sum to the total."""
    return _with_total(_parameters_by_child(codec), _count(codec))


def count_quantiles(codec: Codec) -> int:
    """Return the number of parameters that are quantiles of factorised densities."""
    return sum(parameter.numel() for parameter in codec.aux_parameters())


def count_macs(codec: Codec, height: int, width: int) -> dict[str, int]:
    """Return the multiply-adds of one image, "total" and by direct child as in `count_parameters`; see `DEFINITIONS`.

    Args:
        codec: on the meta device; it is set to training mode, in which contexts run in one parallel pass.
        height: pixels, before padding.
        width: pixels, before padding.
    """
    found = macs_by_module(codec, height, width)
    return _with_total({name: inside(found, name) for name in _parameters_by_child(codec)}, found[""])


def macs_by_module(codec: Codec, height: int, width: int, rules: Rules | None = None) -> dict[str, int]:
    """Return the `multiply_adds` of one image of ``height`` x ``width`` pixels, padded as for coding."""
    bottom, right = padding(height, width, codec.downsampling_factor)
    return multiply_adds(codec.train(), (1, 3, height + bottom, width + right), rules=rules)


@torch.no_grad()
def multiply_adds(module: nn.Module, *shapes: Sequence[int], rules: Rules | None = None) -> dict[str, int]:
    """Return the multiply-adds of one forward pass of ``module``, under "", and of every called submodule, by name.

    Args:
        module: on the meta device, where nothing is computed; factorised densities in it are not counted.
        shapes: shapes of its inputs.
        rules: functions that replace the count of an operator; they return flops, twice the multiply-adds.
    """
    device = next(module.parameters()).device
    inputs = [torch.empty(tuple(shape), device=device) for shape in shapes]
    with _no_densities(module), FlopCounterMode(display=False, custom_mapping=dict(rules or {})) as counter:
        module(*inputs)
    counts = counter.get_flop_counts()
    called = {name.partition(".")[2]: sum(flops.values()) // 2 for name, flops in counts.items() if name != "Global"}
    return {"": 0, **called}


def inside(found: Mapping[str, int], name: str) -> int:
    """Return the multiply-adds of the module ``name``; for a ModuleList, which is not called, those of its members.

    Args:
        found: returned by `multiply_adds`.
        name: dotted name of a module.
    """
    within = [other for other in found if f"{other}.".startswith(f"{name}.")]
    nested = {other for other in within for above in within if other.startswith(f"{above}.")}
    return sum(found[other] for other in within if other not in nested)


@contextmanager
def _no_densities(module: nn.Module) -> Iterator[None]:
    """Replace the likelihood of every factorised density by 1, so that its small matrix products are not counted."""
    densities = [part for part in module.modules() if isinstance(part, EntropyBottleneck)]
    for density in densities:
        vars(density)["likelihood"] = torch.ones_like
    try:
        yield
    finally:
        for density in densities:
            del vars(density)["likelihood"]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _parameters_by_child(codec: Codec) -> dict[str, int]:
    counts = {name: _count(child) for name, child in codec.named_children()}
    return {name: count for name, count in counts.items() if count}


def _with_total(parts: dict[str, int], total: int) -> dict[str, int]:
    rest = total - sum(parts.values())
    return {"total": total, **parts, **({"itself": rest} if rest else {})}
