"""The report as one self-contained HTML file: no network access, no further files, no JavaScript library."""

from lic_train.report.page.document import render, write

__all__ = ["render", "write"]
