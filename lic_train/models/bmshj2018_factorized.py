"""Factorised prior: an autoencoder with GDN and one learned density per latent channel.

J. Balle, D. Minnen, S. Singh, S. J. Hwang, N. Johnston, "Variational image compression with a scale hyperprior",
ICLR 2018, the model without side information. arXiv 1802.01436.

Networks and their parameter names are CompressAI's (bmshj2018-factorized). Entropy model and bitstream are this
package's.

Legend: B batch, H W image, N M channels; y is (B, M, H/16, W/16).
"""

from __future__ import annotations

from collections.abc import Sequence

import compressai.models
from torch import Tensor

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.coder import Strings
from lic_train.models.base import Codec, CodecOutput, Compressed, Decompressed


class FactorizedPrior(Codec):
    """Codec with a factorised prior: ``x -> g_a -> y -> Q, factorised density -> y_hat -> g_s -> x_hat``."""

    authors_names = ()

    downsampling_factor = 16

    def __init__(self, N: int, M: int) -> None:
        super().__init__()
        networks = compressai.models.FactorizedPrior(N, M)
        self.g_a, self.g_s = networks.g_a, networks.g_s
        self.entropy_bottleneck = EntropyBottleneck(M)

    def forward(self, x: Tensor) -> CodecOutput:
        """Return x_hat and likelihoods of x (B, 3, H, W); see `Codec`."""
        y = self.g_a(x)
        y_hat, y_likelihoods = self.entropy_bottleneck(y)
        x_hat = self.g_s(y_hat.float())
        return {"x_hat": x_hat, "likelihoods": {"y": y_likelihoods}}

    def compress(self, x: Tensor) -> Compressed:
        """Return the string [y] of one image and the shape of y."""
        y = self.g_a(x)
        return {"strings": [self.entropy_bottleneck.compress(y)], "shape": (y.shape[2], y.shape[3])}

    def decompress(self, strings: Sequence[Strings], shape: tuple[int, int]) -> Decompressed:
        """See `Codec.decompress`."""
        y_hat = self.entropy_bottleneck.decompress(strings[0], shape)
        return {"x_hat": self.g_s(y_hat.float()).clamp(0, 1)}
