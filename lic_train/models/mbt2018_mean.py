"""Mean-scale hyperprior: Gaussian latents whose scales and means are transmitted as side information.

D. Minnen, J. Balle, G. Toderici, "Joint autoregressive and hierarchical priors for learned image compression",
NeurIPS 2018, the model without context. arXiv 1809.02736.

Networks and their parameter names are CompressAI's (mbt2018-mean). Entropy models and bitstream are this package's.

Legend: B batch, H W image, N M channels; y is (B, M, H/16, W/16), z is (B, N, H/64, W/64).
"""

from __future__ import annotations

import compressai.models

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.gaussian import MeanScaleContext
from lic_train.models.base import HyperpriorCodec


class MeanScaleHyperprior(HyperpriorCodec):
    """``x -> g_a -> y -> h_a -> z -> z_hat -> h_s -> (scales, means)``; ``y -> y_hat -> g_s -> x_hat``."""

    authors_names = ()

    def __init__(self, N: int, M: int) -> None:
        super().__init__()
        networks = compressai.models.MeanScaleHyperprior(N, M)
        self.g_a, self.g_s = networks.g_a, networks.g_s
        self.h_a, self.h_s = networks.h_a, networks.h_s
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.context = MeanScaleContext()
