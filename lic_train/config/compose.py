"""From overrides to a composed and validated section: Hydra composes, pydantic validates.

All invalid values are reported at once, each with the path of its key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError

from lic_train.config.command_line import not_an_override, override_problems
from lic_train.config.literal import literal
from lic_train.config.names import composed, name_problems, raise_all
from lic_train.config.resolvers import LADDERS, register_resolvers
from lic_train.errors import ConfigError

_INVALID = "The configuration is not valid."
_VALID: dict[str, Any] = {"lambda": 0.0067, "distortion": "mse"}  # in place of wrong ones, to check the other values


class Section(BaseModel):
    """A part of the configuration in which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


SectionKind = TypeVar("SectionKind", bound=Section)


def validated(kind: type[SectionKind], cfg: DictConfig) -> SectionKind:
    """Validate a composed section. Its lambda and distortion are checked first: other values are computed from them.

    Raises:
        ConfigError: listing every invalid value with the path of its key.
    """
    with composition_errors_explained():
        problems = _rate_problems(cfg) if "lambda" in cfg else {}
        values = OmegaConf.to_container(OmegaConf.merge(cfg, {key: _VALID[key] for key in problems}), resolve=True)
    assert isinstance(values, dict)
    try:
        section = kind.model_validate({str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise ConfigError(_INVALID, got="\n".join([*problems.values(), *map(_sentence, error.errors())])) from None
    if problems:
        raise ConfigError(_INVALID, got="\n".join(problems.values()))
    return section


def read_section(kind: type[SectionKind], overrides: Sequence[str], config_name: str) -> SectionKind:
    """Compose and validate conf/<config_name>.yaml under a command's overrides.

    Raises:
        ConfigError: an unknown name, with the nearest known ones, or an invalid value.
    """
    problems = [not_an_override(word, "eval=kodak") for word in overrides if "=" not in word]
    problems += [_one_model(override) for override in overrides if re.match("model=.*,", override)]
    raise_all(problems)
    return validated(kind, compose(overrides, config_name))


def _one_model(override: str) -> ConfigError:
    return ConfigError(
        "This command takes one model.",
        expected="one model",
        got=override,
        to_do="run the command once for each model",
    )


@contextmanager
def composition_errors_explained() -> Iterator[None]:
    """Turn the errors of Hydra and OmegaConf into a ConfigError.

    Raises:
        ConfigError: an error of theirs was raised in the block.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        # Hydra's own message omits the cause.
        cause = f"\n{error.__cause__}" if isinstance(error, HydraException) and error.__cause__ else ""
        raise ConfigError(
            "The configuration cannot be composed.", got=f"{error}{cause}".strip(), to_do="correct the overrides"
        ) from error


def _rate_problems(cfg: DictConfig) -> dict[str, str]:
    """Return what is wrong with lambda and distortion, by key."""
    problems = {}
    distortion = OmegaConf.to_container(cfg, resolve=False)["distortion"]  # type: ignore[index,call-overload]
    if distortion not in LADDERS:
        problems["distortion"] = f"distortion: expected one of {', '.join(LADDERS)}, got {distortion!r}"
    # Of a variable rate, lambda is computed from the distortion.
    lmbda = _VALID["lambda"] if problems and OmegaConf.is_interpolation(cfg, "lambda") else cfg["lambda"]
    if isinstance(lmbda, bool) or not isinstance(lmbda, int | float) or not 0 < lmbda < math.inf:
        problems["lambda"] = f"lambda: expected a number above 0, got {lmbda!r}"
    return problems


def _sentence(entry: Any) -> str:
    path = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        return f"{path}: no such key"
    message = str(entry["msg"]).removeprefix("Value error, ")
    if not path or ", got " in message or isinstance(entry["input"], dict):
        return f"{path}: {message}".removeprefix(": ")
    return f"{path}: {message.replace('Input should', 'should', 1)}, got {entry['input']!r}"


def compose(overrides: Sequence[str], config_name: str = "config") -> DictConfig:
    """Compose as ``lic train`` does, outside of Hydra's main function.

    Raises:
        ConfigError: an override names an unknown option or key, or Hydra cannot read it.
    """
    register_resolvers()
    raise_all([*name_problems(overrides, config_name), *override_problems(overrides, several=False)])
    with composition_errors_explained():
        cfg = composed(config_name, [literal(override) for override in overrides], with_hydra=True)
    HydraConfig.instance().set_config(cfg)
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return cfg
