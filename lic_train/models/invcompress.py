"""InvCompress: one invertible flow as encoder and, reversed, as decoder.

Y. Xie, K. L. Cheng, Q. Chen, "Enhanced invertible encoding for learned image compression", ACM MM 2021,
https://arxiv.org/abs/2108.03690

The networks and widths are those of the authors' code; only the abstract of the paper was read. Differences from the
code
- Evaluation quantises like the bitstream, ``round(y - mean) + mean``; the code's forward pass rounds without the mean.
- The context is evaluated as a wavefront instead of position by position.
- Training draws one noise tensor for context, decoder and rate; the code draws a second one for the rate.
- The flow is computed in float32 also under autocast: its exponentials and inverse matrices are inexact in 16 bits.
- ``kernels`` and ``enhancement_width`` are arguments, for smaller networks; the code has them fixed.

The flow has no term of its own in the loss. It does not invert the codec: the average of groups of its channels and the
quantiser lose information, and the reverse pass starts from the quantised latent.

Legend: B batch, H W image, h w map, C channels of a level of the flow, N channels of both latents; y is
(B, N, H/16, W/16), z is (B, N, H/64, W/64), psi is (B, 2N, H/16, W/16).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_train.entropy.autoregressive import SerialContext
from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.precision import in_float32
from lic_train.layers.attention_block import AttentionBlock
from lic_train.layers.enhancement import Enhancement, start_at_zero
from lic_train.layers.hyper import cheng_h_a, cheng_h_s
from lic_train.models.base import HyperpriorCodec

COUPLINGS = 3  # of each level of the flow


class Squeeze(nn.Module):
    """Space to depth by 2; the channel is ``(2 * row + column) * C + c``, unlike that of PyTorch's pixel_unshuffle."""

    def forward(self, x: Tensor, inverse: bool = False) -> Tensor:
        """Map (B, C, h, w) to (B, 4C, h/2, w/2), or back."""
        if inverse:
            return F.pixel_shuffle(x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2), 2)
        return F.pixel_unshuffle(x, 2).unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2)


class InvertibleConv(nn.Module):
    """1x1 convolution with a square matrix, initially a random rotation or reflection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels)).Q.contiguous())

    def forward(self, x: Tensor, inverse: bool = False) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        weight = self.weight
        if inverse:
            # inv_ex, unlike inv, does not wait for the device to check the matrix: the inverse of a singular matrix is
            # not finite, which training reports.
            weight = torch.linalg.inv_ex(weight.double()).inverse.to(x.dtype)
        return F.conv2d(x, weight[:, :, None, None])


class Subnet(nn.Module):
    """Three convolutions, kxk, 1x1 and kxk, from (B, c, h, w) to (B, c', h, w). Initially zero."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        convs = [
            nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2),
            nn.Conv2d(out_channels, out_channels, 1),
            nn.Conv2d(out_channels, out_channels, kernel, padding=kernel // 2),
        ]
        start_at_zero(convs)
        self.convs = nn.ModuleList(convs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scale logit or the shift of the other part."""
        first, second, third = self.convs
        return third(F.leaky_relu(second(F.leaky_relu(first(x), 0.2)), 0.2))


def bounded_exp(logits: Tensor) -> Tensor:
    """Return the exponential of a number in (-1, 1), that is, a scale in (1/e, e)."""
    return torch.exp(2 * torch.sigmoid(logits) - 1)


class Coupling(nn.Module):
    """Affine coupling of the first quarter of the channels with the others. Initially the identity."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.sizes = first, second = channels // 4, channels - channels // 4
        self.G1, self.H1 = (Subnet(first, second, kernel) for _ in range(2))
        self.G2, self.H2 = (Subnet(second, first, kernel) for _ in range(2))

    def forward(self, x: Tensor, inverse: bool = False) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        first, second = x.split(self.sizes, dim=1)
        if inverse:
            second = (second - self.H1(first)) / bounded_exp(self.G1(first))
            first = (first - self.H2(second)) / bounded_exp(self.G2(second))
        else:
            first = first * bounded_exp(self.G2(second)) + self.H2(second)
            second = second * bounded_exp(self.G1(first)) + self.H1(first)
        return torch.cat([first, second], dim=1)


class Flow(nn.Module):
    """Invertible network; each level is a squeeze, a 1x1 convolution and three couplings.

    Args:
        kernels: kernel size of the couplings of each level.
    """

    def __init__(self, kernels: Sequence[int]) -> None:
        super().__init__()
        operations: list[nn.Module] = []
        for level, kernel in enumerate(kernels, start=1):
            channels = 3 * 4**level
            couplings = [Coupling(channels, kernel) for _ in range(COUPLINGS)]
            operations += [Squeeze(), InvertibleConv(channels), *couplings]
        self.operations = nn.ModuleList(operations)

    @in_float32
    def forward(self, x: Tensor, inverse: bool = False) -> Tensor:
        """Map (B, 3, H, W) to (B, 3 * 4^L, H / 2^L, W / 2^L) for L levels, or back."""
        for operation in reversed(self.operations) if inverse else self.operations:
            x = operation(x, inverse)
        return x


class GroupMean(nn.Module):
    """Mean over groups of N consecutive channels."""

    def __init__(self, N: int) -> None:
        super().__init__()
        self.N = N

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, N, h, w)."""
        return x.unflatten(1, (-1, self.N)).mean(dim=1)


class Repeat(nn.Module):
    """All channels, ``groups`` times one after the other."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, y: Tensor) -> Tensor:
        """Map (B, N, h, w) to (B, groups * N, h, w)."""
        return y.repeat(1, self.groups, 1, 1)


