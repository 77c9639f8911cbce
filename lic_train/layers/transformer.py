"""Pre-norm transformer block with stochastic depth, for any attention on maps."""

from __future__ import annotations

from torch import Tensor, nn

from lic_train.entropy.noise import uniform


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Zero whole samples of (B, ...) with probability ``rate`` and scale the others by 1 / (1 - rate)."""
    if rate == 0:
        return x
    keep = uniform(x.new_empty(x.shape[0], *(1,) * (x.dim() - 1))) >= rate
    return x * keep / (1 - rate)


class TransformerBlock(nn.Module):
    """``x + attention(LN(x))``, then the same with an MLP; each residual branch is dropped per sample in training.

    Args:
        channels: C.
        attention: maps (B, H, W, C) to (B, H, W, C).
        ratio: hidden width of the MLP as a multiple of C.
        drop_rate: probability of dropping a branch.
    """

    def __init__(self, channels: int, attention: nn.Module, ratio: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = attention
        hidden = ratio * channels
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        rate = self.drop_rate if self.training else 0.0
        x = x + drop_path(self.attention(self.norm1(x)), rate)
        return x + drop_path(self.mlp(self.norm2(x)), rate)
