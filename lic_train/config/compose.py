"""From the command line to a composed and validated section: Hydra composes, pydantic validates.

Every wrong value is reported at once, with the path of its key; unknown names come with the nearest known ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError

from lic_train.config.names import check_mode, check_names, composed, for_every_job, is_sweep
from lic_train.config.resolvers import LADDERS, register_resolvers
from lic_train.errors import ConfigError


def prepare(arguments: Sequence[str]) -> list[str]:
    """What must happen before Hydra reads the command line: resolvers, and names that it would refuse less helpfully.

    Returns:
        The command line for Hydra.

    Raises:
        ConfigError: an override names an unknown option or key, or belongs to a sweep only.
    """
    register_resolvers()
    check_mode(arguments)
    check_names(arguments)
    return for_every_job(arguments) if is_sweep(arguments) else list(arguments)


class Section(BaseModel):
    """A part of the configuration in which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


SectionKind = TypeVar("SectionKind", bound=Section)


def validated(kind: type[SectionKind], cfg: DictConfig) -> SectionKind:
    """A section of the given kind, its values checked.

    Raises:
        ConfigError: listing every wrong value with its key's path.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    try:
        return kind.model_validate({str(key): value for key, value in values.items()})
    except ValidationError as error:
        lines = [_sentence(entry) for entry in error.errors()]
        raise ConfigError("the configuration is not valid:\n  " + "\n  ".join(lines)) from None


def read_section(kind: type[SectionKind], overrides: Sequence[str], config_name: str) -> SectionKind:
    """What a command's overrides of conf/<config_name>.yaml, mean together.

    Raises:
        ConfigError: an unknown name, with the nearest known ones, or a value without meaning.
    """
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"expected KEY=VALUE, got {override!r}; for example model=cwam lambda=0.0067")
        if re.match("model=.*,", override):
            raise ConfigError(f"model: expected one, got {override.removeprefix('model=')!r}; do one after the other")
    try:
        cfg = compose(overrides, config_name)
        if "lambda" in cfg:
            check_rate(cfg)
        return validated(kind, cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"cannot compose the configuration: {error}") from error


def check_rate(cfg: DictConfig) -> None:
    """Check lambda and distortion, which come first: other values are computed from them.

    Raises:
        ConfigError: one of them has no meaning.
    """
    lmbda, distortion = cfg["lambda"], cfg.distortion
    problems = []
    if isinstance(lmbda, bool) or not isinstance(lmbda, int | float) or not 0 < lmbda < math.inf:
        problems.append(f"lambda: expected a number above 0, got {lmbda!r}")
    if distortion not in LADDERS:
        problems.append(f"distortion: expected one of {', '.join(LADDERS)}, got {distortion!r}")
    if problems:
        raise ConfigError("the configuration is not valid:\n  " + "\n  ".join(problems))


def _sentence(entry: Any) -> str:
    path = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        return f"{path}: no such key"
    message = str(entry["msg"]).removeprefix("Value error, ")
    if not path:
        return message
    return f"{path}: {message[0].lower()}{message[1:]}, got {entry['input']!r}"


def compose(overrides: Sequence[str], config_name: str = "config") -> DictConfig:
    """Compose as train.py does, outside of Hydra's main; for tests and for other commands.

    Raises:
        ConfigError: an override names an unknown option or key.
    """
    register_resolvers()
    check_names(overrides, config_name)
    cfg = composed(config_name, overrides, with_hydra=True)
    HydraConfig.instance().set_config(cfg)
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return cfg