class InvCompress(HyperpriorCodec):
    """Codec of the paper.

    ::

        x --enhancement--> --flow--> --g_a--> y;  h_a, h_s, serial context as Cheng et al. 2020
        y_hat --g_s--> --flow reversed--> --restoration--> x_hat

    Args:
        N: channels of both latents, a divisor of the flow's 768 channels. Code: 128, or 192 for high rates.
        kernels: kernel sizes of the couplings, one for each level of the flow. Code: 5, 5, 3, 3. With L levels, y is
            (B, N, H / 2^L, W / 2^L), and N divides 3 * 4^L.
        enhancement_width: channels inside the two full-resolution enhancements. Code: 64.

    Raises:
        ValueError: an argument is not valid.
    """

    # (authors' name, name here) of tensors: a regular expression and its replacement, all applied in order.
    authors_names = (
        (r"^inv\.", "flow."),
        (r"^enh\.forw_enh\.layers\.", "enhancement.branch."),
        (r"^enh\.back_enh\.layers\.", "restoration.branch."),
        (r"^attention\.forw_att\.", "g_a.1."),
        (r"^attention\.back_att\.", "g_s.0."),
        (r"^(context_prediction|entropy_parameters)\.", r"context.\1."),
        *((rf"\.conv{layer}\.", f".convs.{layer - 1}.") for layer in range(1, 6)),
    )

    def __init__(self, N: int, kernels: Sequence[int] = (5, 5, 3, 3), enhancement_width: int = 64) -> None:
        super().__init__()
        _check(N, kernels)
        self.downsampling_factor = 4 * 2 ** len(kernels)
        self.enhancement, self.restoration = Enhancement(width=enhancement_width), Enhancement(width=enhancement_width)
        self.flow = Flow(kernels)
        self.g_a = nn.Sequential(GroupMean(N), AttentionBlock(N))
        self.g_s = nn.Sequential(AttentionBlock(N), Repeat(3 * 4 ** len(kernels) // N))
        self.h_a, self.h_s = cheng_h_a(N, N), cheng_h_s(N, N)
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.context = SerialContext(N)

    def _analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.g_a(self.flow(self.enhancement(x)))
        return y, self.h_a(y)

    def _synthesise(self, y_hat: Tensor) -> Tensor:
        return self.restoration(self.flow(self.g_s(y_hat), True))


def _check(N: int, kernels: Sequence[int]) -> None:
    if not kernels or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
        raise ValueError(f"kernels: expected odd positive numbers, got {list(kernels)}")
    channels = 3 * 4 ** len(kernels)
    if N < 2 or N % 2 or channels % N:
        raise ValueError(f"N: expected an even divisor of the flow's {channels} channels, got {N}")
