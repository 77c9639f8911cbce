"""Mean-scale hyperprior: Gaussian latents whose scales and means are sent as side information.

D. Minnen, J. Balle, G. Toderici, "Joint autoregressive and hierarchical priors for learned image compression",
NeurIPS 2018, the model without context. arXiv 1809.02736.

The networks are CompressAI's (mbt2018-mean), with its parameter names; entropy models and bitstream are ours.

Legend: B batch, H W image, N M channels; y is (B, M, H/16, W/16), z is (B, N, H/64, W/64).
"""

from __future__ import annotations

import compressai.models
from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.gaussian import GaussianConditional
from lic_train.models.base import HyperpriorCodec


class MeanScaleGaussian(nn.Module):
    """A Gaussian whose scales, then means, are one map psi (B, 2M, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.gaussian_conditional = GaussianConditional()

    def forward(self, y: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
        """Return y_hat and its likelihoods, both (B, M, h, w)."""
        return self.gaussian_conditional(y, *psi.chunk(2, dim=1))

    def compress(self, y: Tensor, psi: Tensor) -> bytes:
        """Code y (1, M, h, w)."""
        return self.gaussian_conditional.compress(y, *psi.chunk(2, dim=1))

    def decompress(self, string: bytes, psi: Tensor) -> Tensor:
        """Return y_hat (1, M, h, w)."""
        return self.gaussian_conditional.decompress(string, *psi.chunk(2, dim=1))


class MeanScaleHyperprior(HyperpriorCodec):
    """``x -> g_a -> y -> h_a -> z -> z_hat -> h_s -> (scales, means)``; ``y -> y_hat -> g_s -> x_hat``."""

    compressai_names = ()

    def __init__(self, N: int, M: int) -> None:
        super().__init__()
        networks = compressai.models.MeanScaleHyperprior(N, M)
        self.g_a, self.g_s = networks.g_a, networks.g_s
        self.h_a, self.h_s = networks.h_a, networks.h_s
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.context = MeanScaleGaussian()
