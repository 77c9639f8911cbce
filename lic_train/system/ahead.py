"""Calls that run in a thread while the caller prepares the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def one_ahead(calls: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield the results of ``calls`` in order; a thread runs the calls one after another.

    A call runs while the next one is taken from ``calls`` and while the result before it is used. An exception of a
    call is raised in its turn. If the iteration ends early, the calls that were already taken are completed first.
    """
    with ThreadPoolExecutor(1) as executor:
        last: Future[T] | None = None
        for call in calls:
            present = executor.submit(call)
            if last is not None:
                yield last.result()
            last = present
        if last is not None:
            yield last.result()
