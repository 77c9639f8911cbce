"""ELIC: uneven channel groups, each coded in two checkerboard passes.

D. He, Z. Yang, W. Peng, R. Ma, H. Qin, Y. Wang, "ELIC: Efficient learned image compression with unevenly grouped
space-channel contextual adaptive coding", CVPR 2022. arXiv 2203.10886.

The networks are CompressAI's (elic2022-official). Entropy models, passes and bitstream are ours: one string for all
passes of y, maps of any size, and the same full-size maps in evaluation, encoder and decoder.

Legend: B batch, H W image, N M channels; y is (B, M, H/16, W/16) in K groups, z is (B, N, H/64, W/64), psi is
(B, 2N, H/16, W/16).
"""

from __future__ import annotations

import compressai.models
import torch
from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.gaussian import GaussianConditional
from lic_train.entropy.passes import Decode, Encode, Estimate, LatentPass
from lic_train.models.base import Codec


class MaskedConv2d(nn.Conv2d):
    """A convolution that sees the taps of ``mask`` (k, k) only; the stored weight is never changed."""

    def __init__(self, in_channels: int, out_channels: int, mask: Tensor) -> None:
        super().__init__(in_channels, out_channels, kernel_size=mask.shape[0], padding=mask.shape[0] // 2)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h, w)."""
        return nn.functional.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


def checkerboard(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """(height, width) bool: the anchors, where row + column is even."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return (rows[:, None] + columns[None, :]) % 2 == 0


class ELIC(Codec):
    """``x -> g_a -> y -> h_a -> z -> z_hat -> h_s -> psi``; groups of y, two passes each, -> y_hat -> g_s -> x_hat."""

    downsampling_factor = 64

    def __init__(self, N: int, M: int, groups: tuple[int, ...] | None = None) -> None:
        super().__init__()
        networks = compressai.models.Elic2022Official(N, M, groups=groups)
        self.g_a, self.g_s = networks.g_a, networks.g_s
        hyper, latent = networks.latent_codec["hyper"], networks.latent_codec["y"]
        self.h_a, self.h_s = hyper.h_a, hyper.h_s
        self.groups = tuple(networks.groups)
        self.channel_context = nn.ModuleList(latent.channel_context[f"y{k}"] for k in range(1, len(self.groups)))
        self.param_aggregation = nn.ModuleList(latent[f"y{k}"].entropy_parameters for k in range(len(self.groups)))
        # The non-anchors see the 12 anchors around them in a 5x5 window.
        self.spatial_context = nn.ModuleList(MaskedConv2d(g, 2 * g, ~checkerboard(5, 5)) for g in self.groups)
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.gaussian_conditional = GaussianConditional()

    def forward(self, x: Tensor) -> dict:
        """(B, 3, H, W) -> x_hat and likelihoods; see `Codec`."""
        y = self.g_a(x)
        z = self.h_a(y)
        _, z_likelihoods = self.entropy_bottleneck(z)
        psi = self.h_s(self.entropy_bottleneck.quantize(z))
        estimate = Estimate(self.gaussian_conditional, y)
        y_hat = self._passes(psi, estimate)
        x_hat = self.g_s(y_hat)
        return {"x_hat": x_hat, "likelihoods": {"y": estimate.likelihoods(y_hat), "z": z_likelihoods}}

    def _passes(self, psi: Tensor, code: LatentPass) -> Tensor:
        """For every group the channel context, then anchors, then non-anchors (section 3.2). Returns y_hat."""
        anchors = checkerboard(*psi.shape[2:], device=psi.device)
        decoded: list[Tensor] = []
        start = 0
        for k, size in enumerate(self.groups):
            channels = slice(start, start + size)
            side = torch.cat([self.channel_context[k - 1](torch.cat(decoded, dim=1)), psi], dim=1) if k else psi
            spatial = psi.new_zeros(psi.shape[0], 2 * size, *psi.shape[2:])
            y_hat = psi.new_zeros(())
            for mask in (anchors, ~anchors):
                scales, means = self.param_aggregation[k](torch.cat([spatial, side], dim=1)).chunk(2, dim=1)
                y_hat = torch.where(mask, code(channels, mask, scales, means), y_hat)
                spatial = self.spatial_context[k](y_hat)
            decoded.append(y_hat)
            start += size
        return torch.cat(decoded, dim=1)

    def compress(self, x: Tensor) -> dict:
        """One image -> strings [y, z] and the shape of z."""
        y = self.g_a(x)
        z = self.h_a(y)
        z_string = self.entropy_bottleneck.compress(z)
        encode = Encode(self.gaussian_conditional, y)
        self._passes(self.h_s(self.entropy_bottleneck.quantize(z)), encode)
        return {"strings": [encode.finish(), z_string], "shape": tuple(z.shape[2:])}

    def decompress(self, strings: list[bytes], shape: tuple[int, int]) -> dict:
        """Mirror of `compress`."""
        z_hat = self.entropy_bottleneck.decompress(strings[1], shape)
        decode = Decode(self.gaussian_conditional, strings[0])
        y_hat = self._passes(self.h_s(z_hat), decode)
        decode.finish()
        return {"x_hat": self.g_s(y_hat).clamp(0, 1)}
