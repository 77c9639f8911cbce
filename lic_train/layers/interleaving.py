"""Interleaved sub-images as frames: the modules that IB-LIC adds around a backbone.

S. Jiang et al., "Interleaved Block-based Learned Image Compression with Feature Enhancement and Quantization Error
Compensation", https://arxiv.org/abs/2502.15188. The file of the model lists what the paper does not specify.

Legend: B batch, H W image, p patch, T = p^2 + 1 frames, C channels per frame, h w = H/p W/p; frames (B, T, C, h, w).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def interleave(x: Tensor, patch: int) -> Tensor:
    """Map (B, 3, H, W) to (B, p^2, 3, h, w); frame p * a + b has the pixels at row a, column b of every patch."""
    return F.pixel_unshuffle(x, patch).unflatten(1, (x.shape[1], patch**2)).transpose(1, 2)


def deinterleave(frames: Tensor, patch: int) -> Tensor:
    """Inverse of `interleave`."""
    return F.pixel_shuffle(frames.transpose(1, 2).flatten(1, 2), patch)


class Skip(nn.Sequential):
    """Sequence of modules with a shortcut around it."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape that the sequence preserves."""
        return x + super().forward(x)


class FrameConv(nn.Conv2d):
    """3 x k x k convolution over frames (B * T, C, h, w), zero-padded in time and space.

    The depth of the kernel is stored as input channels in the order (frame, channel). The result is that of a 3-D
    convolution, but a 2-D one is faster and supports channels-last memory.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, num_frames: int) -> None:
        super().__init__(3 * in_channels, out_channels, kernel, padding=kernel // 2)
        self.num_frames = num_frames

    def forward(self, x: Tensor) -> Tensor:
        """Map (B * T, C, h, w) to (B * T, C', h, w)."""
        frames = F.pad(x.unflatten(0, (-1, self.num_frames)), (0, 0, 0, 0, 0, 0, 1, 1))
        stacks = torch.cat([frames[:, i : i + self.num_frames] for i in range(3)], dim=2)
        return super().forward(stacks.flatten(0, 1))


def bottleneck(channels: int, middle: nn.Module) -> Skip:
    """Residual unit with half the channels inside; small initial output, because nested shortcuts add up."""
    last = nn.Conv2d(channels // 2, channels, 1)
    scale_init(last, 0.1)
    return Skip(nn.Conv2d(channels, channels // 2, 1), nn.PReLU(channels // 2), middle, nn.PReLU(channels // 2), last)


@torch.no_grad()
def scale_init(conv: nn.Module, factor: float) -> None:
    """Multiply all parameters of ``conv`` by ``factor``."""
    for parameter in conv.parameters():
        parameter.mul_(factor)


def concatenated_residual(channels: int) -> Skip:
    """CRM: two consecutive residual units and one more shortcut. Preserves (B, C', H', W')."""
    return Skip(*(bottleneck(channels, nn.Conv2d(channels // 2, channels // 2, 3, padding=1)) for _ in range(2)))


class FeatureExtraction(nn.Module):
    """FExM: ``num_convs`` convolutions shared by the p^2 sub-images, and one of stride p on the whole image."""

    def __init__(self, channels: int, patch: int, num_convs: int) -> None:
        super().__init__()
        self.patch = patch
        rest = [nn.PReLU(channels), nn.Conv2d(channels, channels, 3, padding=1)] if num_convs == 2 else []
        self.parts = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), *rest)
        self.whole = nn.Conv2d(3, channels, 2 * patch + 1, patch, padding=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, T, C, h, w); the frame of the whole image is last."""
        parts = interleave(x, self.patch)
        features = self.parts(parts.flatten(0, 1)).unflatten(0, parts.shape[:2])
        return torch.cat([features, self.whole(x).unsqueeze(1)], dim=1)


class FeatureAssembly(nn.Module):
    """Mirror image of `FeatureExtraction`: deinterleaved sub-images plus the synthesis of the last frame."""

    def __init__(self, channels: int, patch: int, num_convs: int) -> None:
        super().__init__()
        self.patch = patch
        rest = [nn.ConvTranspose2d(channels, channels, 3, padding=1), nn.PReLU(channels)] if num_convs == 2 else []
        self.parts = nn.Sequential(*rest, nn.ConvTranspose2d(channels, 3, 3, padding=1))
        self.whole = nn.ConvTranspose2d(channels, 3, 2 * patch + 1, patch, padding=patch, output_padding=patch - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C * T, h, w) to (B, 3, H, W)."""
        frames = x.unflatten(1, (-1, self.patch**2 + 1)).transpose(1, 2)
        parts = frames[:, :-1]
        images = self.parts(parts.flatten(0, 1)).unflatten(0, parts.shape[:2])
        return deinterleave(images, self.patch) + self.whole(frames[:, -1])


class FrameMerge(nn.Module):
    """Frames as channels; channel c of frame t becomes channel c * T + t."""

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, T, C, h, w) to (B, C * T, h, w)."""
        return frames.transpose(1, 2).flatten(1, 2)


class Refinement(nn.Module):
    """FRM: one residual attention block over the stack of frames.

    Args:
        channels: C.
        num_frames: T.
        levels: consecutive residual units in each of the three 3-D residual blocks.
    """

    def __init__(self, channels: int, num_frames: int, levels: int) -> None:
        super().__init__()

        def unit() -> Skip:
            return bottleneck(channels, FrameConv(channels // 2, channels // 2, 3, num_frames))

        def cascade() -> Skip:
            return Skip(*(unit() for _ in range(levels))) if levels > 1 else unit()

        first, second = (FrameConv(channels, channels, 3, num_frames) for _ in range(2))
        self.head = Skip(first, nn.PReLU(channels), second)
        self.body = nn.Sequential(cascade(), cascade(), cascade())
        squeeze, expand = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.channel_gate = nn.Sequential(squeeze, nn.PReLU(), expand)
        self.spatial_gate = FrameConv(2, 1, 7, num_frames)
        self.trunk = nn.Sequential(unit(), unit(), unit())
        self.mask = nn.Sequential(unit(), unit(), unit(), nn.Conv2d(channels, channels, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, T, C, h, w) to (B, T, C, h, w)."""
        u = self.head(frames.flatten(0, 1))
        v = self.body(u)
        pooled = v.unflatten(0, frames.shape[:2]).mean(dim=(1, 3, 4))
        gate = self.channel_gate(pooled[:, :, None, None]).sigmoid()
        w = u + v * gate.repeat_interleave(frames.shape[1], dim=0)
        w = w * self.spatial_gate(torch.cat([w.mean(1, keepdim=True), w.amax(1, keepdim=True)], dim=1)).sigmoid()
        w = w + self.trunk(w) * self.mask(w).sigmoid()
        return w.unflatten(0, frames.shape[:2])


class DenseBlock(nn.Module):
    """Three densely connected 3x3 convolutions, a 1x1 fusion and a shortcut."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels + i * growth, growth, 3, padding=1) for i in range(3))
        self.activations = nn.ModuleList(nn.PReLU(growth) for _ in range(3))
        self.fusion = nn.Conv2d(channels + 3 * growth, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C', h, w) to (B, C', h, w)."""
        features = x
        for conv, activation in zip(self.convs, self.activations, strict=True):
            features = torch.cat([features, activation(conv(features))], dim=1)
        return x + self.fusion(features)


class Enhancement(nn.Module):
    """FEnM: dense blocks on a narrow copy of the decoded feature; initially the identity."""

    def __init__(self, channels: int, num_frames: int, num_blocks: int) -> None:
        super().__init__()
        width = 3 * channels // 2
        self.squeeze = nn.Conv2d(channels * num_frames, width, 1)
        self.blocks = Skip(*(DenseBlock(width, channels // 2) for _ in range(num_blocks)))
        self.expand = nn.Conv2d(width, channels * num_frames, 1)
        scale_init(self.expand, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C * T, h, w) to (B, C * T, h, w)."""
        return x + self.expand(self.blocks(self.squeeze(x)))
