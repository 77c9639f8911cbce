"""A network as its authors' files describe it: names and shapes of its tensors, there and here.

A model describes the authors' files by ``authors_names`` and ``authors_arguments``; see `lic_train.models.base.Codec`.
"""

from __future__ import annotations

import inspect
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from lic_train.config import networks
from lic_train.models.base import Codec

Shape = tuple[int, ...]
# Constants, and tables that are rebuilt from other tensors.
_MADE_HERE = re.compile(
    r"(^|\.)(_offset|_quantized_cdf|_cdf_length|scale_table|scale_bound|target|mask|bound|pedestal"
    r"|relative_position_index|discrete_gaussian\..*)$"
)
OPTIONAL = re.compile(rf"{_MADE_HERE.pattern}|\.quantiles$")  # without them, the quantiles are solved
_BASE = 192  # value of a width without a default while shapes are compared; every model also accepts its double


@dataclass(frozen=True)
class Recognised:
    """A network and its tensors.

    Attributes:
        config: ``_target_`` and arguments, accepted by `lic_train.models.base.build`.
        weights: the tensors by their names here, in the authors' shapes.
        theirs: the authors' name of each tensor.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    theirs: dict[str, str]

    @property
    def name(self) -> str:
        """Name of the model."""
        return str(self.config["_target_"]).split(".")[-2]

    @property
    def described(self) -> str:
        """Name and arguments, for example ``cwam with N=128``."""
        arguments = ", ".join(f"{key}={value}" for key, value in self.config.items() if key != "_target_")
        return f"{self.name} with {arguments}" if arguments else self.name

    def differences(self) -> list[str]:
        """Return what separates the tensors from those of the configured network; empty if they fit."""
        expected = shapes(self.config)
        wrong = [
            f"{self.label(name)}: expected shape {shape}, got {tuple(self.weights[name].shape)}"
            for name, shape in expected.items()
            if name in self.weights and not same_elements(tuple(self.weights[name].shape), shape)
        ]
        missing = [f"{name} is missing" for name in expected if name not in self.weights and not OPTIONAL.search(name)]
        unknown = [f"{self.label(name)} is unknown" for name in self.weights if name not in expected]
        return wrong + missing + unknown

    def label(self, name: str) -> str:
        """Return a tensor's name in the authors' file, and here if it differs."""
        return name if self.theirs[name] == name else f"{self.theirs[name]} (here {name})"


class Network:
    """A model whose authors' files can be imported."""

    def __init__(self, model_class: type[Codec]) -> None:
        self._model_class = model_class
        self.name = model_class.__module__.rpartition(".")[2]

    def overlap(self, weights: Mapping[str, Tensor]) -> float:
        """Return the share of names that the network and the weights have in common."""
        here = {name for name in self._base_shapes if not OPTIONAL.search(name)}
        theirs = {name for name in self.renamed({}, weights).weights if not OPTIONAL.search(name)}
        return len(here & theirs) / len(here | theirs)

    def renamed(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Recognised:
        """Return the tensors under their names here, without those that are unused or rebuilt."""
        theirs = {name: key for key in weights if not _MADE_HERE.search(key) and (name := self._name_here(key))}
        return Recognised(dict(config), {name: weights[key] for name, key in theirs.items()}, theirs)

    def fitted(self, weights: Mapping[str, Tensor]) -> Recognised:
        """Return the tensors, with the widths that their shapes imply."""
        found = self.renamed({}, weights)
        widths = {name: self._width(name, found.weights) for name in self._integers}
        return Recognised(self._config(**widths), found.weights, found.theirs)

    def _config(self, **arguments: int) -> dict[str, Any]:
        target = {"_target_": f"{self._model_class.__module__}.{self._model_class.__name__}"}
        return {**target, **self._model_class.authors_arguments, **arguments}

    def _name_here(self, key: str) -> str:
        for pattern, replacement in self._substitutions:
            key = pattern.sub(replacement, key)
        return key

    @cached_property  # of all models together there are more expressions than the module ``re`` keeps
    def _substitutions(self) -> list[tuple[re.Pattern[str], str]]:
        return [(re.compile(pattern), replacement) for pattern, replacement in self._model_class.authors_names or ()]

    @cached_property
    def _integers(self) -> dict[str, int]:
        """Integer arguments of the constructor with their defaults."""
        return {
            name: _BASE if parameter.default is parameter.empty else parameter.default
            for name, parameter in inspect.signature(self._model_class).parameters.items()
            if parameter.annotation in (int, "int") and name not in self._model_class.authors_arguments
        }

    @cached_property
    def _base_shapes(self) -> dict[str, Shape]:
        return shapes(self._config(**self._integers))

    @cached_property
    def _grown_shapes(self) -> dict[str, dict[str, Shape]]:
        """Shapes with twice the value of each argument, or the base shapes if the model refuses that value."""
        return {name: self._shapes_or_base({**self._integers, name: 2 * n}) for name, n in self._integers.items()}

    def _shapes_or_base(self, arguments: dict[str, int]) -> dict[str, Shape]:
        try:
            return shapes(self._config(**arguments))
        except ValueError:
            return self._base_shapes

    def _width(self, argument: str, weights: Mapping[str, Tensor]) -> int:
        """Return the value of an argument that most tensors imply; its default if no size depends on it alone."""
        base = self._integers[argument]
        votes = Counter(
            weights[name].shape[axis] * base // size
            for name, axis, size in self._proportional(argument)
            if name in weights and weights[name].dim() > axis and weights[name].shape[axis] * base % size == 0
        )
        return votes.most_common(1)[0][0] if votes else base

    def _proportional(self, argument: str) -> list[tuple[str, int, int]]:
        """Return (tensor, axis, base size) of the sizes that double with this argument and with no other."""
        own = self._grown_shapes[argument]
        others = [grown for name, grown in self._grown_shapes.items() if name != argument]
        return [
            (name, axis, size)
            for name, shape in self._base_shapes.items()
            for axis, size in enumerate(shape)
            if own.get(name, shape)[axis] == 2 * size and all(other.get(name, shape)[axis] == size for other in others)
        ]


def shapes(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Return the shape of every tensor of a model, without the memory and time of its initialisation."""
    return {name: tuple(tensor.shape) for name, tensor in networks.tensors(config).items()}


def same_elements(theirs: Shape, here: Shape) -> bool:
    """Return whether a tensor can be taken over.

    It is equal apart from dimensions of size 1, stored as one column, or a `bias_table`.
    """
    a, b = ([side for side in shape if side != 1] for shape in (theirs, here))
    return a == b or (len(a) == 1 and a[0] == math.prod(b)) or bias_table(theirs, here)


def bias_table(theirs: Shape, here: Shape) -> bool:
    """Return whether a table of biases is (heads, rows, columns) in the file and (rows * columns, heads) here."""
    return len(theirs) == 3 and here == (theirs[1] * theirs[2], theirs[0])
