"""A paper's training as data: stages, loss and learning rate as pure functions of the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lic_train.recipes.losses import DISTORTION_SCALE, TERMS, Out
from lic_train.recipes.stage import Stage, lay_out


class Recipe:
    """What is minimised, and how fast, at every step.

    ``loss = sum over terms of weight * term``, where the term ``distortion`` stands for ``lambda * 255^2 * mse`` or
    ``lambda * (1 - MS-SSIM)``.

    Attributes:
        terms: names of the terms of all stages, which every call returns.

    Args:
        stages: see `lay_out`.
        steps: optimiser steps of the whole run; the stages are rescaled to it.
        lmbda: the lambda of the loss.
        distortion: "mse" or "ms_ssim".
        optimizer: ``aux_lr`` of the quantiles and ``clip_norm`` of the net's gradient.
    """

    def __init__(
        self,
        stages: Sequence[Mapping[str, Any]],
        steps: int,
        lmbda: float,
        distortion: str,
        optimizer: Mapping[str, float],
    ) -> None:
        self.stages = lay_out(stages, steps)
        self.steps = steps
        self.lmbda = lmbda
        self.distortion = distortion
        self.aux_lr = float(optimizer["aux_lr"])
        self.clip_norm = float(optimizer["clip_norm"])
        self.terms = sorted({name for stage in self.stages for name in self._weights(stage)})

    def stage(self, step: int) -> Stage:
        """The stage that holds ``step``; the last one from its start on."""
        return next((stage for stage in self.stages if step < stage.stop), self.stages[-1])

    def __call__(self, out: Out, x: Tensor, step: int) -> dict[str, Tensor]:
        """The terms of all stages, unweighted, and the weighted sum of the step's own under "loss".

        A term of another stage has no gradient; it is there because its curve goes on.
        """
        weights = self._weights(self.stage(step))
        terms = {name: TERMS[name](out, x) for name in weights}
        with torch.no_grad():
            others = {name: TERMS[name](out, x) for name in self.terms if name not in weights}
        loss = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        return {**others, **terms, "loss": loss}

    def _weights(self, stage: Stage) -> dict[str, float]:
        """What each term of a stage is multiplied by, "distortion" resolved; without those that weigh nothing."""
        weights = dict(stage.loss)
        scale = weights.pop("distortion", 0.0) * self.lmbda * DISTORTION_SCALE[self.distortion]
        weights[self.distortion] = weights.get(self.distortion, 0.0) + scale
        return {name: weight for name, weight in weights.items() if weight}

    def extra_weights(self, step: int) -> dict[str, float]:
        """Weights at ``step`` of the terms, beyond rate and distortion, that any stage has."""
        names = {name for stage in self.stages for name in stage.loss} - {"bpp", "distortion"}
        return {name: self.stage(step).loss.get(name, 0.0) for name in sorted(names)}

    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows (stage, steps, learning rate, loss) for the start of the run."""
        return [(s.name, f"{s.start:,} - {s.stop:,}", f"{s.lr:g}", self._formula(s)) for s in self.stages]

    def _formula(self, stage: Stage) -> str:
        def told(name: str, weight: float) -> str:
            factor = "" if weight == 1 else f"{weight:g} * "
            if name != "distortion":
                return factor + name
            return factor + ("lambda * 255^2 * mse" if self.distortion == "mse" else "lambda * (1 - ms_ssim)")

        quantizer = f", {stage.quantizer} quantiser" if stage.quantizer else ""
        return " + ".join(told(name, weight) for name, weight in stage.loss.items()) + quantizer
