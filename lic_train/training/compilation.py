"""torch.compile of the training forward; falls back to eager mode with a message."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lic_train.models.base import Codec
from lic_train.system.screen import reason, say


class BiasApart(TorchFunctionMode):
    """Runs transposed convolutions without bias and adds the bias afterwards, which the compiler fuses.

    On a CPU, PyTorch's own gradient of that bias takes as long as a whole pass of the convolution.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """See `TorchFunctionMode`."""
        kwargs = kwargs or {}
        if func is not F.conv_transpose2d or len(args) < 3 or args[2] is None:
            return func(*args, **kwargs)
        x, weight, bias, *options = args
        y = func(x, weight, None, *options, **kwargs)
        return y + bias.to(y.dtype).view(1, -1, 1, 1)


def compiled(model: Codec) -> Callable[[Tensor], dict[str, Any]]:
    """Return a training forward that compiles at its first call, which prints how long it took.

    If compiling fails, it prints why and runs eagerly. On a GPU the kernels are autotuned, without CUDA graphs. The
    optimizer is not compiled: fused Adam is a few kernels for all parameters. Evaluation and coding always run the
    eager model: their results must not depend on this option.
    """
    # Eager random numbers, so that compiling does not change the noise of a seed.
    torch._inductor.config.fallback_random = True

    def bias_apart(x: Tensor) -> dict[str, Any]:
        with BiasApart():
            return model(x)

    @functools.cache
    def forward_on(device: str) -> Callable[[Tensor], dict[str, Any]]:
        mode = "max-autotune-no-cudagraphs" if device == "cuda" else None
        return torch.compile(bias_apart, dynamic=False, mode=mode)

    state = {"eager": False, "first": True}

    def run(x: Tensor) -> dict[str, Any]:
        if state["eager"]:
            return model(x)
        started = time.monotonic()
        try:
            out = forward_on(x.device.type)(x)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            state["eager"] = True
            why = reason(error)
            say(f"compile=true failed, training continues in eager mode: {why}", style="yellow")
            return model(x)
        if state["first"]:
            state["first"] = False
            say(f"compile=true: the first forward pass, with compilation, took {time.monotonic() - started:.0f} s")
        return out

    return run
