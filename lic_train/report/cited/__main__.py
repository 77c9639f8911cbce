"""``python -m lic_train.report.cited TABLE``: take the curves of a table of published points into this package."""

from __future__ import annotations

import sys
from pathlib import Path

from lic_train.report.cited import HERE
from lic_train.report.cited.table import read_table, write_curves
from lic_train.system.command import errors_without_traceback

if __name__ == "__main__":
    with errors_without_traceback():
        for written in write_curves(read_table(Path(sys.argv[1])), HERE):
            print(written)
