"""Gain units: one network for a continuous range of rates.

Z. Cui et al., "Asymmetric Gained Deep Image Compression with Continuous Rate Adaptation", CVPR 2021,
https://arxiv.org/abs/2003.02012, section 3.

What differs from the paper
- Gains are stored as logarithms: they stay positive, and the paper's geometric interpolation between two levels is
  a linear one.
- Gains of y start at the square root of lambda over the middle of the ladder: at high rate the best step of a quantiser
  is proportional to 1 / sqrt(lambda).

Legend: B batch, L levels, C channels of a latent, h w its size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lic_train.errors import ConfigError

MAX_LEVELS = 64


class Ladder:
    """Lambdas of the levels 0, 1, ..., L - 1 of a variable-rate codec, in increasing order; at most 64.

    A level is a continuous number in [0, L - 1]. Lambda is interpolated geometrically between two levels.

    Raises:
        ValueError: the lambdas are not positive and increasing, or there are none or too many.
    """

    def __init__(self, lambdas: Sequence[float]) -> None:
        self.lambdas = tuple(map(float, lambdas))
        if not 0 < len(self) <= MAX_LEVELS:
            raise ValueError(f"lambdas: expected 1 to {MAX_LEVELS} numbers, got {len(self)}")
        increasing = all(low < high for low, high in itertools.pairwise(self.lambdas))
        if not (self.lambdas[0] > 0 and increasing and self.lambdas[-1] < math.inf):
            raise ValueError(f"lambdas: expected positive numbers in increasing order, got {list(lambdas)}")
        self._logs = [math.log(lmbda) for lmbda in self.lambdas]

    def __len__(self) -> int:
        return len(self.lambdas)

    @property
    def highest(self) -> int:
        """The level of the highest rate, L - 1."""
        return len(self) - 1

    @property
    def middle(self) -> float:
        """The level in the middle of the range."""
        return self.highest / 2

    @property
    def mean(self) -> float:
        """The geometric mean of the lambdas."""
        return math.exp(sum(self._logs) / len(self))

    def check(self, level: float) -> float:
        """Return ``level``.

        Raises:
            ConfigError: it is outside [0, L - 1].
        """
        if not 0 <= level <= self.highest:
            raise ConfigError(
                "The model does not have this level.",
                expected=f"a level from 0 to {self.highest}",
                got=f"{level:g}",
            )
        return level

    def lambda_at(self, level: float) -> float:
        """Return the lambda of a level; for integers exactly that of the ladder."""
        low = min(int(level), max(self.highest - 1, 0))
        if level == int(level):
            return self.lambdas[int(level)]
        return math.exp(self._logs[low] + (level - low) * (self._logs[low + 1] - self._logs[low]))

    def level_of(self, lmbda: float) -> float:
        """Return the level of a lambda.

        Raises:
            ConfigError: it is outside the ladder.
        """
        if not self.lambdas[0] <= lmbda <= self.lambdas[-1]:
            raise ConfigError(
                "The model does not have this lambda.",
                expected=f"a lambda from {self.lambdas[0]:g} to {self.lambdas[-1]:g}",
                got=f"{lmbda:g}",
            )
        low = max(level for level, rung in enumerate(self.lambdas) if rung <= lmbda)
        if low == self.highest:
            return float(low)
        return low + (math.log(lmbda) - self._logs[low]) / (self._logs[low + 1] - self._logs[low])

    def gains(self) -> list[float]:
        """Return sqrt(lambda / the geometric mean of the ladder) of every level: the initial gains of y."""
        middle = sum(self._logs) / len(self)
        return [math.exp((log - middle) / 2) for log in self._logs]


class GainUnit(nn.Module):
    """Gain and inverse gain of one latent: a positive factor for each level and channel, initially 1.

    ``attach`` places them around the quantiser: the network that computes the latent is followed by the gain, and the
    network that reads the quantised latent is preceded by the inverse gain. Factors have the precision of the values
    that they multiply, so they are float64 in front of a network that predicts probabilities.

    Attributes:
        level: the present level: a number, or a tensor (B,) of one level for each image.

    Args:
        levels: L.
        channels: C.
    """

    def __init__(self, levels: int, channels: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(levels, channels))
        self.log_inverse = nn.Parameter(torch.zeros(levels, channels))
        # Not a buffer: distributed training would replace it by that of the first process.
        self.level: float | Tensor = (levels - 1) / 2

    @torch.no_grad()
    def start_at(self, gains: Sequence[float]) -> None:
        """Set the gain of every level, the same for all channels, and its inverse."""
        logs = torch.tensor(gains, dtype=torch.float64).log()[:, None]
        self.log_gain.copy_(logs.expand_as(self.log_gain))
        self.log_inverse.copy_(-logs.expand_as(self.log_inverse))

    def attach(self, source: nn.Module, sink: nn.Module) -> None:
        """Apply the gain to the output of ``source`` and the inverse gain to the first input of ``sink``."""
        source.register_forward_hook(self.amplify)
        sink.register_forward_pre_hook(self.restore)

    def amplify(self, module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """Return y (B, C, h, w) times the gain. Forward hook of the network that computes y."""
        return y * self._at_level(self.log_gain, y).exp()

    def restore(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the inputs with y_hat (B, C, h, w) times the inverse gain. Forward pre-hook of their reader."""
        y_hat, *others = inputs
        return y_hat * self._at_level(self.log_inverse, y_hat).exp(), *others

    def amplify_density(self, module: nn.Module, inputs: tuple[Tensor, ...], parameters: Tensor) -> Tensor:
        """Return means and log scales (B, 2C, h, w) of a latent as those of the latent times the gain. Forward hook."""
        means, log_scales = parameters.chunk(2, dim=1)
        log_gain = self._at_level(self.log_gain, parameters)
        return torch.cat([means * log_gain.exp(), log_scales + log_gain], dim=1)

    def _at_level(self, logs: Tensor, like: Tensor) -> Tensor:
        """Return logarithms (B, C, 1, 1), or (1, C, 1, 1) for one level, in at least float32."""
        kind = torch.promote_types(like.dtype, torch.float32)
        level = torch.as_tensor(self.level, dtype=torch.float32, device=like.device).reshape(-1)
        low = level.floor()
        share = (level - low).to(kind)[:, None]
        first, last = low.long(), low.long().add(1).clamp(max=len(logs) - 1)
        between = torch.lerp(logs[first].to(kind), logs[last].to(kind), share)
        return between[:, :, None, None]
