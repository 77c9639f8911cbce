"""Mean-scale hyperprior: Gaussian latents whose scales and means are sent as side information.

D. Minnen, J. Balle, G. Toderici, "Joint autoregressive and hierarchical priors for learned image compression",
NeurIPS 2018, the model without context. arXiv 1809.02736.

The networks are CompressAI's (mbt2018-mean), with its parameter names; entropy models and bitstream are ours.

Legend: B batch, H W image, N M channels; y is (B, M, H/16, W/16), z is (B, N, H/64, W/64).
"""

from __future__ import annotations

import compressai.models
from torch import Tensor

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.gaussian import GaussianConditional
from lic_train.models.base import Codec


class MeanScaleHyperprior(Codec):
    """``x -> g_a -> y -> h_a -> z -> z_hat -> h_s -> (scales, means)``; ``y -> y_hat -> g_s -> x_hat``."""

    downsampling_factor = 64

    def __init__(self, N: int, M: int) -> None:
        super().__init__()
        networks = compressai.models.MeanScaleHyperprior(N, M)
        self.g_a, self.g_s = networks.g_a, networks.g_s
        self.h_a, self.h_s = networks.h_a, networks.h_s
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.gaussian_conditional = GaussianConditional()

    def forward(self, x: Tensor) -> dict:
        """(B, 3, H, W) -> x_hat and likelihoods; see `Codec`."""
        y = self.g_a(x)
        z = self.h_a(y)
        z_hat, z_likelihoods = self.entropy_bottleneck(z)
        scales_hat, means_hat = self.h_s(z_hat).chunk(2, dim=1)
        y_hat, y_likelihoods = self.gaussian_conditional(y, scales_hat, means_hat)
        x_hat = self.g_s(y_hat)
        return {"x_hat": x_hat, "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}

    def compress(self, x: Tensor) -> dict:
        """One image -> strings [y, z] and the shape of z."""
        y = self.g_a(x)
        z = self.h_a(y)
        z_string = self.entropy_bottleneck.compress(z)
        scales_hat, means_hat = self.h_s(self.entropy_bottleneck.quantize(z)).chunk(2, dim=1)
        y_string = self.gaussian_conditional.compress(y, scales_hat, means_hat)
        return {"strings": [y_string, z_string], "shape": tuple(z.shape[2:])}

    def decompress(self, strings: list[bytes], shape: tuple[int, int]) -> dict:
        """Mirror of `compress`."""
        z_hat = self.entropy_bottleneck.decompress(strings[1], shape)
        scales_hat, means_hat = self.h_s(z_hat).chunk(2, dim=1)
        y_hat = self.gaussian_conditional.decompress(strings[0], scales_hat, means_hat)
        return {"x_hat": self.g_s(y_hat).clamp(0, 1)}
