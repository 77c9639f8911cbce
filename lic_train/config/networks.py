"""Networks of configurations, compared by their tensors without memory for the weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from lic_train.models.base import find_model, outline

_NAMED = 3  # tensors that a message lists before it counts the others


def check_arguments(model: Mapping[str, Any]) -> None:
    """Check the types of a model's arguments against the annotations of its constructor.

    Raises:
        ValueError: lists all arguments of another type.
    """
    hints = get_type_hints(find_model(model).__init__)
    problems = []
    for name in hints.keys() & model.keys():
        try:  # JSON, where a tuple is a list; strict, so that "no" is not a bool and 8.5 not an int
            TypeAdapter(hints[name]).validate_json(json.dumps(model[name]), strict=True)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].replace("Input should", "should", 1)
            problems.append(f"{name}: {reason}, got {model[name]!r}")
    if problems:
        raise ValueError("; ".join(sorted(problems)))


def num_parameters(model: Mapping[str, Any]) -> int:
    """Return the number of parameters.

    Raises:
        ValueError: no network can be built from this configuration.
    """
    return _facts(json.dumps(dict(model)))[0]


def tensors(model: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dictionary of the network, on the meta device.

    Raises:
        ValueError: no network can be built from this configuration.
    """
    return _facts(json.dumps(dict(model)))[1]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the tensors that differ in two networks, so that one cannot start from the weights of the other.

    Raises:
        ValueError: no network can be built from one of the configurations.
    """
    before, after = ({name: tuple(t.shape) for name, t in tensors(model).items()} for model in (old, new))
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    lines = [f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}" for name in names[:_NAMED]]
    return lines + [f"and {len(names) - _NAMED} more"] * (len(names) > _NAMED)


@functools.lru_cache(maxsize=256)  # a sweep checks many runs of one model
def _facts(model: str) -> tuple[int, dict[str, Tensor]]:
    """Return the number of parameters, and the state dictionary."""
    network = outline(json.loads(model))
    return sum(parameter.numel() for parameter in network.parameters()), network.state_dict()
