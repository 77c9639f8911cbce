"""Names of groups, options and keys: unknown ones are refused before Hydra reads them, with the nearest known names."""

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


def key_of(override: str) -> str:
    """``model.N`` of ``++model.N=8``."""
    return override.lstrip("+~").partition("=")[0]


def name_problems(arguments: Sequence[str], config_name: str = "config") -> list[ConfigError]:
    """Return one error for every unknown group option and key, each with the nearest known names."""
    matches = [re.fullmatch(r"([\w.-]+)=(.*)", argument, re.DOTALL) for argument in arguments]
    given = {match[1]: match[2] for match in matches if match}
    known = {key: options for key in given if "." not in key and (options := group_options(key))}
    problems: list[ConfigError] = []
    choices: dict[str, list[str]] = {}
    for group, options in known.items():
        wrong = [_no_such_option(group, option, options) for option in _options(given[group], options)]
        problems += filter(None, wrong)
        choices[group] = [] if any(wrong) else _options(given[group], options)
    unclear = [group for group, options in choices.items() if not options]  # their keys are not known
    keys = [key for key in given if key not in known and key.partition(".")[0] not in ("hydra", *unclear)]
    clear = [[f"{group}={option}" for option in options] for group, options in choices.items() if options]
    unknown: dict[str, ConfigError] = {}
    for combination in itertools.product(*clear) if keys else ():
        for error in _unknown_keys(keys, config_name, combination):
            unknown.setdefault(error.got, error)
    return [*problems, *unknown.values()]


def check_names(arguments: Sequence[str], config_name: str = "config") -> None:
    """Refuse unknown group options and keys, naming the nearest known ones.

    Raises:
        ConfigError: lists all unknown names.
    """
    raise_all(name_problems(arguments, config_name))


def raise_all(problems: Sequence[ConfigError]) -> None:
    """Raise the error, or one error that lists several; do nothing if there is none.

    Raises:
        ConfigError: ``problems`` is not empty.
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigError(
            f"{len(problems)} parts of the command line are wrong.",
            got="\n".join(f"{problem.what}\n  {problem.to_do or problem.got}" for problem in problems),
            to_do="correct all of them",
        )


def _options(value: str, known: Sequence[str]) -> list[str]:
    """``cwam,iblic`` or ``choice(cwam,iblic)`` -> its options; nothing for what only Hydra can expand."""
    if re.search(r"[\[{*$]|^(?!choice)\w+\(", value):
        return []
    match = re.fullmatch(r"choice\((.*)\)", value)
    return [option.strip().strip("'\"") for option in (match[1] if match else value).split(",")]


def _unknown_keys(keys: Sequence[str], config_name: str, choices: tuple[str, ...]) -> Iterator[ConfigError]:
    known = _known_keys(config_name, choices, tuple(relaunch.COMMON))
    for key in keys:
        if key not in known:
            yield ConfigError(
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


def _no_such_option(group: str, option: str, known: Sequence[str]) -> ConfigError | None:
    if option in known:
        return None
    several = re.search(r"\s[\w.+~]+=", option)
    return ConfigError(
        f"There is no {group} {option!r}.",
        expected=f"one of {', '.join(known)}",
        got=option,
        to_do="write every KEY=VALUE as a word of its own, without quotes around several of them"
        if several
        else f"correct it{_nearest(option, known)}",
    )


def _nearest(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(nearest)}?" if nearest else ""
