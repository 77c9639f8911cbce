"""A paper's table of variants: multiply-adds of the rows of conf/variants, exact and as a profiler counts them.

Papers print what their profiler said. One that goes by module type (thop) differs from the exact count in four ways: a
transposed convolution counts at its output positions, stride^2 times too many; products outside of modules, as in
attention, count nothing, nor do module types that it does not know; a layer norm counts 4 for every value, a PReLU 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lic_train.complexity.count import Rules, count_parameters, inside, macs_by_module, on_meta
from lic_train.complexity.options import Variants
from lic_train.layers import neighborhood_attention  # noqa: F401 registers the operator that a rule is for

DEFINITIONS = {
    "macs": "exact multiply-adds, as of one model: python -m lic_train.complexity without variants=",
    "profiler_macs": "what a profiler by module type (thop) counts: transposed convolutions at their output positions, "
    "4 for every value of a layer norm and 1 of a PReLU, nothing for attention's products and modules of unknown types",
    "paper_macs": "what the paper prints; null where it has no such row",
}


@dataclass(frozen=True)
class Row:
    """A counted row; multiply-adds as in `DEFINITIONS`, ``model`` the configuration that was counted."""

    name: str
    parameters: int
    macs: int
    profiler_macs: int
    paper_macs: int | None
    model: dict[str, Any]


def count_rows(config: Mapping[str, Any], variants: Variants) -> Iterator[Row]:
    """Count row after row; each adds its switches to ``config`` and those of the rows before it.

    Raises:
        ConfigError: a row builds no model.
    """
    model = dict(config)
    for row in variants.rows:
        model = model | row.model
        codec = on_meta(model)
        exact = macs_by_module(codec, *variants.size)[""]
        seen = macs_by_module(codec, *variants.size, rules=PROFILER)
        profiler = seen[""] - sum(inside(seen, name) for name in variants.unseen)
        paper = None if row.paper is None else round(row.paper * 1e9)
        yield Row(row.name, count_parameters(codec)["total"], exact, profiler, paper, model)


def _at_output_positions(
    x: Sequence[int],
    weight: Sequence[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    _transposed: bool,
    _output_padding: Any,
    groups: int,
    *,
    out_shape: Sequence[int],
) -> int:
    return 2 * math.prod(out_shape) * (x[1] // groups) * math.prod(weight[2:])


def _four_a_value(x: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * 4 * math.prod(x)


def _one_a_value(x: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x)


def _nothing(*_: Any, **__: Any) -> int:
    return 0


PROFILER: Rules = {
    torch.ops.aten.convolution: _at_output_positions,
    torch.ops.aten.native_layer_norm: _four_a_value,
    torch.ops.aten._prelu_kernel: _one_a_value,
    torch.ops.aten.bmm: _nothing,
    torch.ops.lic_train.neighborhood_attention: _nothing,
}
