"""Names on the command line: unknown ones are refused before Hydra reads them, with the nearest known names."""

from __future__ import annotations

import contextlib
import difflib
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from lic_train.config.folder import CONF_DIR
from lic_train.errors import ConfigError
from lic_train.system import relaunch

SWEEP_SECTIONS = ("sweep", "launcher")  # sections that describe what -m starts; they are not part of a run
SEARCH_PATH = "hydra.searchpath"
# Hydra's own sections of conf/ that need an optional package, and the extra that installs it.
_EXTRAS = {"optuna": "optuna"}


@contextlib.contextmanager
def config_loader() -> Iterator[ConfigLoader]:
    """The loader of the running Hydra, or of a temporary one over conf/."""
    running = GlobalHydra.instance().is_initialized()
    with contextlib.nullcontext() if running else initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def composed(config_name: str, overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """Compose a configuration of conf/ and of the folders in the search path.

    Raises:
        ConfigError: a configuration file does not exist, or belongs to a package that is not installed.
    """
    given = [*overrides, *(common for common in relaunch.COMMON if common not in overrides)]
    with config_loader(), _missing_files_explained():
        return compose(config_name, overrides=given, return_hydra_config=with_hydra)


@contextlib.contextmanager
def _missing_files_explained() -> Iterator[None]:
    try:
        yield
    except (MissingConfigException, ConfigCompositionException) as error:
        missing = getattr(error, "missing_cfg_file", None)
        if missing is None:
            raise
        raise _missing(str(missing)) from error


def _missing(name: str) -> ConfigError:
    """The error for a file that a defaults list names and that is not found."""
    name = name.removesuffix(".yaml")
    group, _, option = name.rpartition("/")
    if extra := _EXTRAS.get(option):
        return ConfigError(
            f"{name}: the package for this configuration is not installed.",
            expected=f"the optional dependencies [{extra}]",
            got="none of them",
            to_do=f"pip install 'lic-train[{extra}]'",
        )
    known = group_options(group) if group else []
    return ConfigError(
        f"There is no configuration {name}.",
        expected=f"a file conf/{name}.yaml, or one in a folder of hydra.searchpath",
        got=f"{group}: {', '.join(known)}" if known else "none",
        to_do=f"choose another with {group}=...{_nearest(option, known)}, or add the file"
        if group
        else "correct the name",
    )


def group_options(group: str) -> list[str]:
    """Names of the files in a group of conf/ and of the search path, sorted; empty if there is no such group."""
    with config_loader() as loader:
        return sorted(set(loader.get_group_options(group, overrides=list(relaunch.COMMON))))


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether the command line starts more than one run."""
    return not {"-m", "--multirun", "hydra.mode=MULTIRUN"}.isdisjoint(arguments)


def check_mode(arguments: Sequence[str]) -> None:
    """Refuse ``sweep=`` and ``launcher=`` on the command line of a single run, where they have no effect.

    Raises:
        ConfigError: one of them is given without ``-m``.
    """
    sweeping = [argument for argument in arguments if key_of(argument).partition(".")[0] in SWEEP_SECTIONS]
    if sweeping and not is_sweep(arguments):
        raise ConfigError(
            f"{sweeping[0]} has no effect on a single run.",
            expected="-m, which starts a sweep",
            got="the command line of a single run",
            to_do=f"lic train -m {' '.join(arguments)}",
        )


def for_every_job(arguments: Sequence[str]) -> list[str]:
    """Rewrite ``-m model=a,b model.M=8`` so that it works although the default model may have no ``M``.

    Hydra also composes the command line of a sweep without the swept choices, so with the default model. A key of one
    value is therefore written as a choice of one value, which Hydra leaves out there and puts into every job.
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

    sweeps_a_group = any(is_swept(argument) and group_options(key_of(argument)) for argument in arguments)
    return [hidden(argument) for argument in arguments] if sweeps_a_group else list(arguments)


def key_of(override: str) -> str:
    """``model.N`` of ``++model.N=8``."""
    return override.lstrip("+~").partition("=")[0]


def check_names(arguments: Sequence[str], config_name: str = "config") -> None:
    """Refuse unknown group options and keys, naming the nearest known ones.

    Raises:
        ConfigError: for the first unknown name.
    """
    matches = [re.fullmatch(r"([a-z_]+(?:\.\w+)*)=(.*)", argument) for argument in arguments]
    given = {match[1]: match[2] for match in matches if match}
    known = {key: options for key in given if "." not in key and (options := group_options(key))}
    chosen = {key: _options(given[key]) for key in known}
    for group, options in chosen.items():
        _check_options(group, options, known[group])
    keys = [key for key in given if key not in chosen and not key.startswith("hydra")]
    if keys:
        choices = [[f"{group}={option}" for option in options] for group, options in chosen.items()]
        for combination in itertools.product(*choices):
            _check_keys(keys, config_name, combination)


def _options(value: str) -> list[str]:
    """``cwam,iblic`` or ``choice(cwam,iblic)`` -> its options; nothing for what only Hydra can expand."""
    match = re.fullmatch(r"(?:choice\()?([\w,. -]+)\)?", value)
    return [option.strip() for option in match[1].split(",")] if match else []


def _check_keys(keys: list[str], config_name: str, choices: tuple[str, ...]) -> None:
    known = _known_keys(config_name, choices, tuple(relaunch.COMMON))
    for key in keys:
        if key not in known:
            raise ConfigError(
                f"There is no key {key!r}{' under ' + ' '.join(choices) if choices else ''}.",
                expected=f"a key of conf/{config_name}.yaml and its groups",
                got=key,
                to_do=f"correct it{_nearest(key, known)}",
            )


@functools.cache
def _known_keys(config_name: str, choices: tuple[str, ...], search_path: tuple[str, ...]) -> list[str]:
    """Dotted paths of all keys of the configuration under these choices of group options."""
    content = OmegaConf.to_container(composed(config_name, [*choices, *search_path]), resolve=False)

    def visit(node: Any, path: str = "") -> list[str]:
        entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        nested = [visit(value, f"{path}.{key}" if path else str(key)) for key, value in entries]
        return [*([path] if path else []), *itertools.chain.from_iterable(nested)]

    return visit(content)


def _check_options(group: str, options: list[str], known: list[str]) -> None:
    for option in options:
        if option not in known and option != "null":
            raise ConfigError(
                f"There is no {group} {option!r}.",
                expected=f"one of {', '.join(known)}",
                got=option,
                to_do=f"correct it{_nearest(option, known)}",
            )


def _nearest(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(nearest)}?" if nearest else ""
