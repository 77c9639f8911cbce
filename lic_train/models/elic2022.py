"""ELIC: uneven channel groups, each coded in two checkerboard passes.

D. He, Z. Yang, W. Peng, R. Ma, H. Qin, Y. Wang, "ELIC: Efficient learned image compression with unevenly grouped
space-channel contextual adaptive coding", CVPR 2022. arXiv 2203.10886.

The networks are CompressAI's (elic2022-official). Entropy models, passes and bitstream are this package's: one string
for all passes of y, maps of any size, and the same full-size maps in evaluation, encoder and decoder.

Legend: B batch, H W image, N M channels; y is (B, M, H/16, W/16) in K groups, z is (B, N, H/64, W/64), psi is
(B, 2N, H/16, W/16).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import compressai.models
import torch
from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.passes import LatentPass, PassContext
from lic_train.entropy.precision import planar
from lic_train.layers.attention_block import make_picklable
from lic_train.layers.masked import MaskedConv2d, pointwise
from lic_train.models.base import HyperpriorCodec


def checkerboard(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return the anchors as a bool map (height, width): true where row + column is even."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return (rows[:, None] + columns[None, :]) % 2 == 0


class GroupContext(PassContext):
    """Space-channel context of section 3.2: each group has a channel context and is coded in two checkerboard passes.

    Args:
        groups: channels of each group.
        channel: for each group but the first, the channel context over the groups before it.
        aggregation: for each group, the network from spatial context, channel context and psi to scales, means.
    """

    def __init__(self, groups: Sequence[int], channel: Iterable[nn.Module], aggregation: Iterable[nn.Module]) -> None:
        super().__init__()
        self.groups = tuple(groups)
        self.channel_context, self.param_aggregation = nn.ModuleList(channel), nn.ModuleList(aggregation)
        # A non-anchor depends on the 12 anchors in the 5x5 window around it.
        taps = [[(row + column) % 2 == 1 for column in range(5)] for row in range(5)]
        self.spatial_context = nn.ModuleList(MaskedConv2d(g, 2 * g, taps) for g in self.groups)

    def _passes(self, psi: Tensor, code: LatentPass) -> Tensor:
        height, width = psi.shape[2:]
        anchors = checkerboard(height, width, device=psi.device)
        decoded: list[Tensor] = []
        start = 0
        for k, size in enumerate(self.groups):
            channels = slice(start, start + size)
            side = (self.channel_context[k - 1](torch.cat(decoded, dim=1)), psi) if k else (psi,)
            spatial = psi.new_zeros(psi.shape[0], 2 * size, height, width)
            y_hat = psi.new_zeros(())
            for mask in (anchors, ~anchors):
                if mask is not anchors:
                    spatial = self.spatial_context[k](y_hat, mask)
                scales, means = pointwise(self.param_aggregation[k], (spatial, *side), mask).chunk(2, dim=1)
                y_hat = planar(torch.where(mask, code(channels, mask, scales, means), y_hat))
            decoded.append(y_hat)
            start += size
        return torch.cat(decoded, dim=1)


# (name in CompressAI, name here) of the networks of a group.
_PARTS = (("entropy_parameters", "param_aggregation"), ("context_prediction", "spatial_context"))


class ELIC(HyperpriorCodec):
    """``x -> g_a -> y -> h_a -> z -> z_hat -> h_s -> psi``; groups of y in two passes each -> y_hat -> g_s -> x_hat."""

    authors_names = (
        (r"^latent_codec\.hyper\.", ""),
        *((rf"^latent_codec\.y\.channel_context\.y{k}\.", f"context.channel_context.{k - 1}.") for k in range(1, 5)),
        *((rf"^latent_codec\.y\.latent_codec\.y(\d)\.{there}\.", rf"context.{here}.\1.") for there, here in _PARTS),
    )

    def __init__(self, N: int, M: int, groups: tuple[int, ...] | None = None) -> None:
        super().__init__()
        networks = compressai.models.Elic2022Official(N, M, groups=groups)
        make_picklable(networks)
        self.g_a, self.g_s = networks.g_a, networks.g_s
        hyper, latent = networks.latent_codec["hyper"], networks.latent_codec["y"]
        self.h_a, self.h_s = hyper.h_a, hyper.h_s
        self.entropy_bottleneck = EntropyBottleneck(N, straight_through=True)
        self.context = GroupContext(
            networks.groups,
            channel=(latent.channel_context[f"y{k}"] for k in range(1, len(networks.groups))),
            aggregation=(latent[f"y{k}"].entropy_parameters for k in range(len(networks.groups))),
        )
