"""IB-LIC: Tiny-LIC between interleaved sub-images, with refined and enhanced features and compensated rounding.

S. Jiang, H. Yuan, S. Li, R. Hamzaoui, X. Wang, J. Huo, "Interleaved Block-based Learned Image Compression with Feature
Enhancement and Quantization Error Compensation", https://arxiv.org/abs/2502.15188

There is no public code, and the text does not specify all widths. They are chosen to match every row of the paper's
table of multiplications; where two interpretations match, the one that trains well is used
- C = N/4 channels per frame, bottleneck residual units, and a first and last backbone convolution of stride 1.
- Compensation is v + tanh(1x1 convolution of v and its Fourier series) / 2, initially zero: ``qecm="learned"``. The
  printed equations are ``qecm="fixed"``. They change symbols of y too, because the context rounds y - mean, not y.
- The decoded feature of the whole image is synthesised and added to the re-interleaved picture.
- The loss term of the enhanced feature sends no gradient to the refined one (see ``features``); otherwise the encoder
  would shrink it.
- The convolutions of FExM are shared by all sub-images; the text does not state whether they are.
- CRM is only in the eight main stages. The convolutions beside it and its own last ones are initialised smaller,
  otherwise x_hat starts about 100 times too large.
- As in Tiny-LIC, noise is only in the likelihood. The Laplacian noise of equations (14) and (15), on y_hat before g_s
  and on z_hat before h_s, is off by default, because its parameters are not known: ``noise``, ``noise_z``.

Legend: B batch, H W image, p patch, T = p^2 + 1 frames, C channels per frame, h w = H/p W/p, N M backbone channels;
y (B, M, H/16, W/16), z (B, 3N/2, H/64, W/64), psi (B, 2M, H/16, W/16). Frames are (B, T, C, h, w).
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.layers.icsa import analysis, check_options, synthesis
from lic_train.layers.interleaved_codec import InterleavedCodec
from lic_train.layers.interleaving import (
    Enhancement,
    FeatureAssembly,
    FeatureExtraction,
    FrameConv,
    FrameMerge,
    Refinement,
    Skip,
    bottleneck,
    concatenated_residual,
    scale_init,
)
from lic_train.layers.multistage_context import MultistageContext
from lic_train.models.base import HyperpriorCodec


def pointwise(channels: int) -> nn.Conv2d:
    """CRM of the tiny variant, as the text describes it: one 1x1 convolution."""
    return nn.Conv2d(channels, channels, 1)


class TinyRefinement(nn.Module):
    """FRM of the tiny variant: one 3-D convolution with a shortcut, and one residual unit."""

    def __init__(self, channels: int, num_frames: int) -> None:
        super().__init__()
        unit = bottleneck(channels, FrameConv(channels // 2, channels // 2, 3, num_frames))
        self.body = nn.Sequential(Skip(FrameConv(channels, channels, 3, num_frames)), unit)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, T, C, h, w) to (B, T, C, h, w)."""
        return self.body(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


class IBLIC(InterleavedCodec, HyperpriorCodec):
    """Codec of the paper. With everything switched off it is Tiny-LIC, parameter by parameter.

    ::

        x --FExM, FRM--> F_r --g_a, Q_c--> y --h_a, Q_c--> z --Q--> z_hat --Q_c^-1, h_s--> psi
        y, psi --nine passes--> y_hat --Q_c^-1, g_s--> decoded F_r --FEnM--> F_e --inverse FExM--> x_hat

    With ``fenm``, forward also returns ``features``: {"refined": F_r, "enhanced": F_e}, both (B, C * T, h, w).

    Args:
        N: backbone width, see `lic_train.models.tinylic`; a multiple of 32. Paper: 128.
        M: channels of y. Paper: 320.
        size: ``full``, or ``tiny``, the paper's variant with the speed of Tiny-LIC.
        patch: p, side of the interleaved blocks: 1, 2, 4 or 8. Paper: 2.
        levels: 1, 2 or 3 consecutive units in the residual blocks of FRM (``full`` only). Paper: 2.
        fexm: feature extraction and its inverse.
        frm: feature refinement; requires ``fexm``.
        fenm: feature enhancement; requires ``fexm``.
        crm: concatenated residual modules in the eight main stages.
        qecm: quantisation error compensation, ``learned``, ``fixed`` or ``off``.
        noise: b of the Laplacian noise that evaluation adds to y_hat after entropy decoding; 0 for none.
        noise_z: b of the Laplacian noise that evaluation adds to z_hat; 0 for none.
        drop_path: as in `lic_train.models.tinylic`.

    Raises:
        ValueError: an option is not valid, or requires another one.
    """

    def __init__(
        self,
        N: int = 128,
        M: int = 320,
        size: str = "full",
        patch: int = 2,
        levels: int = 2,
        fexm: bool = True,
        frm: bool = True,
        fenm: bool = True,
        crm: bool = True,
        qecm: str = "learned",
        noise: float = 0.0,
        noise_z: float = 0.0,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        check_options(N, M, drop_path)
        qecm = "off" if qecm is False else qecm  # YAML parses a bare off as false
        _check_switches(size, patch, levels, fexm, frm or fenm, qecm)
        _check_noise(noise=noise, noise_z=noise_z)
        full = size == "full"
        C, T, Z = N // (4 if full else 8), patch**2 + 1, 3 * N // 2
        self._build_ends(C, T, patch, levels, full, fexm, frm, fenm)
        inner, kernel = (C * T, 3 if full else 1) if fexm else (3, 5)
        num_early = int(math.log2(patch)) if fexm else 0  # stages whose stride is already part of FExM
        strides = (1,) * num_early + (2,) * (4 - num_early)
        refine = (concatenated_residual if full else pointwise) if crm else None
        widths, depths, two = (N, 3 * N // 2, 2 * N, M), (2, 2, 6, 2), (2, 2)
        up, kernels = (*widths[::-1], inner), (3, 3, 3, kernel)
        rates = [drop_path * i / 15 for i in range(16)]
        self.g_a = analysis((inner, *widths), kernels[::-1], strides, depths, 7, rates[:12], refine)
        self.h_a = analysis((M, Z, Z), (3, 3), two, two, 3, rates[12:])
        self.h_s = synthesis((Z, Z, 2 * M), (3, 3), two, two, 3, rates[:4])
        self.g_s = synthesis(up, kernels, strides[::-1], depths[::-1], 7, rates[4:], refine)
        if crm and full:
            for unit in (*self.g_a, *self.g_s):
                scale_init(unit.conv, 0.5)  # the parallel shortcut doubles the signal
        self.add_compensation(M, Z, qecm, noise, noise_z)
        self.entropy_bottleneck = EntropyBottleneck(Z, straight_through=True)
        self.context = MultistageContext(M)

    def _build_ends(
        self, C: int, T: int, patch: int, levels: int, full: bool, fexm: bool, frm: bool, fenm: bool
    ) -> None:
        """Build the modules before g_a and after g_s."""
        num = 2 if full else 1  # convolutions of FExM, dense blocks of FEnM
        refinement = (Refinement(C, T, levels) if full else TinyRefinement(C, T)) if frm else nn.Identity()
        extraction = nn.Sequential(FeatureExtraction(C, patch, num), refinement, FrameMerge())
        self.extract = extraction if fexm else nn.Identity()
        self.enhance = Enhancement(C, T, num) if fenm else nn.Identity()
        self.assemble = FeatureAssembly(C, patch, num) if fexm else nn.Identity()


def _check_switches(size: str, patch: int, levels: int, fexm: bool, needs_fexm: bool, qecm: str) -> None:
    choices = (
        ("size", size, ("full", "tiny")),
        ("patch", patch, (1, 2, 4, 8)),
        ("levels", levels, (1, 2, 3)),
        ("qecm", qecm, ("off", "fixed", "learned")),
    )
    for name, value, known in choices:
        if value not in known:
            raise ValueError(f"{name}: expected {', '.join(map(str, known))}, got {value!r}")
    if needs_fexm and not fexm:
        raise ValueError("fexm: expected true for frm and fenm, which work on its features, got false")
    if size == "tiny" and patch == 1:
        raise ValueError("patch: expected 2, 4 or 8 for size=tiny, got 1; a 1x1 convolution of stride 2 loses pixels")


def _check_noise(**scales: float) -> None:
    for name, scale in scales.items():
        if not scale >= 0:
            raise ValueError(f"{name}: expected the scale of a Laplacian, at least 0, got {scale}")
