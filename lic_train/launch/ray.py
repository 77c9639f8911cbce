"""A pool of GPUs, on one machine or many: Ray gives every run its own, and starts the next where some are free."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat

from lic_train.errors import ConfigError
from lic_train.launch.engine import Engine, Outcome, outcome
from lic_train.launch.plan import Job, counted
from lic_train.launch.process import StopRequest
from lic_train.launch.progress import SweepProgress
from lic_train.launch.remote import train_in_pool
from lic_train.runs.layout import LOG
from lic_train.system.relaunch import train_command
from lic_train.system.screen import reason, say

POLL_SECONDS = 1.0


class Ray(Engine):
    """One Ray task for each run; the output goes to the run directory.

    Attributes:
        address: of a running Ray; None for RAY_ADDRESS, or one of our own on this machine.
        gpus: of a run; None for ``trainer.devices``, where the pool has GPUs and the run is not for the CPU.
        cpus: of a run.
    """

    address: str | None
    gpus: NonNegativeFloat | None
    cpus: PositiveFloat

    def run(self, jobs: Sequence[Job], directory: Path, stop: StopRequest) -> Iterator[tuple[Job, Outcome]]:
        """See `Engine`."""
        ray = _import_ray()
        with _connected(ray, self.address), SweepProgress(jobs) as progress:
            stop.take_over()  # Ray has set a handler of its own
            options = {job: self._resources(ray, job) for job in jobs}
            remote = ray.remote(max_retries=0)(train_in_pool)
            refs: dict[Any, Job] = {}
            by_job: dict[Job | None, Any] = {}
            for job in jobs:
                parent = by_job.get(job.parent, 0)  # its exit code, once it has one
                log, home = job.directory.absolute() / LOG, Path.cwd()
                by_job[job] = remote.options(**options[job]).remote(train_command(job.overrides), home, log, parent)
                refs[by_job[job]] = job
            say(f"Ray: {counted(len(jobs))}; output: {LOG} of each run")
            yield from self._collect(ray, refs, stop, progress)

    def _collect(
        self, ray: Any, refs: dict[Any, Job], stop: StopRequest, progress: SweepProgress
    ) -> Iterator[tuple[Job, Outcome]]:
        """Wait for the tasks; every stop request is passed on to each."""
        pending, passed_on = list(refs), 0
        while pending:
            done, pending = ray.wait(pending, timeout=POLL_SECONDS)
            progress.update(f"{len(refs) - len(pending)} of {len(refs)} runs ended")
            if passed_on < stop.count:
                passed_on = stop.count
                for ref in pending:
                    ray.cancel(ref)
            for ref in done:
                job = refs[ref]
                try:
                    code = ray.get(ref)
                except ray.exceptions.TaskCancelledError:
                    continue  # it had not begun
                except ray.exceptions.RayError as error:  # the machine, or Ray's process on it, went away
                    say(f"Ray on {job.directory}: {error}", "yellow")
                    code = 1
                yield job, "waiting" if code is None else outcome(job, code, stop)

    def _resources(self, ray: Any, job: Job) -> dict[str, float]:
        """What one run takes of the pool, refused where no machine has as much."""
        trainer, machines = job.config.trainer, [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if trainer.num_nodes > 1:
            raise ConfigError(
                f"launcher=ray: expected trainer.num_nodes=1, got {trainer.num_nodes}; launcher=slurm spreads one run "
                "over several machines"
            )
        most = {name: max(machine.get(name, 0) for machine in machines) for name in ("GPU", "CPU")}
        gpus = self.gpus
        if gpus is None:
            gpus = float(trainer.devices) if most["GPU"] and trainer.accelerator != "cpu" else 0.0
        if gpus > most["GPU"] or self.cpus > most["CPU"]:
            raise ConfigError(
                f"launcher=ray: expected a machine with {gpus:g} GPUs and {self.cpus:g} CPUs for a run, the largest of "
                f"{len(machines)} has {most['GPU']:g} and {most['CPU']:g}\n"
                "what to do: fewer trainer.devices, launcher.gpus=... or launcher.cpus=..., or a larger machine"
            )
        return {"num_gpus": gpus, "num_cpus": self.cpus}


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "launcher=ray: expected an installed Ray, there is none; what to do: pip install 'ray>=2.40'"
        ) from error
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    try:
        ray.init(address=address, include_dashboard=None, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # Ray has no class of its own for what can go wrong here
        raise ConfigError(
            f"launcher=ray: expected a Ray to connect to, or to start here, got: {reason(error)}\n"
            "what to do: on several machines `ray start --head` on one and `ray start --address=...` on the others, "
            "then launcher.address=auto"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
