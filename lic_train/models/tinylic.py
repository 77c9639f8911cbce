"""Tiny-LIC: convolutions and neighbourhood attention, with a context model of nine passes.

M. Lu, Z. Ma, "High-Efficiency Lossy Image Coding Through Adaptive Neighborhood Information Aggregation",
https://arxiv.org/abs/2204.11448

What differs from the authors' code
- An axis shorter than the attention window is attended as a whole; their code fails on images below 192 pixels a side.
- Masked weights are masked at every use, not overwritten in the checkpoint.
- The paper speaks of additive noise; as in the code, noise is only in the likelihood, and all else sees rounded values.
- One string for y, one for z; symbols beyond a table are escape-coded.

Legend: B batch, H W image, N M channels; y (B, M, H/16, W/16), z (B, 3N/2, H/64, W/64), psi (B, 2M, H/16, W/16).
"""

from __future__ import annotations

from torch import Tensor

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.layers.icsa import analysis, check_options, synthesis
from lic_train.layers.multistage_context import MultistageContext, planar, repeatable
from lic_train.models.base import Codec


class TinyLIC(Codec):
    """The codec of the paper.

    ::

        x --g_a--> y --h_a--> z --Q--> z_hat --h_s--> psi
        y, psi --nine passes--> y_hat --g_s--> x_hat

    Args:
        N: width of the first stage; the others have 3N/2, 2N and M. Paper: 128. A multiple of 32.
        M: channels of y. Paper: 320. A multiple of 16.
        drop_path: largest rate at which the residual branches of a block are left out in training; it rises linearly
            over the 16 blocks of g_a and h_a, and again over those of h_s and g_s. Authors: 0.1.

    Raises:
        ValueError: a width or the rate has no meaning.
    """

    downsampling_factor = 64

    def __init__(self, N: int = 128, M: int = 320, drop_path: float = 0.1) -> None:
        super().__init__()
        check_options(N, M, drop_path)
        widths, Z = (N, 3 * N // 2, 2 * N, M), 3 * N // 2
        depths, two, four = (2, 2, 6, 2), (2, 2), (2, 2, 2, 2)
        rates = [drop_path * i / 15 for i in range(16)]
        self.g_a = analysis((3, *widths), (5, 3, 3, 3), four, depths, 7, rates[:12])
        self.h_a = analysis((M, Z, Z), (3, 3), two, two, 3, rates[12:])
        self.h_s = synthesis((Z, Z, 2 * M), (3, 3), two, two, 3, rates[:4])
        self.g_s = synthesis((*widths[::-1], 3), (3, 3, 3, 5), four, depths[::-1], 7, rates[4:])
        self.entropy_bottleneck = EntropyBottleneck(Z)
        self.context = MultistageContext(M)

    def forward(self, x: Tensor) -> dict:
        """(B, 3, H, W) -> x_hat and likelihoods; see `Codec`."""
        y = self.g_a(x)
        z = self.h_a(y)
        _, z_likelihoods = self.entropy_bottleneck(z)
        z_hat = self.entropy_bottleneck.quantize(z)
        y_hat, y_likelihoods = self.context(y, self._psi(z_hat))
        x_hat = self.g_s(y_hat)
        return {"x_hat": x_hat, "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}

    def _psi(self, z_hat: Tensor) -> Tensor:
        """(B, 3N/2, H/64, W/64) -> (B, 2M, H/16, W/16), equal to the last bit in encoder and decoder."""
        with repeatable(self):
            return self.h_s(planar(z_hat))

    def compress(self, x: Tensor) -> dict:
        """One image -> strings [y, z] and the shape of z."""
        y = self.g_a(x)
        z = self.h_a(y)
        z_string = self.entropy_bottleneck.compress(z)
        psi = self._psi(self.entropy_bottleneck.quantize(z))
        y_string = self.context.compress(y, psi)
        return {"strings": [y_string, z_string], "shape": tuple(z.shape[2:])}

    def decompress(self, strings: list[bytes], shape: tuple[int, int]) -> dict:
        """Mirror of `compress`."""
        z_hat = self.entropy_bottleneck.decompress(strings[1], shape)
        psi = self._psi(z_hat)
        y_hat = self.context.decompress(strings[0], psi)
        return {"x_hat": self.g_s(y_hat).clamp(0, 1)}
