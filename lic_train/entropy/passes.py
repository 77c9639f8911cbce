"""Coding a latent in several passes, each of which sees what the earlier ones left (checkerboards, channel slices).

A model walks its passes once and hands every pass to a `LatentPass`: `Estimate` quantises and collects the parameters
for the rate, `Encode` writes, `Decode` reads. So the three can only differ in where y_hat comes from.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from lic_train.entropy.coder import SymbolDecoder, SymbolEncoder
from lic_train.entropy.gaussian import GaussianConditional
from lic_train.entropy.quantize import add_noise, round_ste


class LatentPass(Protocol):
    """What a model hands its passes to."""

    def __call__(self, channels: slice, mask: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """Return y_hat (B, g, h, w) of the channels, valid where ``mask`` (h, w) is true, given (B, g, h, w) each."""


class Estimate:
    """Quantise y (B, M, h, w), straight-through for the gradient, and keep the parameters for `likelihoods`."""

    def __init__(self, gaussian: GaussianConditional, y: Tensor) -> None:
        self._gaussian, self._y = gaussian, y.float()
        self._params: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, channels: slice, mask: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """See `LatentPass`."""
        scales, means = scales.float(), means.float()
        earlier = self._params.get(channels.start, (scales, means))
        self._params[channels.start] = (torch.where(mask, scales, earlier[0]), torch.where(mask, means, earlier[1]))
        return round_ste(self._y[:, channels], means)

    def likelihoods(self, y_hat: Tensor) -> Tensor:
        """(B, M, h, w): of y with noise in training, of ``y_hat`` else."""
        scales, means = (torch.cat(maps, dim=1) for maps in zip(*self._params.values(), strict=True))
        values = add_noise(self._y) if self._gaussian.training else y_hat
        return self._gaussian.likelihood(values, scales, means)


class Encode:
    """Write the passes of y (1, M, h, w) into one string."""

    def __init__(self, gaussian: GaussianConditional, y: Tensor) -> None:
        self._gaussian, self._y, self._encoder = gaussian, y, SymbolEncoder()

    def __call__(self, channels: slice, mask: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """See `LatentPass`."""
        y = self._y[:, channels]
        y_hat = torch.zeros_like(y)
        y_hat[:, :, mask] = self._gaussian.encode(self._encoder, y[:, :, mask], scales[:, :, mask], means[:, :, mask])
        return y_hat

    def finish(self) -> bytes:
        """The string."""
        return self._encoder.finish()


class Decode:
    """Read the passes back from a string."""

    def __init__(self, gaussian: GaussianConditional, string: bytes) -> None:
        self._gaussian, self._decoder = gaussian, SymbolDecoder(string)

    def __call__(self, channels: slice, mask: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """See `LatentPass`."""
        y_hat = torch.zeros_like(means)
        y_hat[:, :, mask] = self._gaussian.decode(self._decoder, scales[:, :, mask], means[:, :, mask])
        return y_hat

    def finish(self) -> None:
        """Compare the checksum.

        Raises:
            BitstreamError: the decoded latent is not the encoder's.
        """
        self._decoder.finish()
