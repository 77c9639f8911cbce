"""Names of everything that a run directory contains."""

from __future__ import annotations

from pathlib import Path

CONFIG = Path(".hydra/config.yaml")
OVERRIDES = Path(".hydra/overrides.yaml")
LOCK = ".lock"
FINISHED = "finished.json"
CHECKPOINTS = "checkpoints"
BEST = "best.safetensors"
LAST = "last.ckpt"
METRICS = "metrics.csv"
ENVIRONMENT = "environment.json"
DIFF = "dirty.diff"
DATA_REPORT = "data_report.json"
CARD = "card.md"
PICTURES = "pictures"
EVAL = "eval"
FAILING_BATCH = "failing_batch"
WANDB = "wandb"
LOG = "log.txt"  # output of a run that a launcher started without a terminal
SLURM_JOB = "slurm_job.txt"

# Columns of metrics.csv with the hours of a run, by kind of device.
HOURS = {"gpu": "train/gpu_hours", "cpu": "train/cpu_hours"}


def best_model(run: Path) -> Path:
    """The exported model with the lowest validation loss."""
    return run / CHECKPOINTS / BEST


def result(run: Path, set_name: str) -> Path:
    """The JSON file of the evaluation on a set."""
    return run / EVAL / f"{set_name}.json"


def coded(run: Path, set_name: str) -> Path:
    """The folder of the .lic files of a set."""
    return run / EVAL / set_name
