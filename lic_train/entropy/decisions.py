"""Decisions of a network that predicts probabilities, on which encoder and decoder agree.

A threshold inside such a network turns a difference in the last digit into another prediction. The encoder therefore
records the values near a threshold as close calls (see `lic_train.entropy.close_calls`), and the decoder follows the
record. Only float64 values are recorded: networks that decide nothing in the bitstream compute in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from lic_train.entropy.close_calls import CloseCallReader, CloseCallWriter
from lic_train.entropy.precision import numbers

_active: ContextVar[CloseCallWriter | CloseCallReader | None] = ContextVar("decisions", default=None)


def is_positive(values: Tensor, magnitude: Tensor) -> Tensor:
    """Return ``values > 0``, for float64 values as the encoder decided.

    Args:
        values: values of any shape.
        magnitude: bounds of their absolute values, broadcastable, to which their rounding errors are proportional.
    """
    rounding = _active.get()
    if rounding is None or values.dtype != torch.float64:
        return values > 0
    # Between 0.1 and 0.9, so that zero is the only boundary. Values that are always zero are no close calls.
    levels = torch.where(magnitude > 0, 0.5 + 0.4 * values / magnitude, 0.1)
    sides = rounding.round(numbers("decisions", levels), 1.0)
    return torch.from_numpy(sides > 0).view(levels.shape).to(values.device)


@contextmanager
def recorded() -> Iterator[CloseCallWriter]:
    """Context in which decisions are recorded."""
    writer = CloseCallWriter()
    with _use(writer):
        yield writer


@contextmanager
def followed(string: bytes) -> Iterator[CloseCallReader]:
    """Context in which decisions follow the record at the beginning of ``string``.

    Raises:
        BitstreamError: the record is damaged, or does not fit the decisions.
    """
    reader = CloseCallReader(string)
    with _use(reader):
        yield reader
    reader.finish()


@contextmanager
def _use(rounding: CloseCallWriter | CloseCallReader) -> Iterator[None]:
    token = _active.set(rounding)
    try:
        yield
    finally:
        _active.reset(token)
