"""Curves that others published: VTM, BPG, and the points of the papers, one file a curve, each with its source.

``about`` says where the numbers were taken from (``source``), of which pictures they are, which of our models they are
of (``model``, or null), and the lambda of every point where that is told (``lambdas``, in the order of the points).
"""

from __future__ import annotations

from pathlib import Path

from lic_train.rd.curves import Curve, load

HERE = Path(__file__).parent


def curves(set_name: str) -> list[Curve]:
    """The cited curves on a set of pictures, by key; none for a set that nothing is cited on.

    Raises:
        DataError: a file is damaged.
    """
    folders = (folder for folder in HERE.iterdir() if folder.name == set_name and folder.is_dir())
    return [load(path) for folder in folders for path in sorted(folder.glob("*.json"))]
