"""STF++: the modules of IB-LIC around the transformers and slices of STF.

S. Jiang, H. Yuan, L. Li, R. Hamzaoui, M. Wang, M. Huo, "Interleaved Block-based Learned Image Compression with Feature
Enhancement and Quantization Error Compensation", https://arxiv.org/abs/2502.15188; backbone: R. Zou, C. Song, Z. Zhang,
CVPR 2022, https://arxiv.org/abs/2203.08450

The paper shows this network as a curve only, so all placements are chosen here
- Feature extraction and refinement replace the patch embedding; a 3x3 convolution and a norm over channels follow.
- One concatenated residual module (CRM) before the blocks of every stage.
- A 3x3 convolution, the feature enhancement and the inverse extraction replace the last convolutions.
- Compensation of the quantisation error on y and z. Latent residual prediction corrects the same error of y.
- The paper speaks of another backbone in the testing phase; the network has to be trained with its modules.

Legend: B batch, H W image, C channels per frame, T = 5 frames, h w = H/2 W/2, N channels of the first stage, M = 8N
channels of y, Z channels of z; y (B, M, H/16, W/16), z (B, Z, H/64, W/64), psi (B, 2M, H/16, W/16).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.slices import SliceContext, slice_size
from lic_train.layers.interleaved_codec import InterleavedCodec
from lic_train.layers.interleaving import concatenated_residual
from lic_train.layers.swin import ChannelNorm, check_options, hyper_networks, swin_analysis, swin_synthesis
from lic_train.models.base import HyperpriorCodec


class STFPlusPlus(InterleavedCodec, HyperpriorCodec):
    """Codec of the paper; see `InterleavedCodec` for its data flow.

    Args:
        N: width of the first stage, a multiple of 16; see `lic_train.models.stf`. Default: 48.
        C: channels per frame, a multiple of 4. Default: 32, as in IB-LIC.
        Z: channels of z.
        slices: number of slices of y, a divisor of 8N.
        support: number of the earliest slices from which later ones are predicted.
        widths: hidden widths of the networks of a slice.
        drop_path: as in `lic_train.models.stf`.

    Raises:
        ValueError: a width or the probability is not valid.
    """

    def __init__(
        self,
        N: int = 48,
        C: int = 32,
        Z: int = 192,
        slices: int = 12,
        support: int = 6,
        widths: Sequence[int] = (224, 176, 128, 64),
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        M = 8 * N
        check_options(N, drop_path)
        inner = self.add_frames(C)
        embed = nn.Sequential(nn.Conv2d(inner, N, kernel_size=3, padding=1), ChannelNorm(N))
        end = nn.Conv2d(N, inner, kernel_size=3, padding=1)
        self.g_a = nn.Sequential(OrderedDict(embed=embed, stages=swin_analysis(N, drop_path, concatenated_residual)))
        self.g_s = nn.Sequential(OrderedDict(stages=swin_synthesis(N, drop_path, concatenated_residual), end=end))
        self.h_a, self.h_s = hyper_networks(M, Z)
        self.add_compensation(M, Z)
        self.entropy_bottleneck = EntropyBottleneck(Z, straight_through=True)
        self.context = SliceContext(slices, slice_size(M, slices), support, M, widths)
