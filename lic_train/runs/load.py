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
    """Load a model of a run directory on the CPU, ready for coding.

    Damaged files are reported and skipped, except for a path in ``checkpoint``, which is loaded as it is.

    Args:
        run: the run directory, or a ``.safetensors`` or ``.ckpt`` file.
        checkpoint: ``best`` (the newest checkpoint if there is no intact best model), ``last``, or a path.

    Raises:
        CheckpointError: there is no intact checkpoint.
    """
    if not run.exists():
        raise CheckpointError(f"{run} does not exist.", expected="a run directory or a checkpoint")
    if run.is_file():
        return load_file(run)
    if checkpoint not in ("best", "last"):
        return load_file(Path(checkpoint) if Path(checkpoint).exists() else run / CHECKPOINTS / checkpoint)
    damaged = []
    for path in _candidates(run, checkpoint):
        try:
            return load_file(path)
        except CheckpointError as error:
            damaged.append(str(error))
            say_warning(f"Skipping a damaged checkpoint: {error}")
    raise CheckpointError(
        f"There is no intact checkpoint in {run / CHECKPOINTS}.",
        got="\n".join(["only damaged ones", *damaged]) if damaged else "none",
        to_do="train first: lic train ...",
    )


def _candidates(run: Path, checkpoint: str) -> list[Path]:
    """Return the files to try in order: best (if requested), last, then the numbered ones from the newest."""
    folder = run / CHECKPOINTS
    paths = [folder / LAST, *reversed(step_files(folder))]
    if checkpoint == "best":
        paths.insert(0, best_model(run))
    return [path for path in paths if path.exists()]
