"""The end of a run: evaluate the best model with real files and mark the run as finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lic_train.config.run import RunConfig
from lic_train.data.module import Photographs
from lic_train.evaluate.run import evaluate_run, require_all, show, stored_result
from lic_train.evaluate.sets import open_images
from lic_train.models.base import Codec
from lic_train.runs import layout
from lic_train.runs.claim import ResumeState
from lic_train.system.screen import is_first_process, say


def evaluate_best(config: RunConfig, run: ResumeState, data: Photographs) -> dict[str, Any] | None:
    """Evaluate the best model and mark the run as finished; a stored result is read, not repeated.

    Returns:
        The result, or None in every process but the first.
    """
    if not is_first_process():
        return None
    if run.finished:
        say(f"This run is already finished at step {run.results.get('step', config.steps)}; nothing to train.", "green")
        say("To train again: fresh=true (moves this run to another directory), or name=... (a new directory)")
    path = layout.result(run.run_dir, config.eval.name)
    if run.finished and (stored := stored_result(path)) is not None:
        return stored
    device = "cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    result = evaluate_run(run.run_dir, _images(config, run.run_dir, data), config.eval.name, device=device)
    run.finish(config.steps, {**result["mean"], "eval": config.eval.name})
    return result


def check_evaluation(config: RunConfig, run: ResumeState, model: Codec) -> None:
    """Check before the training that the folder of the closing evaluation contains only images that can be coded.

    Raises:
        DataError: the folder is missing, or an image cannot be used; the message names all of them.
    """
    if config.eval.root is not None and is_first_process():
        require_all(open_images(config.eval, run.run_dir), model)


def show_end(result: dict[str, Any], run_dir: Path) -> int:
    """Print the evaluation and the paths of the run's files.

    Returns:
        Exit code: 0, or 1 if a decoded image differs from the encoder's reconstruction.
    """
    show(result, run_dir)
    _show_places(run_dir)
    return 0 if result["mean"]["equal"] else 1


def _images(config: RunConfig, run_dir: Path, data: Photographs) -> list[tuple[str, Tensor]]:
    if config.eval.root is None:
        return data.whole_images(config.eval.limit or len(data.val))
    return list(open_images(config.eval, run_dir))


def _show_places(run_dir: Path) -> None:
    """Print one line for each file or folder of the run that `show` does not list."""
    places = {
        "model": layout.best_model(run_dir),
        "metrics": run_dir / layout.METRICS,
        "config": run_dir / layout.CONFIG,
        "record": run_dir / layout.ENVIRONMENT,
        "card": run_dir / layout.CARD,
        "W&B": run_dir / layout.WANDB,
    }
    for what, place in places.items():
        if place.exists():
            say(f"{what:9} {place}")
