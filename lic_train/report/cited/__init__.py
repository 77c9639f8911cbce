"""Published curves: VTM, BPG and the points of papers, one file for each curve, with its source.

``about`` contains where the numbers were taken from (``source``), the pictures (``pictures``), the model of this
package that the curve belongs to (``model``, or null), and the lambda of every point where it is published
(``lambdas``, in the order of the points).
"""

from __future__ import annotations

from pathlib import Path

from lic_train.rd.curves import Curve, load

HERE = Path(__file__).parent


def curves(set_name: str) -> list[Curve]:
    """Return the cited curves on a picture set, sorted by key; an empty list for a set without curves.

    Raises:
        DataError: a file is damaged.
    """
    folders = (folder for folder in HERE.iterdir() if folder.name == set_name and folder.is_dir())
    return [load(path) for folder in folders for path in sorted(folder.glob("*.json"))]
