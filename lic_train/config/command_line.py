"""The command line of ``lic train``: checked as a whole, then rewritten for Hydra."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from lic_train.config.literal import PATH_KEYS, literal, quoted, sealed
from lic_train.config.names import SEARCH_PATH, SWEEP_SECTIONS, group_options, key_of, name_problems, raise_all
from lic_train.config.resolvers import register_resolvers
from lic_train.errors import ConfigError
from lic_train.system import relaunch

_CONFIG_DIR = ("--config-dir", "-cd")
_MULTIRUN = {"-m", "--multirun", "hydra.mode=MULTIRUN"}


def prepare(arguments: Sequence[str]) -> list[str]:
    """Check the command line and rewrite it for Hydra, which wants its flags before the overrides.

    Folders of ``--config-dir`` and ``hydra.searchpath`` are also used by every process that this one starts.

    Args:
        arguments: flags and overrides in any order.

    Returns:
        The command line for Hydra.

    Raises:
        ConfigError: lists all words that are no overrides, all unknown options and keys, all values outside of Hydra's
            grammar, and all overrides that belong to a sweep only.
    """
    register_resolvers()
    flags, overrides, folders, problems = _sorted_words(arguments)
    relaunch.COMMON[:] = _search_path(overrides, folders)
    overrides = [override for override in overrides if key_of(override) != SEARCH_PATH]
    sweep = not _MULTIRUN.isdisjoint([*flags, *overrides])
    of_sweep = [] if sweep else [word for word in overrides if key_of(word).partition(".")[0] in SWEEP_SECTIONS]
    problems += [_needs_a_sweep(word, overrides) for word in of_sweep[:1]]
    problems += name_problems([word for word in overrides if word not in of_sweep])
    raise_all([*problems, *override_problems(overrides, several=sweep)])
    overrides = [literal(override) for override in overrides]
    jobs = _for_every_job(overrides) if sweep else overrides
    return [*flags, *jobs, *relaunch.COMMON]


def override_problems(overrides: Sequence[str], several: bool) -> list[ConfigError]:
    """Return one error for every override that Hydra cannot parse, or with several values unless ``several``."""
    problems: list[ConfigError] = []
    for override in overrides:
        try:
            parsed = _parsed(literal(override))
        except HydraException as error:
            if not group_options(key_of(override)):  # a wrong option is an unknown name
                problems.append(_unreadable(override, error))
        else:
            if parsed.is_sweep_override() and not several:
                problems.append(_several_values(override, overrides))
    return problems


def _parsed(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


def _unreadable(override: str, error: HydraException) -> ConfigError:
    key, _, value = override.partition("=")
    is_list = value.startswith("[") and value.endswith("]")
    text = f"[{','.join(quoted(entry.strip()) for entry in value[1:-1].split(','))}]" if is_list else quoted(value)
    return ConfigError(
        f"The value of {key} cannot be read.",
        expected="a number, a word, a list in square brackets, or any other text in quotes",
        got=value or override,
        to_do=f"quote it twice, for the shell and for Hydra: {shlex.quote(f'{key}={text}')}"
        if value and "\n" not in value
        else str(error).splitlines()[0],
    )


def _needs_a_sweep(override: str, overrides: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"{override} has no effect on a single run.",
        expected="-m, which starts a sweep",
        got="the command line of a single run",
        to_do=f"lic train -m {shlex.join(overrides)}",
    )


def _several_values(override: str, overrides: Sequence[str]) -> ConfigError:
    key, _, value = override.partition("=")
    return ConfigError(
        f"{override} lists several values for a single run.",
        expected=f"one value of {key}, or -m, which starts a sweep",
        got=value,
        to_do=f"lic train -m {shlex.join(overrides)}",
    )


def _sorted_words(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str], list[ConfigError]]:
    """Flags with their values, overrides, the folders of ``--config-dir``, and errors for all other words."""
    flags: list[str] = []
    overrides: list[str] = []
    folders: list[str] = []
    problems: list[ConfigError] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name in _CONFIG_DIR:
            folders.append(value if equals else next(words, ""))
        elif word.startswith("-") or ("=" not in word and not word.startswith("~") and flags and not overrides):
            flags.append(word)
        elif "=" in word and name.strip():
            overrides.append(word)
        elif word.startswith("~"):
            problems.append(_removal(word))
        else:
            problems.append(not_an_override(word, "model=cwam"))
    return flags, overrides, folders, problems


def _removal(word: str) -> ConfigError:
    options = group_options(key_of(word))
    return ConfigError(
        f"{word} removes a key of the configuration.",
        expected="a run with all keys",
        got=word,
        to_do=f"choose one of {', '.join(options)}"
        if options
        else f"set the key to a value or to null: {word[1:]}=null",
    )


def not_an_override(word: str, example: str) -> ConfigError:
    """Return the error for a word that is not of the form KEY=VALUE."""
    return ConfigError(f"{word!r} is not an override.", expected="KEY=VALUE", got=word, to_do=f"for example {example}")


def _search_path(overrides: Sequence[str], folders: Sequence[str]) -> list[str]:
    """One override of hydra.searchpath with the folders and the entries that were given, or none."""
    given = [override.partition("=")[2].strip("[] ") for override in overrides if key_of(override) == SEARCH_PATH]
    for folder in folders:
        if not folder or not Path(folder).is_dir():
            raise ConfigError(
                "--config-dir names no folder.", expected="a folder of YAML files", got=folder, to_do="correct the path"
            )
    entries = [*(text for text in given if text), *(quoted(f"file://{Path(folder).resolve()}") for folder in folders)]
    return [f"{SEARCH_PATH}=[{','.join(entries)}]"] if entries else []


def _for_every_job(overrides: Sequence[str]) -> list[str]:
    """Rewrite ``-m model=a,b model.M=8`` so that it works although the default model may have no ``M``.

    Hydra also composes the command line of a sweep without the swept choices, so with the default model. A key of one
    value is therefore written as a choice of one value, which Hydra leaves out there and puts into every job.
    """

    def is_swept(override: str) -> bool:
        return _parsed(override).is_sweep_override()

    def hidden(override: str) -> str:
        section, dot, _ = key_of(override).partition(".")
        if not dot or section in ("hydra", *SWEEP_SECTIONS) or is_swept(override):
            return override
        key, _, value = override.partition("=")
        return sealed(override) if key in PATH_KEYS else f"{key}=choice({value})"

    sweeps_a_group = any(is_swept(override) and group_options(key_of(override)) for override in overrides)
    return [hidden(override) for override in overrides] if sweeps_a_group else list(overrides)
