"""Launcher for a pool of GPUs on one or several machines: Ray assigns GPUs to each run and queues the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat

from lic_train.errors import ConfigError
from lic_train.launch.engine import Engine, Outcome, not_installed, outcome
from lic_train.launch.plan import Job, counted
from lic_train.launch.process import StopRequest
from lic_train.launch.progress import SweepProgress
from lic_train.launch.remote import train_in_pool
from lic_train.runs.layout import LOG
from lic_train.system.relaunch import train_command
from lic_train.system.screen import reason, say

POLL_SECONDS = 1.0


class Ray(Engine):
    """One Ray task per run; the output of a run is written to its run directory.

    Attributes:
        address: address of a running Ray cluster; None for RAY_ADDRESS, or for a new one on this machine.
        gpus: GPUs per run; None for ``trainer.devices`` ("auto": all of the largest machine) if the pool has GPUs and
            the run is not a CPU run.
        cpus: CPUs per run.
    """

    address: str | None
    gpus: NonNegativeFloat | None
    cpus: PositiveFloat

    def run(self, jobs: Sequence[Job], directory: Path, stop: StopRequest) -> Iterator[tuple[Job, Outcome]]:
        """See `Engine`."""
        ray = _import_ray()
        with _connected(ray, self.address), SweepProgress(jobs) as progress:
            stop.take_over()  # Ray has installed a handler of its own
            options = {job: self._resources(ray, job) for job in jobs}
            remote = ray.remote(max_retries=0)(train_in_pool)
            refs: dict[Any, Job] = {}
            by_job: dict[Job | None, Any] = {}
            for job in jobs:
                parent = by_job.get(job.parent, 0)  # Ray replaces the reference by the parent's exit code
                log, home = job.directory.absolute() / LOG, Path.cwd()
                by_job[job] = remote.options(**options[job]).remote(train_command(job.overrides), home, log, parent)
                refs[by_job[job]] = job
            say(f"Ray: {counted(len(jobs))}; output: {LOG} of each run")
            yield from self._collect(ray, refs, stop, progress)

    def _collect(
        self, ray: Any, refs: dict[Any, Job], stop: StopRequest, progress: SweepProgress
    ) -> Iterator[tuple[Job, Outcome]]:
        """Wait for the tasks and forward every stop request to each of them."""
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
                    continue  # it was not started
                except ray.exceptions.RayError as error:  # the machine, or Ray's process on it, has failed
                    say(f"Ray on {job.directory}: {error}", "yellow")
                    code = 1
                yield job, "waiting" if code is None else outcome(job, code, stop)

    def _resources(self, ray: Any, job: Job) -> dict[str, float]:
        """Return the resources that one run takes from the pool.

        Raises:
            ConfigError: no machine has as many, or the run is to be spread over several machines.
        """
        trainer, machines = job.config.trainer, [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if trainer.num_nodes > 1:
            raise ConfigError(
                "launcher=ray cannot spread a run over several machines.",
                expected="trainer.num_nodes=1",
                got=f"trainer.num_nodes={trainer.num_nodes}",
                to_do="use launcher=slurm",
            )
        most = {name: max(machine.get(name, 0) for machine in machines) for name in ("GPU", "CPU")}
        gpus = self.gpus
        if gpus is None:
            wanted = most["GPU"] if trainer.devices == "auto" else float(trainer.devices)
            gpus = wanted if most["GPU"] and trainer.accelerator != "cpu" else 0.0
        if gpus > most["GPU"] or self.cpus > most["CPU"]:
            raise ConfigError(
                "launcher=ray: no machine of the pool is large enough for a run.",
                expected=f"a machine with {gpus:g} GPUs and {self.cpus:g} CPUs",
                got=f"at most {most['GPU']:g} GPUs and {most['CPU']:g} CPUs; machines: {len(machines)}",
                to_do="reduce trainer.devices, set launcher.gpus=... or launcher.cpus=..., or add a larger machine",
            )
        return {"num_gpus": gpus, "num_cpus": self.cpus}


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise not_installed("ray", "Ray") from error
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    try:
        ray.init(address=address, include_dashboard=None, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # Ray has no common class for the errors of this call
        raise ConfigError(
            "launcher=ray cannot connect to Ray or start it.",
            expected="a running Ray cluster, or a machine on which Ray can be started",
            got=reason(error),
            to_do="for several machines, run `ray start --head` on one and `ray start --address=...` on the others, "
            "then set launcher.address=auto",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
