"""Parameters and multiply-adds (MACs) of a codec by sub-network, from shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.errors import ConfigError
from lic_train.files.bitstream import padding
from lic_train.models.base import Codec, build

Rules = Mapping[Any, Callable[..., int]]  # operator -> flops, as FlopCounterMode takes them

DEFINITIONS = {
    "parameters": "all learned numbers, also masked weights and the three quantiles a channel of a factorised density",
    "quantiles": "how many of the parameters are quantiles, which coding solves for; some papers leave them out",
    "macs": "multiply-adds of one pass of every network as in training, contexts in parallel over the whole map: "
    "convolutions (transposed ones at their input positions, masked ones with all the taps that are computed), linear "
    "layers, attention and GDN; nothing for biases, norms, activations and densities. FlopCounterMode on the meta "
    "device, flops / 2, of a picture padded to the model's factor",
    "itself": "work or parameters of the codec outside its sub-networks; absent if there is none",
}


def on_meta(config: Mapping[str, Any]) -> Codec:
    """Build a codec without memory behind it.

    Raises:
        ConfigError: ``config`` builds no model.
    """
    try:
        return build(config).to("meta")  # built elsewhere, as CompressAI's GDN cannot be built there
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"model: {error}") from error


def count_parameters(codec: Codec) -> dict[str, int]:
    """Parameters of the codec, ``total``, and of each of its direct children that has some; they sum to the total."""
    return _with_total(_parameters_by_child(codec), _count(codec))


def count_quantiles(codec: Codec) -> int:
    """How many of the parameters are quantiles of factorised densities."""
    return sum(parameter.numel() for parameter in codec.aux_parameters())


def count_macs(codec: Codec, height: int, width: int) -> dict[str, int]:
    """Multiply-adds of one picture, ``total`` and by direct child as `count_parameters`; see `DEFINITIONS`.

    Args:
        codec: on the meta device; it is left in training mode, in which contexts run in one parallel pass.
        height: pixels, before padding.
        width: pixels, before padding.
    """
    found = macs_by_module(codec, height, width)
    return _with_total({name: inside(found, name) for name in _parameters_by_child(codec)}, found[""])


def macs_by_module(codec: Codec, height: int, width: int, rules: Rules | None = None) -> dict[str, int]:
    """`multiply_adds` of one picture, for `count_macs`."""
    bottom, right = padding(height, width, codec.downsampling_factor)
    return multiply_adds(codec.train(), (1, 3, height + bottom, width + right), rules=rules)


@torch.no_grad()
def multiply_adds(module: nn.Module, *shapes: Sequence[int], rules: Rules | None = None) -> dict[str, int]:
    """Multiply-adds of one forward of ``module``, "", and of every module called in it, by dotted name.

    Args:
        module: on the meta device, where nothing is computed; factorised densities in it count nothing.
        shapes: of its inputs.
        rules: how to count operators in another way, in flops: twice the multiply-adds.
    """
    device = next(module.parameters()).device
    inputs = [torch.empty(tuple(shape), device=device) for shape in shapes]
    with _no_densities(module), FlopCounterMode(display=False, custom_mapping=dict(rules or {})) as counter:
        module(*inputs)
    counts = counter.get_flop_counts()
    called = {name.partition(".")[2]: sum(flops.values()) // 2 for name, flops in counts.items() if name != "Global"}
    return {"": 0, **called}


def inside(found: Mapping[str, int], name: str) -> int:
    """Of what `multiply_adds` found, that of ``name``; of a list, which is never called, that of its members."""
    within = [other for other in found if f"{other}.".startswith(f"{name}.")]
    nested = {other for other in within for above in within if other.startswith(f"{above}.")}
    return sum(found[other] for other in within if other not in nested)


@contextmanager
def _no_densities(module: nn.Module) -> Iterator[None]:
    """Give every likelihood of a factorised density the value 1, without the small matrices that it takes."""
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
