"""The trained codec inside the package: a small network with a variable rate; see docs/demo.md."""

from __future__ import annotations

from pathlib import Path

NAME = "demo"
FILE = Path(__file__).with_name(f"{NAME}.safetensors")


def located(path: Path) -> Path:
    """Return the file of the codec in the package if ``path`` is its name, otherwise ``path``."""
    return FILE if path == Path(NAME) else path
