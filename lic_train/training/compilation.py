"""torch.compile of the training forward; falls back to eager mode with a message."""

from __future__ import annotations

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
    """Return a training forward that compiles at its first call; if that fails, it prints why and runs eagerly.

    Evaluation and coding always run the eager model: their results must not depend on this option.
    """
    # Eager random numbers, so that compiling does not change the noise of a seed.
    torch._inductor.config.fallback_random = True

    def bias_apart(x: Tensor) -> dict[str, Any]:
        with BiasApart():
            return model(x)

    forward = torch.compile(bias_apart, dynamic=False)
    state = {"eager": False}

    def run(x: Tensor) -> dict[str, Any]:
        if state["eager"]:
            return model(x)
        try:
            return forward(x)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            state["eager"] = True
            why = reason(error)
            say(f"compile=true failed, training continues in eager mode: {why}", style="yellow")
            return model(x)

    return run
