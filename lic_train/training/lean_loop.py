"""Lightning's loop without work that every step repeats and no run of this package uses."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
from lightning.pytorch.profilers import PassThroughProfiler

_NOTHING: AbstractContextManager[Any] = nullcontext()
_HOOKS_OF_A_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class NoProfiler(PassThroughProfiler):
    """Profiler without contexts of its own: Lightning enters about a hundred in every step."""

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Return a context that does nothing."""
        return _NOTHING


def without_repeated_work(trainer: L.Trainer) -> L.Trainer:
    """Remove three parts of a step from ``trainer`` and return it.

    - The comparison of the signals of all processes, which waits for the device: `GracefulStop` does it when a row is
      due.
    - The inspection of the signature of ``training_step``, which takes a batch and its index.
    - Calls of hooks that a callback does not define: Lightning skips those that are not callable.
    """
    loop = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    loop._build_kwargs = _arguments  # type: ignore[method-assign]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for hook in _HOOKS_OF_A_STEP:
            if getattr(getattr(callback, hook), "__func__", None) is getattr(L.Callback, hook):
                setattr(callback, hook, None)
    return trainer


def _arguments(kwargs: OrderedDict, batch: Any, batch_idx: int) -> OrderedDict:
    """Return the arguments of ``training_step``."""
    return OrderedDict(kwargs, batch=batch, batch_idx=batch_idx)
