"""Train a codec: ``python train.py model=cwam lambda=0.0067``. Every setting: conf/config.yaml. ``-m`` sweeps."""

import sys

import hydra
from omegaconf import DictConfig

from lic_train.config import RunConfig, checked, prepare
from lic_train.screen import errors_without_traceback
from lic_train.training import setup
from lic_train.training.closing import close


def train(config: RunConfig) -> int:
    """Build, fit, evaluate. Returns the exit code."""
    data = setup.make_data(config)
    with setup.claim_directory(config, data) as run:
        if not run.finished:
            model = setup.make_model(config)
            with setup.loggers(config, run) as loggers:
                trainer = setup.make_trainer(config, run, loggers, data)
                setup.show_start(config, model, trainer, data)
                trainer.fit(setup.make_module(config, model), data, ckpt_path=run.checkpoint)
        return close(config, run, data)


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Hydra's entry: one call for each job of a sweep."""
    with errors_without_traceback():
        if code := train(checked(cfg)):
            sys.exit(code)


if __name__ == "__main__":
    with errors_without_traceback():
        sys.argv[1:] = prepare(sys.argv[1:])
        main()
