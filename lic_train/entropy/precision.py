"""In which precision, and on how many threads, that is computed which decides the bitstream.

Entropy models compute in float32 whatever autocast says: bf16 means move 4.6 % of the symbols.
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
    """Run a module's method outside autocast, its tensor arguments cast to float32."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any) -> Any:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        # The meta device, on which costs are counted, has no autocast.
        island = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
        with island:
            return method(self, *(arg.float() if isinstance(arg, Tensor) else arg for arg in args))

    return wrapper


def in_float64(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)`` on the CPU in float64, whatever device and precision the module lives in."""
    state = itertools.chain(module.named_parameters(), module.named_buffers())
    exact = {name: exactly(value) for name, value in state if value.is_floating_point()}
    return torch.func.functional_call(module, exact, (exactly(x),))


def exactly(values: Tensor | None) -> Tensor:
    """``values`` in float64 on the CPU, in row-major order."""
    assert values is not None, "every layer has a bias"
    return values.detach().cpu().double().contiguous()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run tiny products on one thread: waking a second costs more than it does, ten times more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def repeatable(module: nn.Module) -> AbstractContextManager[None]:
    """In evaluation, one thread for what decides the bitstream: several add in another order, and round otherwise."""
    return nullcontext() if module.training else one_thread()


def planar(x: Tensor) -> Tensor:
    """A copy with plain row-major strides: kernels are chosen by strides, and encoder and decoder must choose alike."""
    return x.clone(memory_format=torch.contiguous_format)
