"""Recognition of a network and its widths from the names and shapes of its tensors."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lic_train import models
from lic_train.errors import CheckpointError, ConfigError
from lic_train.files.zoo.network import Network, Recognised
from lic_train.models.base import Codec, find_model

_NAMED = 4  # differences that an error lists before it counts the others


def recognise(weights: Mapping[str, Tensor]) -> Recognised:
    """Find the model whose authors' network has these tensors, and its widths.

    Args:
        weights: returned by `lic_train.files.zoo.reading.read_weights`.

    Raises:
        CheckpointError: no known network has exactly these tensors.
    """
    overlaps = [(network.overlap(weights), network) for network in known_networks()]
    best = max(overlap for overlap, _ in overlaps)
    found = [network.fitted(weights) for overlap, network in overlaps if overlap == best]
    differences = [candidate.differences() for candidate in found]
    closest, problems = min(zip(found, differences, strict=True), key=lambda pair: len(pair[1]))
    if problems:
        raise CheckpointError(
            "The weights belong to an unknown network.",
            expected=f"the tensors of one of {_known_names()}",
            got=f"closest to {closest.described}, {best:.0%} of the names\n{_listed(problems)}",
            to_do="if the authors distribute a network over several files, give all of them",
        )
    return closest


def renamed(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Recognised:
    """Return the tensors under the names of a given model.

    Raises:
        ConfigError: the configuration is not valid, or weights cannot be imported for its model.
        CheckpointError: the weights are those of another model or have another width.
    """
    try:
        model_class = find_model(config)
        if model_class.authors_names is None:
            raise ConfigError(
                f"Weights cannot be imported for {config['_target_']}.",
                expected=f"one of {_known_names()}",
                to_do="train it here",
            )
        found = Network(model_class).renamed(config, weights)
        problems = found.differences()
    except (ValueError, TypeError) as error:
        raise ConfigError("The configuration of the model is not valid.", got=str(error)) from error
    if problems:
        raise CheckpointError(
            "The weights are those of another model or have another width.",
            expected=f"the tensors of {found.described}",
            got=_listed(problems),
            to_do="omit model=; the model is then recognised from the tensors",
        )
    return found


@functools.cache
def known_networks() -> tuple[Network, ...]:
    """Return the models whose authors' files can be imported."""
    names = [f"{models.__name__}.{module.name}" for module in pkgutil.iter_modules(models.__path__)]
    found = [kind for name in names for kind in vars(importlib.import_module(name)).values() if _is_codec(kind, name)]
    return tuple(Network(kind) for kind in found if kind.authors_names is not None)


def _is_codec(kind: Any, module: str) -> bool:
    return isinstance(kind, type) and issubclass(kind, Codec) and kind.__module__ == module


def _known_names() -> str:
    return ", ".join(sorted(network.name for network in known_networks()))


def _listed(problems: Sequence[str]) -> str:
    """Return the first problems, one on each line, and the number of the others."""
    more = [f"and {len(problems) - _NAMED} more"] * (len(problems) > _NAMED)
    return "\n".join([*problems[:_NAMED], *more])
