"""Names of the files and folders in a run directory.

`lic_train.data` is a lower layer and cannot import this module; it defines data_manifest.json and data_report.json.
"""

from __future__ import annotations

import re
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
CARD = "card.md"
PICTURES = "pictures"
EVAL = "eval"
LIC = ".lic"
DECODED, ERROR, BITS = "decoded", "error", "bits"  # folders of pictures below eval/<set>/
MAPS = (ERROR, BITS)
FAILING_BATCH = "failing_batch"
WANDB = "wandb"
TENSORBOARD = "tensorboard"
LOG = "log.txt"  # output of a run that a launcher started without a terminal
SLURM_JOB = "slurm_job.txt"
WRITTEN = (CONFIG.parts[0], CHECKPOINTS, PICTURES, EVAL, FAILING_BATCH)  # folders in which all files are of the run
TRAINED = (CONFIG.parts[0], CHECKPOINTS, FAILING_BATCH, WANDB, TENSORBOARD)  # folders that training writes to
_FILES = re.compile(
    "|".join(map(re.escape, (FINISHED, METRICS, ENVIRONMENT, DIFF, CARD, SLURM_JOB, "model.safetensors")))
    + r"|data_(manifest|report(_rank\d+)?)\.json"
)


def is_written(name: str) -> bool:
    """Return whether ``name`` is that of a file that a run writes to the run directory itself."""
    return _FILES.fullmatch(name) is not None


def best_model(run: Path) -> Path:
    """Return the path of the exported model with the lowest validation loss."""
    return run / CHECKPOINTS / BEST


def results_folder(run: Path) -> Path:
    """Return the folder of the results of a run directory, which is itself, or of a model file, which has its name."""
    return run if run.is_dir() or not run.suffix else run.with_suffix("")


def result(run: Path, set_name: str) -> Path:
    """Return the path of the JSON file with the evaluation results on a set."""
    return run / EVAL / f"{set_name}.json"


def coded(run: Path, set_name: str) -> Path:
    """Return the path of the folder with the .lic files of a set."""
    return run / EVAL / set_name


def is_log(name: str) -> bool:
    """Return whether ``name`` is that of a file which a launcher writes to the run directory before the run starts."""
    return name == SLURM_JOB or re.fullmatch(r"log(_\d+)?\.txt", name) is not None


def log_file(run: Path, rank: int) -> Path:
    """Return the path of the output of one process of a run that a cluster started; rank 0 writes to `LOG`."""
    return run / (LOG if rank == 0 else f"log_{rank}.txt")
