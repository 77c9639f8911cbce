"""Train a codec: ``lic train model=cwam lambda=0.0067``. Every setting: conf/config.yaml. ``-m`` sweeps."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from lic_train.config.compose import prepare
from lic_train.config.folder import CONF_DIR
from lic_train.config.run import RunConfig, checked
from lic_train.report import card
from lic_train.system.screen import errors_without_traceback
from lic_train.training import setup
from lic_train.training.closing import check_evaluation, evaluate_best, show_end


def train(config: RunConfig) -> int:
    """Build, fit and evaluate; return the exit code."""
    data = setup.make_data(config)
    with setup.claim_directory(config, data) as run:
        if not run.finished:
            model = setup.make_model(config)
            check_evaluation(config, run, model)
            with setup.loggers(config, run) as loggers:
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exit with the exit code of the run."""
    with errors_without_traceback():
        sys.argv[1:] = prepare(sys.argv[1:] if argv is None else argv)
        _job()


if __name__ == "__main__":
    main()
