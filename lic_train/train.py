"""Train a codec: ``lic train model=cwam lambda=0.0067``. Every setting: conf/config.yaml. ``-m`` sweeps."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from lic_train.config.command_line import prepare
from lic_train.config.compose import composition_errors_explained
from lic_train.config.folder import CONF_DIR
from lic_train.config.run import RunConfig, checked
from lic_train.report import card
from lic_train.system import relaunch
from lic_train.system.command import command, errors_without_traceback
from lic_train.training import preconditions, setup
from lic_train.training.closing import check_evaluation, evaluate_best, show_end


def train(config: RunConfig) -> int:
    """Build, fit and evaluate; return the exit code."""
    data = setup.make_data(config)
    preconditions.check(config, data)
    with preconditions.lack_of_memory_explained(), setup.claim_directory(config, data) as run:
        if not run.finished:
            model = setup.make_model(config)
            check_evaluation(config, run, model)
            with setup.loggers(config, run) as loggers:
                with preconditions.refusals_explained():
                    trainer = setup.make_trainer(config, run, loggers, data)
                setup.show_start(config, model, trainer, data)
                trainer.fit(setup.make_module(config, model), data, ckpt_path=run.checkpoint)
        result = evaluate_best(config, run, data)
        if result is None:  # not the first process
            return 0
        card.write(run.run_dir)
        return show_end(result, run.run_dir)


@hydra.main(config_path=str(CONF_DIR), config_name="config", version_base="1.3")
def _job(cfg: DictConfig) -> None:
    """Run one job; Hydra calls this once per job of a sweep in this process."""
    with errors_without_traceback():
        if code := train(checked(cfg)):
            sys.exit(code)


@command("the same command continues the run")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code of the run."""
    relaunch.TYPED[:] = sys.argv[1:] if argv is None else argv
    sys.argv[1:] = prepare(relaunch.TYPED)  # Hydra reads it from there
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    with composition_errors_explained():
        _job()
    return 0


if __name__ == "__main__":
    sys.exit(main())
