"""From the command line to a composed and validated section: Hydra composes, pydantic validates.

All invalid values are reported at once, each with the path of its key; unknown names come with the nearest known ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError

from lic_train.config.names import SEARCH_PATH, check_mode, check_names, composed, for_every_job, is_sweep, key_of
from lic_train.config.resolvers import LADDERS, register_resolvers
from lic_train.errors import ConfigError
from lic_train.system import relaunch

_INVALID = "The configuration is not valid."
_CONFIG_DIR = ("--config-dir", "-cd")


def prepare(arguments: Sequence[str]) -> list[str]:
    """Check the command line and rewrite it for Hydra, which wants its flags before the overrides.

    Folders of ``--config-dir`` and ``hydra.searchpath`` are also used by every process that this one starts.

    Args:
        arguments: flags and overrides in any order.

    Returns:
        The command line for Hydra.

    Raises:
        ConfigError: an override names an unknown option or key, or belongs to a sweep only; or a word is neither.
    """
    register_resolvers()
    flags, overrides, folders = _sorted_words(arguments)
    relaunch.COMMON[:] = _search_path(overrides, folders)
    overrides = [override for override in overrides if key_of(override) != SEARCH_PATH]
    everything = [*flags, *overrides]
    check_mode(everything)
    check_names(overrides)
    jobs = for_every_job(overrides) if is_sweep(everything) else overrides
    return [*flags, *jobs, *relaunch.COMMON]


def _sorted_words(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Flags with their values, overrides, and the folders of ``--config-dir``."""
    flags: list[str] = []
    overrides: list[str] = []
    folders: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name in _CONFIG_DIR:
            folders.append(value if equals else next(words, ""))
        elif word.startswith("-") or ("=" not in word and not word.startswith("~") and flags and not overrides):
            flags.append(word)
        elif "=" in word or word.startswith("~"):
            overrides.append(word)
        else:
            raise ConfigError(
                f"{word!r} is not an override.", expected="KEY=VALUE", got=word, to_do="for example model=cwam"
            )
    return flags, overrides, folders


def _search_path(overrides: Sequence[str], folders: Sequence[str]) -> list[str]:
    """One override of hydra.searchpath with the folders and the entries that were given, or none."""
    given = [override.partition("=")[2].strip("[] ") for override in overrides if key_of(override) == SEARCH_PATH]
    for folder in folders:
        if not Path(folder).is_dir():
            raise ConfigError(
                "--config-dir names no folder.", expected="a folder of YAML files", got=folder, to_do="correct the path"
            )
    entries = [*(text for text in given if text), *(f"'file://{Path(folder).resolve()}'" for folder in folders)]
    return [f"{SEARCH_PATH}=[{','.join(entries)}]"] if entries else []


class Section(BaseModel):
    """A part of the configuration in which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


SectionKind = TypeVar("SectionKind", bound=Section)


def validated(kind: type[SectionKind], cfg: DictConfig) -> SectionKind:
    """Validate a composed section.

    Raises:
        ConfigError: listing every invalid value with the path of its key.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    try:
        return kind.model_validate({str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise ConfigError(_INVALID, got="\n".join(map(_sentence, error.errors()))) from None


def read_section(kind: type[SectionKind], overrides: Sequence[str], config_name: str) -> SectionKind:
    """Compose and validate conf/<config_name>.yaml under a command's overrides.

    Raises:
        ConfigError: an unknown name, with the nearest known ones, or an invalid value.
    """
    for override in overrides:
        if "=" not in override:
            raise ConfigError(
                f"{override!r} is not an override.", expected="KEY=VALUE", got=override, to_do="for example eval=kodak"
            )
        if re.match("model=.*,", override):
            raise ConfigError(
                "This command takes one model.",
                expected="one model",
                got=override,
                to_do="run the command once for each model",
            )
    try:
        cfg = compose(overrides, config_name)
        if "lambda" in cfg:
            check_rate(cfg)
        return validated(kind, cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError("The configuration cannot be composed.", got=str(error)) from error


def check_rate(cfg: DictConfig) -> None:
    """Check lambda and distortion before everything else: other values are computed from them.

    Raises:
        ConfigError: one of them is not valid.
    """
    lmbda, distortion = cfg["lambda"], cfg.distortion
    problems = []
    if isinstance(lmbda, bool) or not isinstance(lmbda, int | float) or not 0 < lmbda < math.inf:
        problems.append(f"lambda: expected a number above 0, got {lmbda!r}")
    if distortion not in LADDERS:
        problems.append(f"distortion: expected one of {', '.join(LADDERS)}, got {distortion!r}")
    if problems:
        raise ConfigError(_INVALID, got="\n".join(problems))


def _sentence(entry: Any) -> str:
    path = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        return f"{path}: no such key"
    message = str(entry["msg"]).removeprefix("Value error, ")
    if not path:
        return message
    return f"{path}: {message[0].lower()}{message[1:]}, got {entry['input']!r}"


def compose(overrides: Sequence[str], config_name: str = "config") -> DictConfig:
    """Compose as ``lic train`` does, outside of Hydra's main function.

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
