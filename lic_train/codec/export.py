"""Exporting a run's model as one file or as ONNX, and listing what a model file contains."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from lic_train.codec.onnx import write_onnx
from lic_train.files.checkpoint import save_model
from lic_train.runs.load import load_run
from lic_train.system.screen import ruled_table


def export(run: Path, out: Path | None = None, checkpoint: str = "best", half: bool = False) -> str:
    """Write the model of a run or a checkpoint as safetensors and return a line about it.

    Args:
        run: run directory, ``.safetensors`` or ``.ckpt`` file.
        out: target; None takes ``model.safetensors`` in the run directory.
        checkpoint: of a run directory: "best", "last" or a file.
        half: round the weights to float16.

    Raises:
        CheckpointError: there is no intact model, or ``out`` cannot be written.
    """
    model, metadata = load_run(run, checkpoint)
    out = out or _folder(run) / "model.safetensors"
    identity = save_model(out, model, metadata.config, metadata.extra, half)
    return f"{metadata.path} -> {out}, fingerprint {identity.hex()}"


def export_onnx(run: Path, out: Path | None = None, checkpoint: str = "best") -> str:
    """Write the model of a run or a checkpoint as a folder of ONNX files and return a line about it.

    Args:
        run: run directory, ``.safetensors`` or ``.ckpt`` file.
        out: target folder; None takes ``onnx`` in the run directory.
        checkpoint: of a run directory: "best", "last" or a file.

    Raises:
        CheckpointError: there is no intact model, or ``out`` cannot be written.
        ConfigError: the packages of the extra ``onnx`` are not installed.
    """
    model, metadata = load_run(run, checkpoint)
    out = out or _folder(run) / "onnx"
    missing = write_onnx(model, metadata, out)
    return f"{metadata.path} -> {out}" + (f"; not in ONNX: {', '.join(missing)}" if missing else "")


def _folder(run: Path) -> Path:
    return run if run.is_dir() else run.parent


def contents(file: Path) -> Table:
    """Return a table of the configuration, the training and the size of a model.

    Raises:
        CheckpointError: there is no intact model.
    """
    model, metadata = load_run(file)
    table = ruled_table(title=str(metadata.path))
    table.show_header = False
    for name, value in {**metadata.config, **metadata.training}.items():
        table.add_row(name, str(value))
    table.add_row("parameters", f"{sum(parameter.numel() for parameter in model.parameters()):,}")
    table.add_row("fingerprint", metadata.fingerprint.hex())
    return table
