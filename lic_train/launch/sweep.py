"""A sweep, ``lic train -m``: finished runs are skipped, the others are trained, and a table of all runs is printed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from rich import get_console

from lic_train.config.compose import validated
from lic_train.config.literal import opened
from lic_train.launch import rates
from lic_train.launch.engine import Engine, Outcome
from lic_train.launch.plan import Job, counted, plan
from lic_train.launch.process import StopRequest
from lic_train.launch.table import Cost, Row, common_directory, hours_unit, render, rows, warm_start_cost, write
from lic_train.runs.claim import claim
from lic_train.runs.state import read_state, validation_loss
from lic_train.system.command import errors_without_traceback
from lic_train.system.interrupts import INTERRUPTED
from lic_train.system.relaunch import typed_command
from lic_train.system.screen import say

FAILED = 1  # exit code: at least one run is not finished


def make_engine(section: DictConfig) -> Engine:
    """Create the engine configured in conf/launcher.

    Raises:
        ConfigError: a key has an invalid value.
    """
    kind = get_class(section["_target_"])
    return validated(kind, OmegaConf.masked_copy(section, [str(key) for key in section if key != "_target_"]))


class Sweep:
    """All runs of one command.

    Args:
        config: the configuration that Hydra composed for the command as a whole.
    """

    def __init__(self, config: DictConfig) -> None:
        self.engine_section = config.launcher
        self.directory = Path(config.hydra.sweep.dir)
        # Every sweeper except Hydra's own chooses the next runs from the results of earlier ones.
        self.searching = "basic_sweeper" not in config.hydra.sweeper["_target_"]
        self.trials_left = config.hydra.sweeper.get("n_trials", 0) if self.searching else 0
        self.jobs: dict[Path, Job] = {}
        self.outcomes: dict[Job, Outcome] = {}

    def launch(self, typed: Sequence[Sequence[str]]) -> list[JobReturn]:
        """Train the jobs that Hydra expanded.

        The table is printed at the end of the sweep. If a run failed or was stopped, the process then exits.

        Args:
            typed: the overrides of each job.

        Returns:
            One result per job: its validation loss, for a search; None if the run did not finish.
        """
        with errors_without_traceback():
            name, jobs = self._train([list(map(opened, overrides)) for overrides in typed])
        self.trials_left -= len(jobs)
        found = rows(list(self.jobs.values()), self.outcomes)
        path = self.directory / f"{name}.json"
        cost = warm_start_cost(list(self.jobs.values()))
        compared = rates.comparisons(list(self.jobs.values()))
        write(path, name, typed_command(), found, cost, compared)
        if self.trials_left <= 0 or self.stop.requested:
            self._close(name, found, cost, compared, path)
        return [_job_return(job) for job in jobs]

    def _train(self, typed: Sequence[Sequence[str]]) -> tuple[str, list[Job]]:
        planned = plan(typed)
        engine = make_engine(self.engine_section)
        self.jobs |= {job.directory: job for job in planned.jobs}
        missing = [job for job in planned.jobs if not job.is_done]
        done = len(planned.jobs) - len(missing)
        say(f"Sweep {planned.name}: {counted(len(planned.jobs))}, {done} already finished")
        for job in missing:
            if job.fresh:
                claim(job.directory, job.config.plain(), True, job.overrides).release()
        with StopRequest() as self.stop:
            for job, outcome in engine.run(missing, self.directory / planned.name, self.stop):
                self.outcomes[job] = outcome
                say(f"{outcome}: {job.directory}", "green" if outcome == "finished" else "yellow")
        return planned.name, planned.jobs

    def _close(
        self, name: str, found: list[Row], cost: Cost | None, compared: list[rates.Comparison], path: Path
    ) -> None:
        """Print the table, its path and how to continue, and exit unless all runs succeeded."""
        get_console().print(render(name, found, self.searching))
        if cost:
            say(f"cost      {cost.describe(hours_unit(found))}")
        for comparison in compared:
            get_console().print(rates.render(comparison, hours_unit(found)))
            if comparison.reason:
                say(f"BD-rate   {comparison.reason}", "yellow")
        for row in found:
            if row.outcome == "failed":
                say(f"failed    {row.job.directory}: {row.log or 'see the messages above'}", "red")
        losses = {row.val_loss: row for row in found if row.outcome == "finished" and row.val_loss is not None}
        if self.searching and losses:
            say(f"best      {losses[min(losses)].job.directory}: validation loss {min(losses):.4f}", "green")
        say(f"runs      {common_directory(found)}")
        say(f"table     {path}")
        unfinished = any(row.outcome != "finished" for row in found)
        if unfinished:
            say("The same command continues: it skips finished runs, resumes stopped ones and retries failed ones.")
            say(f"command   {shlex.join(typed_command())}")
        if self.stop.requested:
            sys.exit(INTERRUPTED)
        failed = [row for row in found if row.outcome in ("failed", "waiting", "stopped")]
        if failed and (not self.searching or len(failed) == len(found)):  # a search succeeds if one trial does
            sys.exit(FAILED)


def _job_return(job: Job) -> JobReturn:
    loss = validation_loss(job.directory) if read_state(job.directory).finished else None
    return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=loss)
