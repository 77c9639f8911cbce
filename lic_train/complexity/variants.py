"""A paper's table of variants: multiply-adds of the rows of conf/variants, exact and as a profiler counts them.

Papers print the numbers of their profiler. A profiler by module type (thop) differs from the exact count in four ways:

- A transposed convolution is counted at its output positions, stride^2 times too many.
- Products outside of modules, as in attention, are not counted.
- Modules of unknown types are not counted.
- A layer norm is counted with 4 multiply-adds for every value, a PReLU with 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from pydantic import NonNegativeInt

from lic_train.complexity.count import Rules, count_parameters, inside, macs_by_module, on_meta
from lic_train.complexity.options import Variants
from lic_train.evaluate.results import Record
from lic_train.layers import neighborhood_attention  # noqa: F401 registers the operator of a rule below

DEFINITIONS = {
    "macs": "exact multiply-adds, as lic complexity counts them without variants=",
    "profiler_macs": "multiply-adds as a profiler by module type (thop) counts them: transposed convolutions at their "
    "output positions, 4 for every value of a layer norm, 1 for every value of a PReLU, 0 for attention's products and "
    "for modules of unknown types",
    "paper_macs": "multiply-adds printed in the paper; null if the paper has no such row",
}


class Row(Record):
    """A counted variant; `DEFINITIONS` defines the multiply-adds, ``model`` is the configuration of the network."""

    name: str
    parameters: NonNegativeInt
    macs: NonNegativeInt
    profiler_macs: NonNegativeInt
    paper_macs: NonNegativeInt | None
    model: dict[str, Any]


def count_rows(config: Mapping[str, Any], variants: Variants) -> Iterator[Row]:
    """Count the rows in order; each row adds its options to ``config`` and to the options of the rows before it.

    Raises:
        ConfigError: a row does not build a model.
    """
    model = dict(config)
    for row in variants.rows:
        model = model | row.model
        codec = on_meta(model)
        exact = macs_by_module(codec, *variants.size)[""]
        seen = macs_by_module(codec, *variants.size, rules=PROFILER)
        profiler = seen[""] - sum(inside(seen, name) for name in variants.unseen)
        paper = None if row.paper is None else round(row.paper * 1e9)
        yield Row(
            name=row.name,
            parameters=count_parameters(codec)["total"],
            macs=exact,
            profiler_macs=profiler,
            paper_macs=paper,
            model=model,
        )


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
