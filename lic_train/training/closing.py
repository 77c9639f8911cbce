"""The end of a run: the best model codes the evaluation photographs for real, and the run is marked as finished."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from lic_train.config import RunConfig
from lic_train.data.module import Photographs
from lic_train.evaluate import evaluate_run, show
from lic_train.evaluate.sets import open_images
from lic_train.report import card
from lic_train.training.console import is_first_process, say
from lic_train.training.run_directory import ResumeState


def close(config: RunConfig, run: ResumeState, data: Photographs) -> int:
    """In the first process, evaluate the best model, unless that has been done, and tell where everything lies.

    Returns:
        0, or 1 if a decoded picture is not the encoder's.
    """
    if not is_first_process():
        return 0
    if run.finished:
        say(f"This run is finished at step {run.results.get('step', config.steps)}; nothing is left to train.", "green")
        say("To train it anew: fresh=true (moves this one aside), or name=... (another directory)")
    path = run.run_dir / "eval" / f"{config.eval.name}.json"
    if run.finished and path.exists():
        result = json.loads(path.read_text(encoding="utf-8"))
    else:
        device = "cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
        result = evaluate_run(run.run_dir, _images(config, run.run_dir, data), config.eval.name, device=device)
        run.finish(config.steps, {**result["mean"], "eval": config.eval.name})
    card.write(run.run_dir)
    show(result, run.run_dir)
    _show_places(run.run_dir)
    return 0 if result["mean"]["equal"] else 1


def _images(config: RunConfig, run_dir: Path, data: Photographs) -> list[tuple[str, Tensor]]:
    if config.eval.root is None:
        return data.whole_images(config.eval.limit or len(data.val))
    return list(open_images(config.eval, run_dir))


def _show_places(run_dir: Path) -> None:
    """One line for each thing the run left, beside those that `show` tells."""
    places = {
        "model": "checkpoints/best.safetensors",
        "metrics": "metrics.csv",
        "config": ".hydra/config.yaml",
        "record": "environment.json",
        "card": card.NAME,
        "W&B": "wandb",
    }
    for what, place in places.items():
        if (run_dir / place).exists():
            say(f"{what:9} {run_dir / place}")
