"""Demo: the small codec inside the package, a mean-scale hyperprior for short trainings and fast decoding.

The network of no paper. Its parts are those of Minnen et al. 2018, "Joint autoregressive and hierarchical priors for
learned image compression", without the spatial context. What differs, and why
- g_a has three strided convolutions instead of four. With the same number of weights, y then has more values per pixel:
  with M = 128 two thirds of the 192 colour values of a block of 8x8 pixels, not a quarter as with 16x16 pixels and 192
  channels. At a few decibels above 30, the missing components would cost more than the quantiser.
- h_a reads y and its magnitudes, from which scales can be predicted before h_a has learned them, and has one stride.
- 1x1 convolutions follow y and precede its parameters, because their inputs and outputs are wide.

Legend: B batch, H W image, A N widths, M channels of y; y is (B, M, H/8, W/8), z is (B, N, H/16, W/16).
"""

from __future__ import annotations

import torch
from compressai.layers import GDN
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.gaussian import MeanScaleContext
from lic_train.models.base import HyperpriorCodec

# Initial hyper networks: channels of z that predict means, standard deviation over mean magnitude, and least scale.
SIGNED, DEVIATION, LEAST_SCALE = 6, 1.25, 0.12
RANDOM = 0.01
TAPS = slice(2, 4)  # of a 5x5 kernel of stride 2, those on the 2x2 block of an output position


class SmallHyperprior(HyperpriorCodec):
    """``x -> g_a -> y -> h_a -> z -> z_hat -> h_s -> (scales, means)``; ``y -> y_hat -> g_s -> x_hat``.

    Args:
        A: channels at H/2.
        N: channels at H/4, of the hyper networks, and of z.
        M: channels of y.
    """

    downsampling_factor = 16

    def __init__(self, A: int, N: int, M: int, Z: int) -> None:
        super().__init__()
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
        self._start_as_local_energy()

    @torch.no_grad()
    def _start_as_local_energy(self) -> None:
        """Set the hyper networks so that z is the mean magnitude of blocks of 2x2 positions and of some channels of y.

        The last channels of z are means of the first channels of y, with their signs.
        """
        squeeze, pool = self.h_a[0], self.h_a[2]
        expand, smooth, predict = self.h_s[0], self.h_s[2], self.h_s[4]
        M, Z = predict.weight.shape[0] // 2, pool.weight.shape[0]
        energies = Z - SIGNED
        for layer in (squeeze, pool, expand, smooth, predict):
            layer.weight.mul_(RANDOM)
            layer.bias.zero_()
        groups = [channel * energies // M for channel in range(M)]
        for channel, group in enumerate(groups):
            squeeze.weight[group, M + channel, 0, 0] += 1 / groups.count(group)
            predict.weight[channel, group, 0, 0] += DEVIATION
        predict.bias[:M] = LEAST_SCALE
        for channel in range(energies):
            pool.weight[channel, channel, TAPS, TAPS] += 1 / 4
            expand.weight[channel, channel, TAPS, TAPS] += 1
        for channel in range(SIGNED):
            positive, negative = energies + 2 * channel, energies + 2 * channel + 1
            for hidden, sign in ((positive, 1.0), (negative, -1.0)):
                squeeze.weight[hidden, channel, 0, 0] += sign
                pool.weight[energies + channel, hidden, TAPS, TAPS] += sign / 4
                expand.weight[energies + channel, hidden, TAPS, TAPS] += sign
                predict.weight[M + channel, hidden, 0, 0] += sign
        for hidden in range(energies + 2 * SIGNED):
            smooth.weight[hidden, hidden, 1, 1] += 1

    def _analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.g_a(x)
        return y, self.h_a(torch.cat([y, y.abs()], dim=1))
