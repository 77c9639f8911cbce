"""A paper's training procedure as data: stages, loss and learning rate as pure functions of the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lic_train.recipes.losses import DISTORTION_SCALE, PER_IMAGE, TERMS, Out
from lic_train.recipes.stage import Stage, lay_out


class Recipe:
    """Loss and learning rate of every step.

    ``loss = sum over terms of weight * term``, where the term ``distortion`` is ``lambda * 255^2 * mse`` or
    ``lambda * (1 - MS-SSIM)``.

    Attributes:
        terms: names of the terms of all stages, which every call returns.

    Args:
        stages: see `lay_out`.
        steps: optimiser steps of the whole run, to which the stages are scaled.
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
        """Return the stage of ``step``; after the end, the last stage."""
        return next((stage for stage in self.stages if step < stage.stop), self.stages[-1])

    def __call__(self, out: Out, x: Tensor, step: int, lambdas: Tensor | None = None) -> dict[str, Tensor]:
        """Return the unweighted terms of all stages, and under "loss" the weighted sum for the stage of ``step``.

        Terms of other stages are computed without gradient, so that their curves are continuous in the log.

        Args:
            out: output of the codec.
            x: (B, 3, H, W).
            step: optimiser step.
            lambdas: (B,), the lambda of each image; None: all have that of the recipe.
        """
        weights = self._weights(self.stage(step))
        terms = {name: TERMS[name](out, x) for name in weights}
        with torch.no_grad():
            others = {name: TERMS[name](out, x) for name in self.terms if name not in weights}
        weighted = [weight * terms[name] for name, weight in weights.items()]
        if lambdas is not None:
            # The weight above contains the recipe's lambda; the difference of each image to it is added.
            each = PER_IMAGE[self.distortion](out, x)
            weighted.append(self._distortion_weight(self.stage(step)) * ((lambdas / self.lmbda - 1) * each).mean())
        return {**others, **terms, "loss": torch.stack(weighted).sum()}

    def _distortion_weight(self, stage: Stage) -> float:
        """Return the factor of the distortion in the loss of a stage, for the recipe's lambda."""
        return stage.loss.get("distortion", 0.0) * self.lmbda * DISTORTION_SCALE[self.distortion]

    def _weights(self, stage: Stage) -> dict[str, float]:
        """Return the non-zero weight of each term of a stage, with "distortion" resolved."""
        weights = {name: weight for name, weight in stage.loss.items() if name != "distortion"}
        weights[self.distortion] = weights.get(self.distortion, 0.0) + self._distortion_weight(stage)
        return {name: weight for name, weight in weights.items() if weight}

    def extra_weights(self, step: int) -> dict[str, float]:
        """Return the weights at ``step`` of all terms of any stage except rate and distortion."""
        names = {name for stage in self.stages for name in stage.loss} - {"bpp", "distortion"}
        return {name: self.stage(step).loss.get(name, 0.0) for name in sorted(names)}

    def table(self) -> list[tuple[str, str, str, str]]:
        """Return rows (stage, steps, learning rate, loss), printed at the start of a run."""
        return [(s.name, f"{s.start:,} - {s.stop:,}", f"{s.lr:g}", self._formula(s)) for s in self.stages]

    def _formula(self, stage: Stage) -> str:
        def text(name: str, weight: float) -> str:
            factor = "" if weight == 1 else f"{weight:g} * "
            if name != "distortion":
                return factor + name
            return factor + ("lambda * 255^2 * mse" if self.distortion == "mse" else "lambda * (1 - ms_ssim)")

        quantizer = f", {stage.quantizer} quantiser" if stage.quantizer else ""
        return " + ".join(text(name, weight) for name, weight in stage.loss.items()) + quantizer
