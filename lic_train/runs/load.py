"""Loading the model of a run directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lic_train.config.networks import differences
from lic_train.errors import CheckpointError, ConfigError
from lic_train.files.checkpoint import Metadata, load_file, read_metadata
from lic_train.files.shipped import located
from lic_train.models.base import LAMBDAS, Codec, fixed
from lic_train.runs.checkpoints import step_files
from lic_train.runs.layout import CHECKPOINTS, LAST, best_model
from lic_train.system.screen import say_warning


def load_run(run: Path, checkpoint: str = "best") -> tuple[Codec, Metadata]:
    """Load a model of a run directory on the CPU, ready for coding.

    Damaged files are reported and skipped, except for a path in ``checkpoint``, which is loaded as it is.

    Args:
        run: the run directory, or a ``.safetensors`` or ``.ckpt`` file, or "demo", the codec inside the package.
        checkpoint: ``best`` (the newest checkpoint if there is no intact best model), ``last``, or a path.

    Raises:
        CheckpointError: there is no intact checkpoint.
    """
    run = located(run)
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


def check_start(model: Mapping[str, Any], start: Path) -> None:
    """Check that a network can start from the weights of another run, by their shapes.

    Args:
        model: configuration of the network; one with a variable rate can start from one with the same weights and one
            rate.
        start: the value of ``init_from``, as ``run`` in `load_run`.

    Raises:
        CheckpointError: there is no intact model in ``start``.
        ConfigError: it is another network.
    """
    best = start if start.suffix == ".safetensors" else best_model(start)
    donor = read_metadata(best) if best.is_file() else load_run(start)[1]
    if found := differences(donor.config, model if LAMBDAS in donor.config else fixed(model)):
        arguments = ", ".join(f"model.{key}={value}" for key, value in fixed(donor.config).items() if key != "_target_")
        arguments += ", rate=variable" * (LAMBDAS in donor.config)
        raise ConfigError(
            f"init_from={start} contains another network.",
            expected="the model and the model.* values of that run",
            got="\n".join(["that run -> this run", *found]),
            to_do=f"train the same network as that run: {arguments}",
        )


def _candidates(run: Path, checkpoint: str) -> list[Path]:
    """Return the files to try in order: best (if requested), last, then the numbered ones from the newest."""
    folder = run / CHECKPOINTS
    paths = [folder / LAST, *reversed(step_files(folder))]
    if checkpoint == "best":
        paths.insert(0, best_model(run))
    return [path for path in paths if path.exists()]
