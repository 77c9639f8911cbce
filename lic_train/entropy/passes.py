"""Coding of a latent in several passes, each conditioned on the earlier ones (checkerboards, channel slices).

A model iterates over its passes in one place and calls a `LatentPass` for each: `Estimate` quantises and collects the
parameters for the rate, `Encode` writes, `Decode` reads. The three can differ only in the source of y_hat.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from lic_train.entropy.coder import Strings, SymbolEncoder, decoder_of
from lic_train.entropy.gaussian import GaussianConditional
from lic_train.entropy.precision import at_least_float32, planar, repeatable
from lic_train.entropy.quantize import add_noise, on_grid, round_ste


class LatentPass(Protocol):
    """Callable that a model calls once per pass."""

    def __call__(self, channels: slice, mask: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """Return y_hat of ``channels``, valid where ``mask`` (h, w) is true; y_hat and parameters are (B, g, h, w)."""


class Estimate:
    """Pass that quantises y (B, M, h, w), straight-through, and stores values and parameters for `likelihoods`."""

    def __init__(self, gaussian: GaussianConditional, y: Tensor) -> None:
        self._gaussian, self._y = gaussian, y.float()
        self._coded: dict[int, tuple[Tensor, ...]] = {}

    def __call__(self, channels: slice, mask: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """See `LatentPass`."""
        scales, means = at_least_float32(scales), at_least_float32(means)
        y = self._y[:, channels]
        if not self._gaussian.training:
            means = on_grid(means)
            y = self._gaussian.choose(y, scales, means)
        y_hat = round_ste(y, means)
        now = (y_hat, scales, means)
        earlier = self._coded.get(channels.start, now)
        self._coded[channels.start] = tuple(torch.where(mask, a, b) for a, b in zip(now, earlier, strict=True))
        return y_hat

    def likelihoods(self) -> Tensor:
        """Return likelihoods (B, M, h, w): of y with noise in training, of the coded values otherwise.

        The coded values are those that the passes returned; a context can correct y_hat afterwards.
        """
        y_hat, scales, means = (torch.cat(maps, dim=1) for maps in zip(*self._coded.values(), strict=True))
        values = add_noise(self._y) if self._gaussian.training else y_hat
        return self._gaussian.likelihood(values, scales, means)


class Encode:
    """Pass that encodes y (1, M, h, w) into one string."""

    def __init__(self, gaussian: GaussianConditional, y: Tensor) -> None:
        self._gaussian, self._y, self._encoder = gaussian, y, SymbolEncoder()

    def __call__(self, channels: slice, mask: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """See `LatentPass`."""
        y_hat = torch.zeros_like(means)
        y, scales, means = (maps[:, :, mask] for maps in (self._y[:, channels], scales, means))
        y = self._gaussian.choose(y, scales, means)
        y_hat[:, :, mask] = self._gaussian.encode(self._encoder, y, scales, means)
        return y_hat

    def finish(self) -> bytes:
        """Return the string."""
        return self._encoder.finish()


class Decode:
    """Pass that decodes a string, or one for each picture of a batch."""

    def __init__(self, gaussian: GaussianConditional, string: Strings) -> None:
        self._gaussian, self._decoder = gaussian, decoder_of(string)

    def __call__(self, channels: slice, mask: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """See `LatentPass`."""
        y_hat = torch.zeros_like(means)
        y_hat[:, :, mask] = self._gaussian.decode(self._decoder, scales[:, :, mask], means[:, :, mask])
        return y_hat

    def finish(self) -> None:
        """Compare the checksum.

        Raises:
            BitstreamError: the decoded latent differs from that of the encoder.
        """
        self._decoder.finish()


class PassContext(nn.Module):
    """Entropy model of a Gaussian y (B, M, h, w) given psi, coded in the passes that a subclass defines.

    In eval mode ``_passes`` runs in float64: psi is float64, and so are all parameters and buffers except those of
    ``free``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gaussian_conditional = GaussianConditional()

    @property
    def free(self) -> Iterable[nn.Module]:
        """Parts that decide nothing: they compute in float32."""
        return ()

    def _passes(self, psi: Tensor, code: LatentPass) -> Tensor:
        """Call ``code`` for each pass in order and return y_hat (B, M, h, w)."""
        raise NotImplementedError

    def _walk(self, psi: Tensor, code: LatentPass) -> Tensor:
        with repeatable(self, free=self.free):
            return self._passes(planar(psi), code)

    def forward(self, y: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
        """Return y_hat (straight-through in training) and its likelihoods, both (B, M, h, w)."""
        estimate = Estimate(self.gaussian_conditional, y)
        y_hat = self._walk(psi, estimate)
        return y_hat.float(), estimate.likelihoods()

    @torch.no_grad()
    def compress(self, y: Tensor, psi: Tensor) -> bytes:
        """Encode y (1, M, h, w)."""
        encode = Encode(self.gaussian_conditional, y)
        self._walk(psi, encode)
        return encode.finish()

    @torch.no_grad()
    def decompress(self, string: Strings, psi: Tensor) -> Tensor:
        """Return y_hat (B, M, h, w) in float32.

        Raises:
            BitstreamError: the string is damaged.
        """
        decode = Decode(self.gaussian_conditional, string)
        y_hat = self._walk(psi, decode)
        decode.finish()
        return y_hat.float()
