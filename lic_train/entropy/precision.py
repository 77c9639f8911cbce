"""Precision and threading rules for everything that determines the bitstream.

In training, entropy models compute in float32 also under autocast: bf16 means change 4.6 % of the symbols. Otherwise
all networks that predict the parameters of a density run in float64, where machines differ by about 1e-15.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lic_train.entropy.float64_kernels import Float64Kernels
from lic_train.errors import BitstreamError


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


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or in float64 if it already is."""
    return x if x.dtype == torch.float64 else x.float()


def repeatable(*modules: nn.Module, free: Iterable[nn.Module] = ()) -> AbstractContextManager[None]:
    """Context in which modules compute in float64 in eval mode; their inputs must be float64, as z_hat is.

    In training nothing changes.

    Args:
        modules: networks.
        free: parts of them on which nothing depends that is coded; they keep float32.
    """
    return nullcontext() if modules[0].training else _float64(modules, free)


@contextmanager
def _float64(modules: Iterable[nn.Module], free: Iterable[nn.Module]) -> Iterator[None]:
    """Context in which all parameters and buffers are replaced by copies in float64, except those of ``free``."""
    apart = {part for root in free for part in root.modules()}
    parts = {part for root in modules for part in root.modules()} - apart
    groups: list[dict[str, Any]] = [group for part in parts for group in (part._parameters, part._buffers)]
    saved = [dict(group) for group in groups]
    try:
        for group in groups:
            group.update({name: _double(value) for name, value in group.items()})
        with Float64Kernels():
            yield
    finally:
        for group, values in zip(groups, saved, strict=True):
            group.update(values)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def exactly(values: Tensor) -> Tensor:
    """Return ``values`` in float64 on the CPU, in row-major order."""
    return values.detach().cpu().double().contiguous()


def on_host(*values: Tensor) -> list[Tensor]:
    """Return ``values`` on the CPU; those of one GPU are copied to pinned memory, with one wait for all of them."""
    if values[0].device.type != "cuda":
        return list(values)
    copies = [torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for value in values]
    for copy, value in zip(copies, values, strict=True):
        copy.copy_(value.detach(), non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(values[0].device))
    done.synchronize()
    return copies


@contextmanager
def one_thread() -> Iterator[None]:
    """Context for small products on one thread; waking a second thread costs more time than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def numbers(name: str, values: Tensor) -> np.ndarray:
    """Return predicted ``values`` as float64 (n,), in row-major order.

    Raises:
        BitstreamError: a value is not finite; ``name`` is theirs.
    """
    flat = exactly(values).view(-1).numpy()
    if not math.isfinite(np.abs(flat).sum()):
        raise BitstreamError(
            f"The predicted {name} are not finite.",
            expected="finite values",
            to_do="check the weights of the network, which are damaged",
        )
    return flat


def planar(x: Tensor) -> Tensor:
    """Return a copy with row-major strides; strides select kernels, which must be the same in encoder and decoder."""
    return x.clone(memory_format=torch.contiguous_format)
