"""Entropy models compute in float32 whatever autocast says: bf16 means move 4.6 % of the symbols."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor


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
