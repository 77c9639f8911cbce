"""Demo: the small codec inside the package, made for short trainings and fast decoding.

The network of no paper. Its parts are those of Minnen et al. 2018, "Joint autoregressive and hierarchical priors for
learned image compression", and a context in five passes instead of one element after the other. What differs, and why
- g_a has three strided convolutions instead of four. With as many weights, y then keeps more values per pixel: with
  M = 128, two thirds of the 192 values of a block of 8x8 pixels. With 16x16 pixels and M = 192 it keeps a quarter, and
  above about 30 dB a small network loses more by the missing values than by quantisation.
- h_a reads y and its magnitudes, has one stride, and starts as the mean magnitude of a few neighbouring values, from
  which h_s predicts scales. Otherwise a short training spends most of its steps on learning the scales.
- The context corrects what h_s predicted. It starts as no correction, so that it cannot disturb the first steps.
- The layers that read y and that predict its parameters are 1x1 convolutions, because they have 2M channels.
- The encoder chooses between two symbols by their costs; see `GaussianConditional.choose`.

Legend: B batch, H W image, A N widths; y is (B, M, H/8, W/8), its first F channels have a spatial context of width C;
z is (B, Z, H/16, W/16).
"""

from __future__ import annotations

import torch
from compressai.layers import GDN
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.gaussian import GaussianConditional
from lic_train.entropy.passes import LatentPass, PassContext
from lic_train.entropy.precision import planar
from lic_train.layers.klt import TAPS
from lic_train.layers.masked import MaskedConv2d, pointwise
from lic_train.layers.multistage_context import Parity, earlier_taps, stage_mask
from lic_train.models.base import HyperpriorCodec

# Channels of z that predict means. Those of y which they predict are the first ones, with `initial_weights: klt` the
# largest.
SIGNED = 6
# Of an element of y at the start: standard deviation over local mean magnitude, that of a Gaussian, and least scale.
DEVIATION, LEAST_SCALE = 1.25, 0.12
# Share of the random initial weights that is kept.
RANDOM = 0.01
# Row and column parity of the positions that are coded in a stage. Every position of a stage after the first has
# neighbours of all earlier stages.
STAGES: tuple[Parity, ...] = ((0, 0), (1, 1), (0, 1), (1, 0))
# Bits for an error of one squared step of the quantiser, in the choice of symbols. On 24 validation photographs the
# BD-rate over no choice is -1.2, -1.5, -1.6 % for 20, 28, 40, and was 0.9, -0.7 % for 10, 14 during training.
DISTORTION_WEIGHT = 28.0


def correction(inputs: int, width: int, channels: int) -> nn.Sequential:
    """Build the 1x1 convolutions that correct the scales and means of ``channels``; at the start they return 0."""
    last = nn.Conv2d(width, 2 * channels, kernel_size=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.get_parameter("bias"))
    return nn.Sequential(
        nn.Conv2d(inputs, width, kernel_size=1),
        nn.LeakyReLU(),
        nn.Conv2d(width, width, kernel_size=1),
        nn.LeakyReLU(),
        last,
    )


class NeighbourContext(PassContext):
    """Entropy model of a Gaussian y given psi (B, 2M, h, w), its scales and means as predicted from z.

    The first F channels are coded in the four stages of `STAGES`, and depend on the eight neighbours as far as these
    are coded. The other channels are coded in one pass, and depend on 3x3 positions of the first. The networks read
    ``(y_hat - mean) / scale``, and predict the change of a mean in units of the scale, and that of the logarithm of the
    scale. Their inputs therefore have the same magnitude at every rate.

    Args:
        M: channels of y.
        F: channels with a spatial context.
        C: width of the networks.

    Raises:
        ValueError: F is not between 0 and M.
    """

    def __init__(self, M: int, F: int, C: int) -> None:
        super().__init__()
        if not 0 < F < M:
            raise ValueError(f"F: expected 1 to M - 1 = {M - 1}, got {F}")
        self.gaussian_conditional = GaussianConditional(distortion_weight=DISTORTION_WEIGHT)
        self.first, self.rest = slice(0, F), slice(F, M)
        self.spatial = nn.ModuleList(
            MaskedConv2d(F, C, earlier_taps(3, STAGES[j], STAGES[:j])) for j in range(1, len(STAGES))
        )
        self.correct_first = nn.ModuleList(correction(2 * F + C * (j > 0), C, F) for j in range(len(STAGES)))
        self.channel = nn.Conv2d(F, C, kernel_size=3, padding=1)
        self.correct_rest = correction(2 * (M - F) + C, C, M - F)

    def _passes(self, psi: Tensor, code: LatentPass) -> Tensor:
        scales, means = psi.chunk(2, dim=1)
        scales = self.gaussian_conditional.lower_bound_scale(scales)
        first = scales[:, self.first], means[:, self.first]
        rest = scales[:, self.rest], means[:, self.rest]
        y_first = self._first(*first, code)
        everywhere = torch.ones(psi.shape[2:], dtype=torch.bool, device=psi.device)
        context = self.channel((y_first - first[1]) / first[0])
        y_rest = code(self.rest, everywhere, *_corrected(self.correct_rest, *rest, [context], everywhere))
        return torch.cat([y_first, planar(y_rest)], dim=1)

    def _first(self, scales: Tensor, means: Tensor, code: LatentPass) -> Tensor:
        height, width = means.shape[2:]
        y_hat = torch.zeros_like(means)
        for j, stage in enumerate(STAGES):
            mask = stage_mask([stage], height, width, device=means.device)
            context = [self.spatial[j - 1]((y_hat - means) / scales, mask)] if j else []
            parameters = _corrected(self.correct_first[j], scales, means, context, mask)
            y_hat = planar(torch.where(mask, code(self.first, mask, *parameters), y_hat))
        return y_hat


