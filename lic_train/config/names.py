"""Names on the command line: unknown ones are refused before Hydra sees them, with the nearest known ones."""

from __future__ import annotations

import contextlib
import difflib
import functools
import itertools
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from lic_train.errors import ConfigError

CONF_DIR = Path(str(resources.files("lic_train.conf")))
SWEEP_SECTIONS = ("sweep", "launcher")  # of the configuration: they say what -m starts, and are no part of a run


def composed(config_name: str, overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """A configuration of conf/, composed by the Hydra that runs this program, or by one for the purpose.

    Raises:
        ConfigError: a group option is missing.
    """
    runs = GlobalHydra.instance().is_initialized()
    try:
        with contextlib.nullcontext() if runs else initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return compose(config_name, overrides=list(overrides), return_hydra_config=with_hydra)
    except MissingConfigException as error:
        raise ConfigError(
            f"{error}\nwhat to do: install the package that brings it, for Optuna: pip install hydra-optuna-sweeper"
        ) from error


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether the command line asks Hydra for more than one run."""
    return not {"-m", "--multirun", "hydra.mode=MULTIRUN"}.isdisjoint(arguments)


def check_mode(arguments: Sequence[str]) -> None:
    """Refuse ``sweep=`` and ``launcher=`` on the command line of a single run, where they would mean nothing.

    Raises:
        ConfigError: one of them stands there without ``-m``.
    """
    alone = [argument for argument in arguments if key_of(argument).partition(".")[0] in SWEEP_SECTIONS]
    if alone and not is_sweep(arguments):
        raise ConfigError(
            f"{alone[0]}: expected -m beside it, got the command line of a single run\n"
            f"what to do: python train.py -m {' '.join(arguments)}"
        )


def for_every_job(arguments: Sequence[str]) -> list[str]:
    """Let ``-m model=a,b model.M=8`` mean what it says.

    Hydra also composes the command line as a whole, where it leaves out what is swept: its default model, which may
    have no M, would then refuse ``model.M=8``. As a choice of one value it is left out there, and stands in every job.
    """
    parser = OverridesParser.create()

    def is_swept(argument: str) -> bool:
        return "=" in argument and not argument.startswith("-") and parser.parse_override(argument).is_sweep_override()

    def hidden(argument: str) -> str:
        section, dot, _ = key_of(argument).partition(".")
        if not dot or section in ("hydra", *SWEEP_SECTIONS) or is_swept(argument):
            return argument
        key, _, value = argument.partition("=")
        return f"{key}=choice({value})"

    sweeps_a_group = any((CONF_DIR / key_of(argument)).is_dir() and is_swept(argument) for argument in arguments)
    return [hidden(argument) for argument in arguments] if sweeps_a_group else list(arguments)


def key_of(override: str) -> str:
    """``model.N`` of ``++model.N=8``."""
    return override.lstrip("+~").partition("=")[0]


def check_names(arguments: Sequence[str], config_name: str = "config") -> None:
    """Refuse unknown group options and keys before Hydra does, naming the nearest known ones.

    Raises:
        ConfigError: for the first unknown name.
    """
    matches = [re.fullmatch(r"([a-z_]+(?:\.\w+)*)=(.*)", argument) for argument in arguments]
    given = {match[1]: match[2] for match in matches if match}
    chosen = {key: _options(value) for key, value in given.items() if (CONF_DIR / key).is_dir()}
    for group, options in chosen.items():
        _check_options(group, options, sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml")))
    keys = [key for key in given if key not in chosen and not key.startswith("hydra")]
    if keys:
        choices = [[f"{group}={option}" for option in options] for group, options in chosen.items()]
        for combination in itertools.product(*choices):
            _check_keys(keys, config_name, combination)


def _options(value: str) -> list[str]:
    """``cwam,iblic`` or ``choice(cwam,iblic)`` -> its options; what only Hydra can expand counts as none."""
    match = re.fullmatch(r"(?:choice\()?([\w,. -]+)\)?", value)
    return [option.strip() for option in match[1].split(",")] if match else []


def _check_keys(keys: list[str], config_name: str, choices: tuple[str, ...]) -> None:
    known = _known_keys(config_name, choices)
    for key in keys:
        if key not in known:
            under = f" under {' '.join(choices)}" if choices else ""
            raise ConfigError(
                f"no key {key!r}{under}{_nearest(key, known)}; all are in conf/{config_name}.yaml and its groups"
            )


@functools.cache
def _known_keys(config_name: str, choices: tuple[str, ...]) -> list[str]:
    """Dotted paths of all keys of the configuration under these choices of group options."""
    content = OmegaConf.to_container(composed(config_name, choices), resolve=False)

    def visit(node: Any, path: str = "") -> list[str]:
        entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        nested = [visit(value, f"{path}.{key}" if path else str(key)) for key, value in entries]
        return [*([path] if path else []), *itertools.chain.from_iterable(nested)]

    return visit(content)


def _check_options(group: str, options: list[str], known: list[str]) -> None:
    for option in options:
        if option not in known and option != "null":
            raise ConfigError(f"no {group} {option!r}{_nearest(option, known)}; there are: {', '.join(known)}")


def _nearest(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f", did you mean {' or '.join(nearest)}?" if nearest else ""
