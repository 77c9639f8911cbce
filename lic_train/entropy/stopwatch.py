"""Time spent in entropy coding inside ``compress`` and ``decompress``, for separate reporting in evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Stopwatch:
    """Seconds in the entropy coder since the start of `coding_time`."""

    seconds: float = 0.0


_running: ContextVar[Stopwatch | None] = ContextVar("coding_time", default=None)


@contextmanager
def coding_time() -> Iterator[Stopwatch]:
    """Measure all `entropy_coding` calls of this thread inside the block."""
    token = _running.set(Stopwatch())
    stopwatch = _running.get()
    assert stopwatch is not None
    try:
        yield stopwatch
    finally:
        _running.reset(token)


def entropy_coding(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function as entropy coding: tables from parameters, or symbols to or from bytes."""

    @wraps(function)
    def timed(*args: P.args, **kwargs: P.kwargs) -> R:
        stopwatch = _running.get()
        if stopwatch is None:
            return function(*args, **kwargs)
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            stopwatch.seconds += time.perf_counter() - began

    return timed
