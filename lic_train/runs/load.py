"""Loading the model of a run directory."""

from __future__ import annotations

from pathlib import Path

from lic_train.errors import CheckpointError
from lic_train.files.checkpoint import Metadata, load_file
from lic_train.models.base import Codec
from lic_train.runs.checkpoints import step_files
from lic_train.runs.layout import CHECKPOINTS, LAST, best_model
from lic_train.system.screen import say_warning


def load_run(run: Path, checkpoint: str = "best") -> tuple[Codec, Metadata]:
    """Load a model of a run directory, ready to code, on the CPU.

    Args:
        run: the run's directory, or itself a ``.safetensors`` or ``.ckpt`` file.
        checkpoint: ``best`` (then the newest, if there is no intact best one), ``last``, or a path.

    Broken files are reported on the screen and passed over; a path is taken as it is.

    Raises:
        CheckpointError: nothing intact was found.
    """
    if not run.exists():
        raise CheckpointError(f"expected a run directory or a checkpoint, got {run}, which does not exist")
    if run.is_file():
        return load_file(run)
    if checkpoint not in ("best", "last"):
        return load_file(Path(checkpoint) if Path(checkpoint).exists() else run / CHECKPOINTS / checkpoint)
    reasons = []
    for path in _candidates(run, checkpoint):
        try:
            return load_file(path)
        except CheckpointError as error:
            reasons.append(str(error))
            say_warning(f"passed over: {error}")
    found = "only broken ones:\n  " + "\n  ".join(reasons) if reasons else "none; train first: python train.py ..."
    raise CheckpointError(f"expected a checkpoint in {run / 'checkpoints'}, got {found}")


def _candidates(run: Path, checkpoint: str) -> list[Path]:
    """Files to try, the wanted first: best, last, then the numbered ones from the newest on."""
    folder = run / CHECKPOINTS
    paths = [folder / LAST, *reversed(step_files(folder))]
    if checkpoint == "best":
        paths.insert(0, best_model(run))
    return [path for path in paths if path.exists()]
