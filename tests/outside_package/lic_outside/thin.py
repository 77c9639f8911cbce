"""A factorised prior with two convolutions on each side, as an example of a model outside of lic_train.

Legend: B batch, H W image, M channels; y is (B, M, H/4, W/4).
"""

from __future__ import annotations

from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.models.base import Codec


class Thin(Codec):
    """``x -> g_a -> y -> y_hat -> g_s -> x_hat``."""

    downsampling_factor = 4

    def __init__(self, M: int) -> None:
        super().__init__()
        self.g_a = nn.Sequential(
            nn.Conv2d(3, M, 5, stride=2, padding=2), nn.GELU(), nn.Conv2d(M, M, 5, stride=2, padding=2)
        )
        self.g_s = nn.Sequential(
            nn.ConvTranspose2d(M, M, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(M, 3, 4, stride=2, padding=1),
        )
        self.entropy_bottleneck = EntropyBottleneck(M)

    def forward(self, x: Tensor) -> dict:
        """(B, 3, H, W) -> x_hat and likelihoods."""
        y_hat, y_likelihoods = self.entropy_bottleneck(self.g_a(x))
        return {"x_hat": self.g_s(y_hat.float()), "likelihoods": {"y": y_likelihoods}}

    def compress(self, x: Tensor) -> dict:
        """One image -> string [y] and the shape of y."""
        y = self.g_a(x)
        return {"strings": [self.entropy_bottleneck.compress(y)], "shape": tuple(y.shape[2:])}

    def decompress(self, strings: list[bytes], shape: tuple[int, int]) -> dict:
        """Mirror of `compress`."""
        y_hat = self.entropy_bottleneck.decompress(strings[0], shape)
        return {"x_hat": self.g_s(y_hat.float()).clamp(0, 1)}
