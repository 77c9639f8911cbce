"""torch.compile of the training forward, with a fall-back that is announced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich import print as rprint
from torch import Tensor

from lic_train.models.base import Codec


def compiled(model: Codec) -> Callable[[Tensor], dict[str, Any]]:
    """A training forward that compiles at its first call, and runs eagerly, with one line said, where that fails.

    Evaluation and coding always run the eager model: their results must not depend on this option.
    """
    # Eager random numbers, so that compiling does not change the noise of a seed.
    torch._inductor.config.fallback_random = True
    forward = torch.compile(model.__call__, dynamic=False)
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
            reason = str(error).strip().splitlines()
            rprint(f"[yellow]compile=true failed, training goes on without: {type(error).__name__}: {reason[:1]}[/]")
            return model(x)

    return run
