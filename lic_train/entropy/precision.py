"""Precision and threading rules for everything that determines the bitstream.

Entropy models compute in float32 also under autocast: bf16 means change 4.6 % of the symbols.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def in_float32(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method to run without autocast, with its tensor arguments cast to float32."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any) -> Any:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        # The meta device, which is used to count costs, has no autocast.
        island = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
        with island:
            return method(self, *(arg.float() if isinstance(arg, Tensor) else arg for arg in args))

    return wrapper


def in_float64(module: nn.Module, x: Tensor) -> Tensor:
    """Return ``module(x)`` on the CPU in float64, independent of the module's device and precision."""
    state = itertools.chain(module.named_parameters(), module.named_buffers())
    exact = {name: exactly(value) for name, value in state if value.is_floating_point()}
    return torch.func.functional_call(module, exact, (exactly(x),))


def exactly(values: Tensor | None) -> Tensor:
    """Return ``values`` in float64 on the CPU, in row-major order."""
    assert values is not None, "every layer has a bias"
    return values.detach().cpu().double().contiguous()


@contextmanager
def one_thread() -> Iterator[None]:
    """Context for small products on one thread; waking a second thread costs more time than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def repeatable(module: nn.Module) -> AbstractContextManager[None]:
    """Context with one thread in eval mode, because several threads add in another order and round differently."""
    return nullcontext() if module.training else one_thread()


def planar(x: Tensor) -> Tensor:
    """Return a copy with row-major strides; strides select kernels, which must be the same in encoder and decoder."""
    return x.clone(memory_format=torch.contiguous_format)
