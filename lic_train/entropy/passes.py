"""Coding a latent in several passes, each of which sees what the earlier ones left (checkerboards, channel slices).

A model walks its passes once and hands every pass to a `LatentPass`: `Estimate` quantises and collects the parameters
for the rate, `Encode` writes, `Decode` reads. So the three can only differ in where y_hat comes from.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from lic_train.entropy.coder import SymbolDecoder, SymbolEncoder
from lic_train.entropy.gaussian import GaussianConditional
from lic_train.entropy.precision import planar, repeatable
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


class PassContext(nn.Module):
    """Gaussian y (B, M, h, w) given psi, coded in the passes that a subclass walks."""

    def __init__(self) -> None:
        super().__init__()
        self.gaussian_conditional = GaussianConditional()

    def _passes(self, psi: Tensor, code: LatentPass) -> Tensor:
        """Hand every pass to ``code``, in order; returns y_hat (B, M, h, w)."""
        raise NotImplementedError

    def _walk(self, psi: Tensor, code: LatentPass) -> Tensor:
        with repeatable(self):
            return self._passes(planar(psi), code)

    def forward(self, y: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
        """Return y_hat (straight-through in training) and its likelihoods, both (B, M, h, w)."""
        estimate = Estimate(self.gaussian_conditional, y)
        y_hat = self._walk(psi, estimate)
        return y_hat, estimate.likelihoods(y_hat)

    @torch.no_grad()
    def compress(self, y: Tensor, psi: Tensor) -> bytes:
        """Code y (1, M, h, w)."""
        encode = Encode(self.gaussian_conditional, y)
        self._walk(psi, encode)
        return encode.finish()

    @torch.no_grad()
    def decompress(self, string: bytes, psi: Tensor) -> Tensor:
        """Return y_hat (1, M, h, w).

        Raises:
            BitstreamError: the string is damaged.
        """
        decode = Decode(self.gaussian_conditional, string)
        y_hat = self._walk(psi, decode)
        decode.finish()
        return y_hat
