"""Launcher for a Slurm cluster: array jobs, one run per array task, requeued at the time limit."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

import lic_train
from lic_train.errors import ConfigError
from lic_train.launch.engine import Engine, Outcome, must_wait, not_installed, outcome
from lic_train.launch.plan import Job, counted
from lic_train.launch.process import StopRequest
from lic_train.launch.progress import SweepProgress
from lic_train.launch.remote import SlurmTask
from lic_train.runs.layout import LOG, SLURM_JOB
from lic_train.runs.state import read_state
from lic_train.system import atomic
from lic_train.system.relaunch import train_command
from lic_train.system.screen import say

PACKAGES = Path(lic_train.__file__).parents[1]  # added to PYTHONPATH on the nodes of the cluster
POLL_SECONDS = 2.0
MISSES = 3  # polls during which a shared file system may show an outdated state of the run


class Slurm(Engine):
    """Submits the runs to Slurm. The fields are documented in conf/launcher/slurm.yaml.

    The jobs outlive this process: Ctrl-C leaves them in the queue, and the same command finds them there again.
    """

    partition: str | None
    account: str | None
    hours: PositiveFloat
    signal_seconds: PositiveInt
    requeues: NonNegativeInt
    gpus: NonNegativeInt | None
    cpus: PositiveInt
    memory_gb: PositiveFloat
    parallel: PositiveInt
    sbatch: dict[str, Any]
    wait: bool

    def run(self, jobs: Sequence[Job], directory: Path, stop: StopRequest) -> Iterator[tuple[Job, Outcome]]:
        """See `Engine`; on a stop request no job is stopped, and unfinished jobs are yielded in their present state."""
        ids = self._submit(jobs, directory)
        with SweepProgress(jobs) as progress:
            yield from self._watch(ids, stop, progress)

    def _submit(self, jobs: Sequence[Job], directory: Path) -> dict[Job, str]:
        """Submit the jobs that are not yet in the queue from an earlier start; return the Slurm job id of each."""
        queued = _queue()
        ids = {job: number for job in jobs if (number := _recorded(job)) in queued}
        groups: dict[tuple[Job | None, int, int, int], list[Job]] = {}
        for job in jobs:
            if job not in ids:
                kind = (job.parent, job.config.trainer.num_nodes, self._devices(job), self._gpus(job))
                groups.setdefault(kind, []).append(job)
        for (parent, nodes, tasks, gpus), members in groups.items():
            shape = {"nodes": nodes, "tasks_per_node": tasks, "slurm_gpus_per_node": gpus or None}
            numbers = self._submit_array(members, directory, ids.get(parent) if parent else None, shape)
            ids |= dict(zip(members, numbers, strict=True))
        return ids

    def _gpus(self, job: Job) -> int:
        if self.gpus is not None:
            return self.gpus
        return 0 if job.config.trainer.accelerator == "cpu" else self._devices(job)

    def _devices(self, job: Job) -> int:
        """Return the number of tasks on each machine.

        Raises:
            ConfigError: the number of GPUs of a machine is not known before it is allocated.
        """
        trainer = job.config.trainer
        if trainer.devices != "auto":
            return trainer.devices
        if trainer.accelerator == "cpu":
            return trainer.num_devices
        if not self.gpus:
            raise ConfigError(
                "launcher=slurm cannot derive the number of processes from trainer.devices=auto.",
                expected="the number of GPUs of a machine",
                got=f"launcher.gpus={self.gpus}",
                to_do="set launcher.gpus, or trainer.devices to a number",
            )
        return self.gpus

    def _submit_array(
        self, jobs: Sequence[Job], directory: Path, parent: str | None, shape: dict[str, int | None]
    ) -> list[str]:
        """Submit jobs with the same resources and the same parent as one array; return their Slurm job ids."""
        submitit = _import_submitit()
        # Without kill-on-invalid-dep a child of a failed parent would stay in the queue forever.
        after = {"dependency": f"afterok:{parent}", "kill-on-invalid-dep": "yes"} if parent else {}
        executor = submitit.AutoExecutor(directory / "slurm", cluster="slurm", slurm_max_num_timeout=self.requeues)
        executor.update_parameters(
            name=directory.name,
            timeout_min=math.ceil(60 * self.hours),
            cpus_per_task=self.cpus,
            mem_gb=self.memory_gb,
            slurm_partition=self.partition,
            slurm_account=self.account,
            slurm_array_parallelism=self.parallel,
            slurm_signal_delay_s=self.signal_seconds,
            slurm_setup=[f"export PYTHONPATH={shlex.quote(str(PACKAGES))}${{PYTHONPATH:+:$PYTHONPATH}}"],
            slurm_additional_parameters={"requeue": True, **self.sbatch, **after},
            **shape,
        )
        try:
            with executor.batch():
                submitted = [executor.submit(SlurmTask(train_command(job.overrides), job.directory)) for job in jobs]
        except submitit.core.utils.FailedJobError as error:
            raise ConfigError(
                "launcher=slurm: sbatch rejected the jobs.",
                got=str(error).strip(),
                to_do="correct the options of conf/launcher/slurm.yaml on the command line, such as launcher.partition",
            ) from error
        numbers = [str(one.job_id) for one in submitted]
        for job, number in zip(jobs, numbers, strict=True):
            atomic.replace_text(job.directory / SLURM_JOB, number)
        after_parent = f", after {parent}" if parent else ""
        say(f"Slurm job {numbers[0].partition('_')[0]}: {counted(len(jobs))}{after_parent}; output: {LOG} of each run")
        return numbers

    def _watch(self, ids: dict[Job, str], stop: StopRequest, progress: SweepProgress) -> Iterator[tuple[Job, Outcome]]:
        """Poll the queue until it contains none of the jobs."""
        misses, queue = dict.fromkeys(ids, 0), dict.fromkeys(ids.values(), "PENDING")
        while True:
            with contextlib.suppress(ConfigError):  # the controller may be unavailable for a while
                queue = _queue()
            for job in list(misses):
                misses[job] = 0 if ids[job] in queue else misses[job] + 1
                if misses[job] and (read_state(job.directory).finished or misses[job] > MISSES):
                    del misses[job]
                    yield job, "waiting" if must_wait(job) else outcome(job, 0, stop)
            if not misses:
                return
            running = [job for job in misses if queue.get(ids[job]) == "RUNNING"]
            progress.update(f"{len(running)} running, {len(misses) - len(running)} queued")
            if stop.requested or not self.wait:
                numbers = " ".join(sorted({ids[job] for job in misses}))
                say(f"The jobs stay in the queue. To cancel them: scancel {numbers}")
                yield from ((job, "running" if job in running else "queued") for job in misses)
                return
            time.sleep(POLL_SECONDS)


def _recorded(job: Job) -> str | None:
    path = job.directory / SLURM_JOB
    return path.read_text() if path.exists() else None


def _queue() -> dict[str, str]:
    """Return the state of all jobs of this user by Slurm job id.

    Raises:
        ConfigError: Slurm is not installed or does not respond.
    """
    arguments = ["squeue", "--array", "--noheader", "--format=%i %T", f"--user={os.getuid()}"]
    try:
        output = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            "launcher=slurm: squeue failed.",
            got=getattr(error, "stderr", "").strip() or str(error),
            to_do="start the sweep on a login node",
        ) from error
    return dict(line.split(maxsplit=1) for line in output.splitlines())


def _import_submitit() -> Any:
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # submitit reads it at import, here and in the jobs
    try:
        import submitit
    except ImportError as error:
        raise not_installed("slurm", "submitit") from error
    return submitit
