"""What a paper's tables and figures need of the user's runs; `lic_train.report.gather.Gathered` offers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lic_train.evaluate.results import Result
from lic_train.rd.curves import Curve
from lic_train.report.elements import Comparison


class Run(Protocol):
    """A finished training."""

    @property
    def path(self) -> Path:
        """Its directory."""

    @property
    def where(self) -> str:
        """The same below outputs/, safe to show."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def recipe(self) -> str:
        """Name of the recipe."""

    @property
    def lmbda(self) -> float:
        """Weight of the distortion."""

    @property
    def distortion(self) -> str:
        """What was trained for: "mse" or "ms_ssim"."""

    @property
    def name(self) -> str | None:
        """Of a second run with another configuration."""

    @property
    def step(self) -> int:
        """Optimiser steps done."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration."""

    @property
    def results(self) -> Mapping[str, Result]:
        """By set of pictures."""


class OnSet(Protocol):
    """Everything that was evaluated on one set of pictures, all of the same list."""

    @property
    def outputs(self) -> Path:
        """The tree that the runs lie in."""

    @property
    def set(self) -> str:
        """Name of the set."""

    @property
    def runs(self) -> Sequence[Run]:
        """Those with a result on the set; of two at one lambda in one curve only one."""

    @property
    def finished(self) -> Sequence[Run]:
        """All finished runs, also those without a result on the set."""

    @property
    def anchors(self) -> Sequence[Curve]:
        """Classical codecs on the same pictures."""

    @property
    def cited(self) -> Sequence[Curve]:
        """Curves that others published."""


Gather = Callable[[str], OnSet]  # by name of the set
Crop = tuple[int, int, int, int]  # left, top, width, height in pixels
# (set, name of the photograph, curves, crop) -> crops side by side: the original, then the curves' models, whose runs
# about["runs"] lists by Run.where; None if there is no picture of any.
Compare = Callable[[str, str, Sequence[Curve], Crop], Comparison | None]
