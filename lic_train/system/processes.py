"""Worker processes of a command: one queue of bounded length, and no process that outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, TypeVar

from lic_train.errors import LicError

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """Processes that compute for this one, as a context manager.

    They ignore Ctrl-C, which a terminal sends to all processes of a command, and end when this process ends for any
    reason. If the block is left by an exception they are killed; files must be replaced atomically.

    Args:
        number: of processes.
        method: "fork" shares the memory of this process; "spawn" starts new interpreters, as threads of PyTorch need.
        died: the error if a process ended early, most likely because the memory was exhausted.
        start: called in each new process, with ``arguments``.
        arguments: see ``start``.
    """

    def __init__(
        self,
        number: int,
        method: Literal["fork", "spawn"],
        died: LicError,
        start: Callable[..., object] | None = None,
        arguments: tuple[Any, ...] = (),
    ) -> None:
        self.number, self._died = number, died
        context = multiprocessing.get_context(method)
        self._pool = ProcessPoolExecutor(number, context, _start, (start, arguments))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
        self._pool.shutdown(cancel_futures=True)

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Queue one call."""
        with self._death_explained(), _sigint_blocked():  # this starts processes, which inherit the blocked signal
            return self._pool.submit(work, *arguments)

    def result(self, future: Future[Result]) -> Result:
        """Wait for a call and return its result.

        Raises:
            LicError: ``died``, if a process ended early; otherwise the error of the call.
        """
        with self._death_explained():
            return future.result()

    def in_order(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield ``work(task)`` for all tasks in order; tasks are read when they are needed."""
        waiting: deque[Future[Result]] = deque()
        for task in tasks:
            waiting.append(self.submit(work, task))
            if len(waiting) > 2 * self.number:
                yield self.result(waiting.popleft())
        while waiting:
            yield self.result(waiting.popleft())

    @contextmanager
    def _death_explained(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool as error:
            raise self._died from error


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT in this thread; a Ctrl-C in the block is delivered at its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(start: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    """Initialize a process."""
    for number, action in ((signal.SIGINT, signal.SIG_IGN), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, action)  # a forked process has the handlers of its parent
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
