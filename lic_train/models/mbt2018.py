"""Joint autoregressive and hierarchical prior: a hyperprior and a serial spatial context predict each latent element.

D. Minnen, J. Balle, G. Toderici, "Joint autoregressive and hierarchical priors for learned image compression",
NeurIPS 2018. arXiv 1809.02736.

The networks are CompressAI's (mbt2018). Its evaluation forward rounds y without the predicted mean, unlike its
bitstream; here both use ``round(y - mean) + mean``, and the context is walked as a wavefront instead of position by
position. Training draws the noise once, for the rate, the context and the reconstruction.

Legend: B batch, H W image, N M channels; y is (B, M, H/16, W/16), z is (B, N, H/64, W/64).
"""

from __future__ import annotations

import compressai.models

from lic_train.entropy.autoregressive import COMPRESSAI_NAMES, SerialContext
from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.models.base import HyperpriorCodec


class JointAutoregressive(HyperpriorCodec):
    """5x5 GDN transforms, Minnen's hyper transforms, one Gaussian per element."""

    compressai_names = COMPRESSAI_NAMES

    def __init__(self, N: int, M: int) -> None:
        super().__init__()
        networks = compressai.models.JointAutoregressiveHierarchicalPriors(N, M)
        self.g_a, self.g_s = networks.g_a, networks.g_s
        self.h_a, self.h_s = networks.h_a, networks.h_s
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.context = SerialContext(M)
