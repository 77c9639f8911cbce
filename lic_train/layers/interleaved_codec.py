"""The data flow of IB-LIC around any backbone with a hyperprior.

S. Jiang et al., "Interleaved Block-based Learned Image Compression with Feature Enhancement and Quantization Error
Compensation", https://arxiv.org/abs/2502.15188, section 3.

Legend: B batch, H W image, p patch, T = p^2 + 1 frames, C channels per frame, h w = H/p W/p, M channels of y, Z of z.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from lic_train.entropy.precision import repeatable
from lic_train.layers.error_compensation import ErrorCompensation, LaplaceNoise, rounding_error_series
from lic_train.layers.interleaving import Enhancement, FeatureAssembly, FeatureExtraction, FrameMerge, Refinement

if TYPE_CHECKING:
    from lic_train.entropy.bottleneck import EntropyBottleneck
    from lic_train.models.base import CodecOutput, Context


class InterleavedCodec(nn.Module):
    """First base class of a codec whose second is `lic_train.models.base.HyperpriorCodec`.

    ::

        x --extract--> F_r --g_a, Q_c--> y --h_a, Q_c--> z --Q--> z_hat --Q_c^-1, h_s--> psi
        y, psi --context--> y_hat --Q_c^-1, g_s--> decoded F_r --enhance--> F_e --assemble--> x_hat

    g_a maps F_r (B, C * T, h, w) to y, g_s maps y_hat to the shape of F_r. With an enhancement, forward also returns
    ``features``: {"refined": F_r, "enhanced": F_e}. Call `add_frames` and `add_compensation` in the constructor.
    """

    g_a: nn.Module
    g_s: nn.Module
    h_a: nn.Module
    h_s: nn.Module
    entropy_bottleneck: EntropyBottleneck
    context: Context
    extract: nn.Module
    enhance: nn.Module
    assemble: nn.Module

    def add_frames(self, channels: int, patch: int = 2, levels: int = 2) -> int:
        """Build feature extraction, refinement and enhancement; returns the channels of F_r.

        Args:
            channels: C, a multiple of 4.
            patch: p.
            levels: consecutive residual units in each block of the refinement.
        """
        num_frames = patch**2 + 1
        refinement = Refinement(channels, num_frames, levels)
        self.extract = nn.Sequential(FeatureExtraction(channels, patch, 2), refinement, FrameMerge())
        self.enhance = Enhancement(channels, num_frames, 2)
        self.assemble = FeatureAssembly(channels, patch, 2)
        return channels * num_frames

    def add_compensation(self, M: int, Z: int, mode: str = "learned", noise: float = 0.0, noise_z: float = 0.0) -> None:
        """Build the compensation of the quantisation errors of y (M channels) and z (Z channels).

        Args:
            M: channels of y.
            Z: channels of z.
            mode: see `ErrorCompensation`.
            noise: b of `LaplaceNoise`, which evaluation adds to y_hat, equation (14); 0 for none.
            noise_z: b of the noise that evaluation adds to z_hat, equation (15); 0 for none.
        """
        self.compensate_y, self.restore_y = (ErrorCompensation(mode, M, sign) for sign in (-1, 1))
        self.compensate_z, self.restore_z = (ErrorCompensation(mode, Z, sign) for sign in (-1, 1))
        self.noise = LaplaceNoise(noise) if noise else nn.Identity()
        self.noise_z = LaplaceNoise(noise_z) if noise_z else nn.Identity()

    def forward(self, x: Tensor) -> CodecOutput:
        """Return x_hat, likelihoods and, with an enhancement, features of x (B, 3, H, W); see `Codec`."""
        refined = self.extract(x)
        y, z = self._latents(refined)
        z_hat, z_likelihoods = self.entropy_bottleneck(z)
        y_hat, y_likelihoods = self.context(y, self._psi(z_hat))
        enhanced = self._decoded(y_hat)
        out: CodecOutput = {"x_hat": self.assemble(enhanced), "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}
        if isinstance(self.enhance, Enhancement):
            out["features"] = {"refined": refined, "enhanced": enhanced}
        return out

    def _latents(self, refined: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and z of F_r (B, C * T, h, w)."""
        y = self.compensate_y(self.g_a(refined))
        return y, self.compensate_z(self.h_a(y))

    def _psi(self, z_hat: Tensor) -> Tensor:
        """Return psi.

        Values of z_hat are integer steps from their median, so without noise their series is constant per channel.
        """
        medians = self.entropy_bottleneck.medians.to(z_hat)
        with repeatable(self.noise_z, self.restore_z, self.h_s):
            noisy = self.noise_z(z_hat)
            return self.h_s(self.restore_z(noisy, rounding_error_series(medians + (noisy - z_hat))))

    def _decoded(self, y_hat: Tensor) -> Tensor:
        """Map y_hat (B, M, H/16, W/16) to F_e (B, C * T, h, w)."""
        return self.enhance(self.g_s(self.restore_y(self.noise(y_hat))))

    def _analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._latents(self.extract(x))

    def _synthesise(self, y_hat: Tensor) -> Tensor:
        return self.assemble(self._decoded(y_hat))
