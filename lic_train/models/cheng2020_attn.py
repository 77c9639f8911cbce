"""Cheng 2020 with attention: the anchor with simplified attention blocks in both transforms.

Z. Cheng, H. Sun, M. Takeuchi, J. Katto, "Learned image compression with discretized Gaussian mixture likelihoods and
attention modules", CVPR 2020. arXiv 2001.01568.

The networks are CompressAI's (cheng2020-attn). Differences from CompressAI
- CompressAI's evaluation forward rounds y without the predicted mean, unlike its bitstream. Here both use
  ``round(y - mean) + mean``.
- The context is evaluated as a wavefront instead of position by position.
- Training draws the noise once, for the rate, the context and the reconstruction.

As in CompressAI, each element has one Gaussian; the paper has a mixture of three.

Legend: B batch, H W image, N channels throughout; y is (B, N, H/16, W/16), z is (B, N, H/64, W/64).
"""

from __future__ import annotations

import compressai.models

from lic_train.entropy.autoregressive import COMPRESSAI_NAMES, SerialContext
from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.layers.attention_block import make_picklable
from lic_train.layers.subsampled import SubsampledConv2d
from lic_train.models.base import HyperpriorCodec


class Cheng2020Attention(HyperpriorCodec):
    """Codec of the paper with attention at 1/4 and 1/16 of the resolution."""

    authors_names = COMPRESSAI_NAMES

    def __init__(self, N: int) -> None:
        super().__init__()
        networks = compressai.models.Cheng2020Attention(N)
        make_picklable(networks)
        networks.g_a[0].skip = SubsampledConv2d.like(networks.g_a[0].skip)
        self.g_a, self.g_s = networks.g_a, networks.g_s
        self.h_a, self.h_s = networks.h_a, networks.h_s
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.context = SerialContext(N)
