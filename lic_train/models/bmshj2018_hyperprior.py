"""Scale hyperprior: zero-mean Gaussian latents whose scales are transmitted as side information.

J. Balle, D. Minnen, S. Singh, S. J. Hwang, N. Johnston, "Variational image compression with a scale hyperprior",
ICLR 2018. arXiv 1802.01436.

Networks and their parameter names are CompressAI's (bmshj2018-hyperprior). Entropy models and bitstream are this
package's.

Legend: B batch, H W image, N M channels; y is (B, M, H/16, W/16), z is (B, N, H/64, W/64).
"""

from __future__ import annotations

import compressai.models
from torch import Tensor

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.gaussian import GaussianConditional
from lic_train.models.base import HyperpriorCodec


class ScaleHyperprior(HyperpriorCodec):
    """``x -> g_a -> y -> |.| -> h_a -> z -> z_hat -> h_s -> scales``; ``y -> y_hat -> g_s -> x_hat``."""

    authors_names = ()

    def __init__(self, N: int, M: int) -> None:
        super().__init__()
        networks = compressai.models.ScaleHyperprior(N, M)
        self.g_a, self.g_s = networks.g_a, networks.g_s
        self.h_a, self.h_s = networks.h_a, networks.h_s
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.context = GaussianConditional()

    def _analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.g_a(x)
        return y, self.h_a(y.abs())
