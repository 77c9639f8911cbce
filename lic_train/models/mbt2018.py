"""Joint autoregressive and hierarchical prior: each latent element is predicted by a hyperprior and a serial context.

D. Minnen, J. Balle, G. Toderici, "Joint autoregressive and hierarchical priors for learned image compression",
NeurIPS 2018. arXiv 1809.02736.

The networks are CompressAI's (mbt2018). Differences from CompressAI
- CompressAI's evaluation forward rounds y without the predicted mean, unlike its bitstream. Here both use
  ``round(y - mean) + mean``.
- The context is evaluated as a wavefront instead of position by position.
- Training draws the noise once, for the rate, the context and the reconstruction.

Legend: B batch, H W image, N M channels; y is (B, M, H/16, W/16), z is (B, N, H/64, W/64).
"""

from __future__ import annotations

import compressai.models

from lic_train.entropy.autoregressive import COMPRESSAI_NAMES, SerialContext
from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.models.base import HyperpriorCodec


class JointAutoregressive(HyperpriorCodec):
    """Codec with 5x5 GDN transforms, the hyper transforms of Minnen et al., and one Gaussian per element."""

    authors_names = COMPRESSAI_NAMES

    def __init__(self, N: int, M: int) -> None:
        super().__init__()
        networks = compressai.models.JointAutoregressiveHierarchicalPriors(N, M)
        self.g_a, self.g_s = networks.g_a, networks.g_s
        self.h_a, self.h_s = networks.h_a, networks.h_s
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.context = SerialContext(M)
