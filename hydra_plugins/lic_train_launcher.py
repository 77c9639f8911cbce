"""Registration of the launcher with Hydra, which scans all parts of the namespace package ``hydra_plugins``."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LicTrainLauncher(Launcher):
    """Passes the jobs of ``-m`` to `lic_train.launch.sweep`, which trains each in a process of its own."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Receive the configuration of the command line as a whole; Hydra calls it once. See `Launcher`."""
        from lic_train.launch.sweep import Sweep  # imported here, because Hydra imports this file at every start

        self.sweep = Sweep(config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train all jobs of a grid, or one batch of trials of a search. See `Launcher`."""
        return self.sweep.launch(job_overrides)


ConfigStore.instance().store(
    group="hydra/launcher",
    name="lic_train",
    node={"_target_": f"{__name__}.{LicTrainLauncher.__name__}"},
    provider="lic_train",
)
