"""Evaluation by the real codec: files on disk, decoded by another object, measured, and kept as data."""

from lic_train.evaluate.results import describe
from lic_train.evaluate.run import evaluate, evaluate_run, show

__all__ = ["describe", "evaluate", "evaluate_run", "show"]
