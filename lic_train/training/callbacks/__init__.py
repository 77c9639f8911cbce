"""What surrounds the training step, one subject a file.

Lightning calls the hooks in the order of the trainer's list, and the order matters: ``DataWatch``, ``DeviceHours``,
``NonFiniteGuard``, ``Pictures``, ``RateDistortion``, ``Rows``, ``Checkpoints``, ``WeightAveraging``, ``ProgressBar``,
``GracefulStop``. A step's row is written before its checkpoint, so that a kill between the two loses nothing. What
exports or draws the model after a validation stands before the averaging, which puts the trained weights back; what
saves or draws stands before the bar, which takes the time between batches that is left for a wait for data; and the
stop comes when all others are done with the step.
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
