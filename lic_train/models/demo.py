"""Demo: the small codec inside the package, a mean-scale hyperprior for short trainings and fast decoding.

The network of no paper. Its parts are those of Minnen et al. 2018, "Joint autoregressive and hierarchical priors for
learned image compression", without the spatial context. What differs, and why
- g_a has three strided convolutions instead of four. With as many weights, y then keeps more values per pixel: with
  M = 128, two thirds of the 192 values of a block of 8x8 pixels. With 16x16 pixels and M = 192 it keeps a quarter, and
  above about 30 dB a small network loses more by the missing values than by quantisation.
- h_a reads y and its magnitudes, has one stride, and starts as the mean magnitude of a few neighbouring values, from
  which h_s predicts scales. Otherwise a short training spends most of its steps on learning the scales.
- The layers that read y and that predict its parameters are 1x1 convolutions, because they have 2M channels.

Legend: B batch, H W image, A N widths; y is (B, M, H/8, W/8), z is (B, Z, H/16, W/16).
"""

from __future__ import annotations

import torch
from compressai.layers import GDN
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.gaussian import MeanScaleContext
from lic_train.layers.klt import TAPS
from lic_train.models.base import HyperpriorCodec

# Channels of z that predict means. Those of y which they predict are the first ones, with `initial_weights: klt` the
# largest.
SIGNED = 6
# Of an element of y at the start: standard deviation over local mean magnitude, that of a Gaussian, and least scale.
DEVIATION, LEAST_SCALE = 1.25, 0.12
# Share of the random initial weights that is kept.
RANDOM = 0.01


class SmallHyperprior(HyperpriorCodec):
    """``x -> g_a -> y -> h_a -> z -> z_hat -> h_s -> (scales, means)``; ``y -> y_hat -> g_s -> x_hat``.

    Args:
        A: channels at H/2.
        N: channels at H/4 and inside the hyper networks.
        M: channels of y.
        Z: channels of z.

    Raises:
        ValueError: a width is too small for the initial hyper networks.
    """

    downsampling_factor = 16

    def __init__(self, A: int, N: int, M: int, Z: int) -> None:
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
        self.context = MeanScaleContext()
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
