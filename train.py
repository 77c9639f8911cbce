"""Train a codec: ``python train.py model=cwam lambda=0.0067``. Settings: conf/config.yaml; ``-m`` sweeps."""

import sys

import hydra
from omegaconf import DictConfig

from lic_train.config import RunConfig, check_names, checked, register_resolvers
from lic_train.errors import LicError
from lic_train.screen import say_error
from lic_train.training import setup
from lic_train.training.closing import close
from lic_train.training.run_directory import claim


def train(config: RunConfig) -> int:
    """Compose, build, fit, evaluate. Returns the exit code."""
    data = setup.make_data(config)
    with claim(config) as run:
        if run.finished:
            return close(config, run, data)
        model = setup.make_model(config)
        trainer = setup.make_trainer(config, run, data)
        setup.show_start(config, model, trainer, data)
        trainer.fit(setup.make_module(config, model), data, ckpt_path=run.checkpoint)
        return close(config, run, data)


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Hydra's entry: one call for each job of a sweep."""
    try:
        code = train(checked(cfg))
    except LicError as error:
        say_error(error)
        code = 2
    if code:
        sys.exit(code)


if __name__ == "__main__":
    register_resolvers()
    main()