def _corrected(
    network: nn.Module, scales: Tensor, means: Tensor, context: list[Tensor], mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return scales and means (B, c, h, w), valid where ``mask`` is true."""
    log_scale, mean = pointwise(network, (scales.log(), means / scales, *context), mask).chunk(2, dim=1)
    return scales * log_scale.exp(), means + scales * mean


class SmallHyperprior(HyperpriorCodec):
    """``x -> g_a -> y -> h_a -> z -> z_hat -> h_s -> psi``; ``y, psi -> context -> y_hat -> g_s -> x_hat``.

    Args:
        A: channels at H/2.
        N: channels at H/4 and inside the hyper networks.
        M: channels of y.
        Z: channels of z.
        F: channels of y with a spatial context.
        C: width of the context.

    Raises:
        ValueError: a width is too small for the initial hyper networks, or F is not below M.
    """

    downsampling_factor = 16

    def __init__(self, A: int, N: int, M: int, Z: int, F: int, C: int) -> None:
        super().__init__()
        if not SIGNED < Z <= min(N - SIGNED, M + SIGNED):
            raise ValueError(f"Z: expected {SIGNED + 1} to min(N, M + {2 * SIGNED}) - {SIGNED}, got {Z}")
        self.g_a = nn.Sequential(conv(3, A), GDN(A), conv(A, N), GDN(N), conv(N, M))
        self.g_s = nn.Sequential(deconv(M, N), GDN(N, inverse=True), deconv(N, A), GDN(A, inverse=True), deconv(A, 3))
        self.h_a = nn.Sequential(nn.Conv2d(2 * M, N, kernel_size=1), nn.LeakyReLU(), conv(N, Z))
        self.h_s = nn.Sequential(
            deconv(Z, N),
            nn.LeakyReLU(),
            conv(N, N, kernel_size=3, stride=1),
            nn.LeakyReLU(),
            nn.Conv2d(N, 2 * M, kernel_size=1),
        )
        self.entropy_bottleneck = EntropyBottleneck(Z, init_scale=4)
        self.context = NeighbourContext(M, F, C)
        self._start_as_local_means(M, Z)

    @torch.no_grad()
    def _start_as_local_means(self, M: int, Z: int) -> None:
        """Let z start as means over 2x2 positions of y: of the magnitudes of some channels, or of one signed channel.

        A signed value passes LeakyReLU as two hidden channels, the value and its negative.
        """
        layers = (*self.h_a.children(), *self.h_s.children())
        squeeze, pool, expand, smooth, predict = (layer for layer in layers if not isinstance(layer, nn.LeakyReLU))
        for layer in (squeeze, pool, expand, smooth, predict):
            layer.get_parameter("weight").mul_(RANDOM)
            layer.get_parameter("bias").zero_()
        to_hidden, to_z, to_hidden_hat, through, to_psi = (
            layer.get_parameter("weight") for layer in (squeeze, pool, expand, smooth, predict)
        )
        magnitudes = Z - SIGNED
        groups = [channel * magnitudes // M for channel in range(M)]
        predict.get_parameter("bias")[:M] = LEAST_SCALE
        for channel, group in enumerate(groups):
            to_hidden[group, M + channel] += 1 / groups.count(group)
            to_psi[channel, group] += DEVIATION
        for group in range(magnitudes):
            to_z[group, group, TAPS, TAPS] += 1 / 4
            to_hidden_hat[group, group, TAPS, TAPS] += 1
        for channel in range(min(SIGNED, M)):
            for hidden, sign in ((magnitudes + 2 * channel, 1.0), (magnitudes + 2 * channel + 1, -1.0)):
                to_hidden[hidden, channel] += sign
                to_z[magnitudes + channel, hidden, TAPS, TAPS] += sign / 4
                to_hidden_hat[magnitudes + channel, hidden, TAPS, TAPS] += sign
                to_psi[M + channel, hidden] += sign
        for hidden in range(Z + SIGNED):
            through[hidden, hidden, 1, 1] += 1

    def _analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.g_a(x)
        return y, self.h_a(torch.cat([y, y.abs()], dim=1))
