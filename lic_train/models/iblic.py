"""IB-LIC: Tiny-LIC between interleaved sub-images, with refined and enhanced features and compensated rounding.

S. Jiang, H. Yuan, L. Li, R. Hamzaoui, M. Wang, M. Huo, "Interleaved Block-based Learned Image Compression with Feature
Enhancement and Quantization Error Compensation", https://arxiv.org/abs/2502.15188

There is no public code, and the text does not specify all widths. They are chosen to match every row of the paper's
table of multiplications; where two interpretations match, the one that trains well is used
- C = N/4 channels per frame, bottleneck residual units, and a first and last backbone convolution of stride 1.
- Compensation is v + tanh(1x1 convolution of v and its Fourier series) / 2, initially zero: ``qecm="learned"``. The
  printed equations are ``qecm="fixed"``; the series of an integer is zero, so they change no symbol at test time.
- The decoded feature of the whole image is synthesised and added to the re-interleaved picture.
- The loss term of the enhanced feature sends no gradient to the refined one (see ``features``); otherwise the encoder
  would shrink it.
- As in Tiny-LIC, noise is only in the likelihood. Laplacian noise before g_s is off by default: ``noise=0``.

Legend: B batch, H W image, p patch, T = p^2 + 1 frames, C channels per frame, h w = H/p W/p, N M backbone channels;
y (B, M, H/16, W/16), z (B, 3N/2, H/64, W/64), psi (B, 2M, H/16, W/16). Frames are (B, T, C, h, w).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.precision import repeatable
from lic_train.layers.icsa import analysis, check_options, synthesis
from lic_train.layers.multistage_context import MultistageContext
from lic_train.models.base import CodecOutput, HyperpriorCodec


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
    _scale_init(last, 0.1)
    return Skip(nn.Conv2d(channels, channels // 2, 1), nn.PReLU(channels // 2), middle, nn.PReLU(channels // 2), last)


@torch.no_grad()
def _scale_init(conv: nn.Module, factor: float) -> None:
    for parameter in conv.parameters():
        parameter.mul_(factor)


def concatenated_residual(channels: int) -> Skip:
    """CRM: two consecutive residual units and one more shortcut. Preserves (B, C', H', W')."""
    return Skip(*(bottleneck(channels, nn.Conv2d(channels // 2, channels // 2, 3, padding=1)) for _ in range(2)))


def pointwise(channels: int) -> nn.Conv2d:
    """CRM of the tiny variant, as the text describes it: one 1x1 convolution."""
    return nn.Conv2d(channels, channels, 1)


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


class TinyRefinement(nn.Module):
    """FRM of the tiny variant: one 3-D convolution with a shortcut, and one residual unit."""

    def __init__(self, channels: int, num_frames: int) -> None:
        super().__init__()
        unit = bottleneck(channels, FrameConv(channels // 2, channels // 2, 3, num_frames))
        self.body = nn.Sequential(Skip(FrameConv(channels, channels, 3, num_frames)), unit)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, T, C, h, w) to (B, T, C, h, w)."""
        return self.body(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


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
        _scale_init(self.expand, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C * T, h, w) to (B, C * T, h, w)."""
        return x + self.expand(self.blocks(self.squeeze(x)))


def rounding_error_series(v: Tensor, terms: int = 5) -> Tensor:
    """Return the first ``terms`` terms of the Fourier series of v - round(v), the sawtooth of equation (8)."""
    v = v - v.detach().round()  # the series is periodic; the reduced argument keeps its digits
    return sum(-((-1) ** k) / (math.pi * k) * torch.sin(2 * math.pi * k * v) for k in range(1, terms + 1))


class ErrorCompensation(nn.Module):
    """QECM: Q_c before quantisation (``sign`` -1) or its inverse after it (+1), equations (10) to (13).

    ``fixed`` adds the signed series, ``learned`` a bounded correction computed from latent and series, ``off`` nothing.
    """

    def __init__(self, mode: str, channels: int, sign: int) -> None:
        super().__init__()
        self.mode, self.sign = mode, sign
        if mode == "learned":
            self.conv = nn.Conv2d(2 * channels, channels, 1)
            _scale_init(self.conv, 0.0)

    def forward(self, v: Tensor, series: Tensor | None = None) -> Tensor:
        """Map (B, C', h', w') to the same shape; ``series`` replaces the series computed from v."""
        if self.mode == "off":
            return v
        series = rounding_error_series(v.float()) if series is None else series.expand_as(v)
        if self.mode == "fixed":
            return v + self.sign * series
        return v + 0.5 * torch.tanh(self.conv(torch.cat([v, series], dim=1)))


def splitmix64(index: Tensor, seed: int) -> Tensor:
    """Hash int64 counters to 64 uniform bits in integer arithmetic, identical on every machine. Keeps the shape."""

    def signed(value: int) -> int:
        return (value + 2**63) % 2**64 - 2**63

    def shifted(value: Tensor, bits: int) -> Tensor:
        return (value >> bits) & (2 ** (64 - bits) - 1)

    state = index * signed(0x9E3779B97F4A7C15) + signed(seed + 0x9E3779B97F4A7C15)
    state = (state ^ shifted(state, 30)) * signed(0xBF58476D1CE4E5B9)
    state = (state ^ shifted(state, 27)) * signed(0x94D049BB133111EB)
    return state ^ shifted(state, 31)


class LaplaceNoise(nn.Module):
    """Equation (14): zero-mean Laplacian noise of scale ``b``, clipped to half a step; the same in every evaluation."""

    def __init__(self, b: float, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        centred = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16 - 0.5
        quantiles = (-b * centred.sign() * torch.log1p(-2 * centred.abs())).clamp(-0.5, 0.5)
        self.table: Tensor
        # Rounded, so that the last digits of the logarithm do not affect the decoder.
        self.register_buffer("table", ((quantiles * 2**12).round() / 2**12).float(), persistent=False)

    def forward(self, y_hat: Tensor) -> Tensor:
        """Map (B, M, h, w) to (B, M, h, w); every image has the same noise. In training y_hat is unchanged."""
        if self.training:
            return y_hat
        counters = torch.arange(y_hat[0].numel(), device=y_hat.device)
        chosen = (splitmix64(counters, self.seed) >> 48) & 0xFFFF
        return y_hat + self.table[chosen].view(y_hat.shape[1:])


class IBLIC(HyperpriorCodec):
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
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        check_options(N, M, drop_path)
        qecm = "off" if qecm is False else qecm  # YAML parses a bare off as false
        _check_switches(size, patch, levels, fexm, frm or fenm, qecm, noise)
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
                _scale_init(unit.conv, 0.5)  # the parallel shortcut doubles the signal
        self.compensate_y, self.restore_y = (ErrorCompensation(qecm, M, sign) for sign in (-1, 1))
        self.compensate_z, self.restore_z = (ErrorCompensation(qecm, Z, sign) for sign in (-1, 1))
        self.noise = LaplaceNoise(noise) if noise else nn.Identity()
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

    def forward(self, x: Tensor) -> CodecOutput:
        """Return x_hat, likelihoods and, with FEnM, features of x (B, 3, H, W); see `Codec`."""
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
        """Return psi. Values of z_hat are integer steps from their median, so their series is constant per channel."""
        series = rounding_error_series(self.entropy_bottleneck.medians.double())
        if self.training:
            series = (series * 2**20).round() / 2**20  # evaluation must not round what machines compute differently
        series = series.to(z_hat)
        with repeatable(self.restore_z, self.h_s):
            return self.h_s(self.restore_z(z_hat, series))

    def _decoded(self, y_hat: Tensor) -> Tensor:
        """Map y_hat (B, M, H/16, W/16) to F_e (B, C * T, h, w)."""
        return self.enhance(self.g_s(self.restore_y(self.noise(y_hat))))

    def _analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._latents(self.extract(x))

    def _synthesise(self, y_hat: Tensor) -> Tensor:
        return self.assemble(self._decoded(y_hat))


def _check_switches(size: str, patch: int, levels: int, fexm: bool, needs_fexm: bool, qecm: str, noise: float) -> None:
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
    if not noise >= 0:
        raise ValueError(f"noise: expected the scale of a Laplacian, at least 0, got {noise}")
