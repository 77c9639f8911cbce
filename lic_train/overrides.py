"""Names on the command line: unknown ones are refused before Hydra sees them, with the nearest known ones."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lic_train.errors import ConfigError

CONF_DIR = Path(__file__).resolve().parent.parent / "conf"


def check_names(arguments: Sequence[str], config_name: str = "config") -> None:
    """Refuse unknown group options and keys before Hydra does, naming the nearest known ones.

    Raises:
        ConfigError: for the first unknown name.
    """
    matches = [re.fullmatch(r"([a-z_]+(?:\.\w+)*)=(.*)", argument) for argument in arguments]
    given = {match[1]: match[2] for match in matches if match}
    chosen = {key: value for key, value in given.items() if (CONF_DIR / key).is_dir()}
    for group, value in chosen.items():
        _check_options(group, value, sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml")))
    keys = [key for key in given if key not in chosen and not key.startswith("hydra")]
    if keys:
        known = _known_keys(config_name, [f"{group}={value.split(',')[0]}" for group, value in chosen.items()])
        for key in keys:
            if key not in known:
                raise ConfigError(
                    f"no key {key!r}{_nearest(key, known)}; all are in conf/{config_name}.yaml and its groups"
                )


def _known_keys(config_name: str, choices: list[str]) -> list[str]:
    """Dotted paths of all keys of the configuration under these choices of group options."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        content = OmegaConf.to_container(compose(config_name, overrides=choices), resolve=False)

    def visit(node: Any, path: str = "") -> list[str]:
        if not isinstance(node, dict):
            return [path]
        nested = [visit(value, f"{path}.{key}" if path else str(key)) for key, value in node.items()]
        return [*([path] if path else []), *itertools.chain.from_iterable(nested)]

    return visit(content)


def _check_options(group: str, value: str, known: list[str]) -> None:
    for option in value.split(","):
        if option not in known and option != "null":
            raise ConfigError(f"no {group} {option!r}{_nearest(option, known)}; there are: {', '.join(known)}")


def _nearest(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f", did you mean {' or '.join(nearest)}?" if nearest else ""
