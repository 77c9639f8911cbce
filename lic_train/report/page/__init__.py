"""The report as one HTML file that needs nothing else: no network, no second file, no library."""

from lic_train.report.page.document import render, write

__all__ = ["render", "write"]
