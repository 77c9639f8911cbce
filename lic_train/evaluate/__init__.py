"""Evaluation with real bitstreams: .lic files on disk, decoded by a second model, measured and stored as JSON."""

from lic_train.evaluate.results import describe
from lic_train.evaluate.run import evaluate, evaluate_run, show

__all__ = ["describe", "evaluate", "evaluate_run", "show"]
