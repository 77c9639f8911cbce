"""Callbacks of a training run, one subject per file.

Lightning calls the hooks in the order of the trainer's list: ``DataWatch``, ``DeviceHours``, ``NonFiniteGuard``,
``Pictures``, ``RateDistortion``, ``Rows``, ``Checkpoints``, ``WeightAveraging``, ``ProgressBar``, ``GracefulStop``. The
order matters:

- ``Rows`` before ``Checkpoints``: a step's row is written before its checkpoint, so a kill in between loses nothing.
- ``Pictures`` and ``Checkpoints`` before ``WeightAveraging``, which restores the trained weights after a validation.
- Everything that saves or draws before ``ProgressBar``, which counts the remaining time between batches as waiting for
  data.
- ``GracefulStop`` last: it stops when all other callbacks have finished the step.
"""

from lic_train.training.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from lic_train.training.callbacks.data_watch import DataWatch
from lic_train.training.callbacks.ema import WeightAveraging
from lic_train.training.callbacks.guard import NonFiniteGuard
from lic_train.training.callbacks.interrupt import GracefulStop, Interrupted
from lic_train.training.callbacks.pictures import Pictures
from lic_train.training.callbacks.progress import ProgressBar
from lic_train.training.callbacks.rate_distortion import RateDistortion
from lic_train.training.callbacks.rows import Rows

__all__ = [
    "AtomicCheckpointIO",
    "Checkpoints",
    "DataWatch",
    "GracefulStop",
    "Interrupted",
    "NonFiniteGuard",
    "Pictures",
    "ProgressBar",
    "RateDistortion",
    "Rows",
    "WeightAveraging",
]
