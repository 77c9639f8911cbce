"""Training process for tests that compare the weights of all processes of a job, or signal it at a given step.

The last weights of process r are written to weights_r.bin in the run directory. With TEST_SIGNAL="lambda:step" in the
environment, the run with that lambda makes Slurm send SIGUSR1 to its job once, before that step, and waits for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import submitit

from lic_train.system.command import errors_without_traceback
from lic_train.training import setup
from lic_train.training.callbacks.interrupt import GracefulStop
from tests.small_runs import run_here, without_drawing

SECONDS = 180.0  # time limit for the arrival of the signal


def main() -> int:
    given = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    run = Path(given["output"].replace("${lambda}", given["lambda"]))
    lmbda, _, step = os.environ.get("TEST_SIGNAL", "").partition(":")
    without_drawing()
    if given["lambda"] == lmbda and not (run / "checkpoints").exists():
        signal_before(int(step))
    kept: list[Any] = []
    make_module = setup.make_module
    setup.make_module = lambda *arguments: kept.append(make_module(*arguments)) or kept[0]  # type: ignore[func-returns-value]
    with errors_without_traceback():
        code = run_here(sys.argv[1:])
    weights = (value.detach().numpy().tobytes() for value in kept[0].state_dict().values())
    (run / f"weights_{os.environ['SLURM_PROCID']}.bin").write_bytes(b"".join(weights))
    return code


def signal_before(step: int) -> None:
    """Make the first process of the job request Slurm to signal all processes before ``step``."""
    started = GracefulStop.on_train_batch_start

    def signalled(self: Any, trainer: Any, *arguments: Any) -> None:
        if trainer.global_step == step and trainer.global_rank == 0:
            number = submitit.JobEnvironment().job_id
            subprocess.run(["scancel", "--signal=USR1", number], check=True)
            limit = time.monotonic() + SECONDS
            while not self.requested and time.monotonic() < limit:
                time.sleep(0.01)
        started(self, trainer, *arguments)

    GracefulStop.on_train_batch_start = signalled  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
