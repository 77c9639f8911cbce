"""What a run needs later, checked before its directory is claimed and before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lic_train.config.run import RunConfig
from lic_train.data.module import Photographs
from lic_train.data.sets import manifest
from lic_train.errors import ConfigError, TrainingError
from lic_train.evaluate.sets import open_images
from lic_train.runs.layout import CHECKPOINTS
from lic_train.runs.load import check_start
from lic_train.runs.state import read_state
from lic_train.system.screen import reason, say


def check(config: RunConfig, data: Photographs) -> None:
    """Check the photographs, the accelerator, the pictures of the closing evaluation and the weights of ``init_from``.

    Raises:
        ConfigError: this machine does not have the accelerator, or ``init_from`` contains another network.
        CheckpointError: ``init_from`` contains no intact model.
        DataError: a folder of the evaluation set is missing or empty, or the run was started on other photographs.
    """
    run = Path(config.output)
    if not config.fresh and any((run / CHECKPOINTS).glob("*.ckpt")):
        _check_photographs(run / manifest.NAME, data)
    state = read_state(run)
    if state.finished and state.step >= config.steps and not config.fresh:
        return
    _check_accelerator(config.trainer.accelerator)
    if config.eval.root is not None:
        open_images(config.eval, run)
    if config.init_from is not None:
        check_start(config.model, Path(config.init_from))


def _check_photographs(path: Path, data: Photographs) -> None:
    if path.exists() and (before := manifest.require_same(path, data.manifest())) != data.place:
        say(f"The photographs are the same, now in {data.place} instead of {before}.")


def _check_accelerator(name: str) -> None:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    available = {"auto": True, "cpu": True, "gpu": cuda or mps, "cuda": cuda, "mps": mps}
    if not available[name]:
        raise ConfigError(
            f"This machine has no accelerator {name} that PyTorch can use.",
            expected=f"one of {', '.join(name for name, there in available.items() if there)}",
            got=f"trainer.accelerator={name}",
            to_do="set trainer.accelerator=auto, or install a PyTorch build and a driver for the device",
        )


@contextmanager
def refusals_explained() -> Iterator[None]:
    """Turn an error of Lightning or PyTorch about the trainer's options into a ConfigError.

    Raises:
        ConfigError: an option was refused in the block.
    """
    try:
        yield
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(
            "The trainer cannot be built.",
            expected="trainer.* and precision values that Lightning and PyTorch accept on this machine",
            got=reason(error),
            to_do="correct these values",
        ) from error


@contextmanager
def lack_of_memory_explained() -> Iterator[None]:
    """Turn an allocation that failed into a TrainingError.

    Raises:
        TrainingError: the memory of this machine or of its device was exhausted in the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not known:
            raise
        raise TrainingError(
            "The memory is exhausted.",
            expected="enough memory for weights, gradients, optimizer state and the activations of one micro-batch",
            got=reason(error),
            to_do="lower batch_size or crop, raise accumulate, or choose a smaller network; the same command continues "
            "from the newest checkpoint if only trainer.* values change",
        ) from error
