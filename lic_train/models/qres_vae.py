"""QRes-VAE: a hierarchical VAE with twelve quantised latents, from coarse to fine.

Z. Duan, M. Lu, Z. Ma, F. Zhu, "Lossy image compression with quantized hierarchical VAEs", WACV 2023,
https://arxiv.org/abs/2208.13056

The networks are those of the authors' code (model "34M"); only the abstract of the paper was read. Differences from the
code
- All latents are in one string; the code has one for each latent and pickles them.
- The coding table is the one with the nearest scale in the logarithm; the code takes the next larger scale.
- In training, the likelihood of a value is at least 1e-9 in the loss (30 bits); the gradient is that of the code.
- The code's initial factor of the latents' projections, sqrt(N/3) for N latents, is the default; ``projection_init``
  selects sqrt(1/(3N)), which was probably intended.
- The skipping of steps with exceptional gradients is omitted; see the recipe.

The code names the prior's second output a log variance; it is the logarithm of the scale.

Legend: B batch, H W image, h w map, C channels of a map, c channels of a latent, k kernel size, N base width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from compressai.ops import LowerBound
from torch import Tensor, nn

from lic_train.entropy.coder import Strings, SymbolEncoder, decoder_of
from lic_train.entropy.gaussian import GaussianConditional
from lic_train.entropy.precision import in_float32, planar, repeatable
from lic_train.models.base import Codec, CodecOutput, Compressed, Decompressed

# Mean and inverse standard deviation of pixels in [0, 1], for all three colours.
PIXEL_MEAN, PIXEL_GAIN = 0.4546259594901961, 3.67572653978347
# From 1/4 to 1/64 of the resolution: widths in units of N, and kernel sizes.
ENCODER_WIDTHS, ENCODER_KERNELS = (2, 4, 4, 4, 4), (7, 7, 5, 3, 1)
# From 1/64 to 1/4: widths in units of N, kernel sizes, and channels of each latent.
DECODER_WIDTHS, DECODER_KERNELS, LATENT_CHANNELS = (4, 4, 4, 4, 2), (1, 3, 5, 7, 7), (16, 14, 12, 10, 8)
# Bounds of the log scales. The lower one is the paper's, smooth: scales exceed exp(-2.3) = 0.1003. The upper one, far
# beyond the coding tables, keeps their exponential finite after an exceptional latent.
LOG_SCALE_MIN, LOG_SCALE_MAX = -2.3, 16.0
TABLE_RANGE = (0.1, 20.0)
# The training likelihood is the density where the probability mass is smaller.
DENSITY_BELOW = 1e-6


def conv(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> nn.Conv2d:
    """Build a convolution without initial bias: "same", or with stride = kernel and without padding."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2 if stride == 1 else 0)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def up(in_channels: int, out_channels: int, factor: int) -> nn.Sequential:
    """Build the enlargement by ``factor``: a 1x1 convolution and a pixel shuffle."""
    return nn.Sequential(conv(in_channels, out_channels * factor**2), nn.PixelShuffle(factor))


def bottleneck(in_channels: int, hidden: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Build the network of priors and posteriors; the inner kernels are 3x3 except in blocks of kernel size 1."""
    inner = min(kernel, 3)
    return nn.Sequential(
        nn.GELU(),
        conv(in_channels, hidden),
        nn.GELU(),
        conv(hidden, hidden, inner),
        nn.GELU(),
        conv(hidden, hidden, inner),
        nn.GELU(),
        conv(hidden, out_channels),
    )


def last_weight(network: nn.Sequential) -> Tensor:
    """Return the weight of the last convolution."""
    last = network[-1]
    assert isinstance(last, nn.Conv2d)
    return last.weight


class ConvNeXt(nn.Module):
    """ConvNeXt block (Liu et al. 2022) with expansion 2 and a layer scale, initially 1e-6."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        tokens = self.depthwise(x).permute(0, 2, 3, 1)
        return x + (self.gamma * self.mlp(self.norm(tokens))).permute(0, 3, 1, 2)


class ConvNeXtDown(ConvNeXt):
    """ConvNeXt block with kernel size 7, then a 2x2 convolution with stride 2."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, kernel=7)
        self.down = conv(in_channels, out_channels, kernel=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h/2, w/2)."""
        return self.down(super().forward(x))


class BottomUp(nn.Sequential):
    """Encoder: features at 1/4 to 1/64 of the resolution."""

    def __init__(self, N: int, depths: Sequence[int]) -> None:
        widths = [N * width for width in ENCODER_WIDTHS]
        blocks: list[nn.Module] = [conv(3, widths[0], kernel=4, stride=4)]
        for level, (width, kernel, depth) in enumerate(zip(widths, ENCODER_KERNELS, depths, strict=True)):
            if level:
                blocks.append(ConvNeXtDown(widths[level - 1], width))
            blocks += [ConvNeXt(width, kernel) for _ in range(depth)]
        super().__init__(*blocks)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Return the last feature (B, C, h, w) of every resolution, by its height h, for x (B, 3, H, W)."""
        features = {}
        for block in self:
            x = block(x)
            features[x.shape[2]] = x
        return features


class LatentBlock(nn.Module):
    """Block of the decoder that predicts a latent from the feature and adds the quantised latent to it."""

    def __init__(self, channels: int, latent: int, kernel: int) -> None:
        super().__init__()
        hidden = channels // 4
        self.front, self.end = ConvNeXt(channels, kernel), ConvNeXt(channels, kernel)
        self.posterior = bottleneck(2 * channels, hidden, latent, kernel)
        self.prior = bottleneck(channels, hidden, 2 * latent, kernel)
        self.z_proj = nn.Sequential(conv(latent, hidden // 2, min(kernel, 3)), nn.GELU(), conv(hidden // 2, channels))
        nn.init.zeros_(last_weight(self.prior))

    def forward(self, feature: Tensor, code: Code) -> Tensor:
        """Map the feature (B, C, h, w) to the next one, (B, C, h, w)."""
        feature = self.front(feature)
        means, logits = self.prior(feature).chunk(2, dim=1)
        log_scales = F.softplus(logits - LOG_SCALE_MIN) + LOG_SCALE_MIN
        scales = torch.exp(log_scales.clamp(max=LOG_SCALE_MAX))
        z = planar(code(self, feature, scales, means))
        return self.end(feature.to(self.end.gamma) + self.z_proj(z.to(self.end.gamma)))

    def encode(self, feature: Tensor, features: Mapping[int, Tensor]) -> Tensor:
        """Return the mean (B, c, h, w) of the posterior, float32, given the features of the encoder by height."""
        return self.posterior(torch.cat([feature, features[feature.shape[2]].to(feature)], dim=1)).float()


# Maps a block, its feature (B, C, h, w), scales and means (B, c, h, w) to the quantised latent (B, c, h, w).
Code = Callable[[LatentBlock, Tensor, Tensor, Tensor], Tensor]


class TopDown(nn.Module):
    """Decoder from a learned constant to the feature at 1/4 of the resolution.

    Everything before the last latent predicts latents. What follows it runs in float32, as g_s does.
    """

    def __init__(self, N: int, latents: Sequence[int]) -> None:
        super().__init__()
        widths = [N * width for width in DECODER_WIDTHS]
        self.bias = nn.Parameter(torch.zeros(1, widths[0], 1, 1))
        blocks: list[nn.Module] = []
        for level, (count, latent, kernel) in enumerate(zip(latents, LATENT_CHANNELS, DECODER_KERNELS, strict=True)):
            if level:
                blocks.append(up(widths[level - 1], widths[level], factor=2))
            blocks += [LatentBlock(widths[level], latent, kernel) for _ in range(count)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, batch: int, shape: tuple[int, int], code: Code) -> Tensor:
        """Return the feature (B, 2N, 16h, 16w) for a first latent of ``shape`` (h, w), calling ``code`` per latent."""
        feature = self.bias.repeat(batch, 1, *shape)
        for block in self.blocks:
            feature = block(feature, code) if isinstance(block, LatentBlock) else block(feature)
        return feature


class DensityInTails(GaussianConditional):
    """Gaussian whose training likelihood is its density far from the mean, for a gradient that does not vanish."""

    def __init__(self) -> None:
        super().__init__(TABLE_RANGE)
        self.log_lower_bound = LowerBound(math.log(1e-9))

    @in_float32
    def likelihood(self, y_hat: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        """Return the probability mass around each value; in training the density where the mass is below 1e-6."""
        if not self.training:
            return super().likelihood(y_hat, scales, means)
        distance, per_sigma = (y_hat - means).abs(), math.sqrt(0.5) / scales
        mass = 0.5 * (torch.erfc((distance - 0.5) * per_sigma) - torch.erfc((distance + 0.5) * per_sigma))
        log_density = -((distance * per_sigma) ** 2) - torch.log(scales * math.sqrt(2 * math.pi))
        # The logarithm of the loss undoes the exponential, so that the gradient is that of the log density.
        tail = torch.exp(self.log_lower_bound(log_density))
        return torch.where(mass > DENSITY_BELOW, mass, tail)


PROJECTION_GAIN: dict[str, Callable[[int], float]] = {
    "code": lambda latents: math.sqrt(latents / 3),
    "intended": lambda latents: math.sqrt(1 / (3 * latents)),
}


class QResVAE(Codec):
    """Codec of the paper.

    ::

        x --g_a--> features at 1/4 ... 1/64
        constant --top_down--> for each latent: prior N(means, scales); z from posterior(feature, encoder feature);
        feature + z_proj(z) --> ... --g_s--> x_hat

    Latents z0, z1, ... are (B, c, H/64, W/64) to (B, c, H/4, W/4).

    Args:
        N: base width. Paper: 96.
        depths: ConvNeXt blocks of the encoder at 1/4 to 1/64 of the resolution.
        latents: latents at 1/64 to 1/4 of the resolution.
        projection_init: ``code`` or ``intended``: the initial factor of the latents' projections.

    Raises:
        ValueError: an argument is not valid.
    """

    downsampling_factor = 64
    # (authors' name, name here) of tensors: a regular expression and its replacement, all applied in order.
    authors_names = (
        (r"^encoder\.enc_blocks\.", "g_a."),
        (r"^decoder\.dec_blocks\.16\.", "g_s."),
        (r"^decoder\.dec_blocks\.", "top_down.blocks."),
        (r"^decoder\.bias$", "top_down.bias"),
        (r"\.conv_dw\.", ".depthwise."),
        (r"\.downsapmle\.", ".down."),
        (r"\.resnet_(front|end)\.", r".\1."),
        (r"\.mlp\.fc1\.", ".mlp.0."),
        (r"\.mlp\.fc2\.", ".mlp.2."),
        *((rf"\.c{layer}\.", f".{2 * layer - 1}.") for layer in range(1, 5)),
    )

    def __init__(
        self,
        N: int = 96,
        depths: Sequence[int] = (6, 6, 6, 4, 2),
        latents: Sequence[int] = (1, 2, 3, 3, 3),
        projection_init: str = "code",
    ) -> None:
        super().__init__()
        _check(N, depths, latents, projection_init)
        self.g_a = BottomUp(N, depths)
        self.top_down = TopDown(N, latents)
        self.g_s = up(DECODER_WIDTHS[-1] * N, 3, factor=4)
        self.gaussian_conditional = DensityInTails()
        gain = PROJECTION_GAIN[projection_init](sum(latents))
        with torch.no_grad():
            for block in self.top_down.blocks:
                if isinstance(block, LatentBlock):
                    last_weight(block.z_proj).mul_(gain)

    def forward(self, x: Tensor) -> CodecOutput:
        """Return x_hat and the likelihoods of all latents of x (B, 3, H, W); see `Codec`."""
        features, shape = self._analyse(x)
        likelihoods: dict[str, Tensor] = {}

        def quantise(block: LatentBlock, feature: Tensor, scales: Tensor, means: Tensor) -> Tensor:
            z, means = self.gaussian_conditional.quantise(block.encode(feature, features), means)
            likelihoods[f"z{len(likelihoods)}"] = self.gaussian_conditional.likelihood(z, scales, means)
            return z

        x_hat = self._synthesise(len(x), shape, quantise)
        return {"x_hat": x_hat, "likelihoods": likelihoods}

    @torch.no_grad()
    def compress(self, x: Tensor) -> Compressed:
        """Return one string of all latents of one image, and the shape of the first."""
        features, shape = self._analyse(x)
        encoder = SymbolEncoder()

        def write(block: LatentBlock, feature: Tensor, scales: Tensor, means: Tensor) -> Tensor:
            return self.gaussian_conditional.encode(encoder, block.encode(feature, features), scales, means)

        self._decode_features(1, shape, write)
        return {"strings": [encoder.finish()], "shape": shape}

    @torch.no_grad()
    def decompress(self, strings: Sequence[Strings], shape: tuple[int, int]) -> Decompressed:
        """See `Codec.decompress`."""
        decoder = decoder_of(strings[0])

        def read(block: LatentBlock, feature: Tensor, scales: Tensor, means: Tensor) -> Tensor:
            return self.gaussian_conditional.decode(decoder, scales, means)

        x_hat = self._synthesise(decoder.pictures, shape, read)
        decoder.finish()
        return {"x_hat": x_hat.clamp(0, 1)}

    def latents(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """See `Codec.latents`."""
        blocks = (block for block in self.top_down.blocks if isinstance(block, LatentBlock))
        return {f"z{number}": (block.posterior, block.z_proj) for number, block in enumerate(blocks)}

    def vary_rate(self, lambdas: Sequence[float]) -> None:
        """See `Codec.vary_rate`.

        The features do not know the level, so the prior of a latent cannot follow its gain: means and scales are
        multiplied by the gain too. A gain is then the inverse of a quantisation step, for all twelve latents.
        """
        super().vary_rate(lambdas)
        blocks = (block for block in self.top_down.blocks if isinstance(block, LatentBlock))
        for number, block in enumerate(blocks):
            block.prior.register_forward_hook(self._gain(f"z{number}").amplify_density)

    def start_gains(self, factor: float = 1.0) -> None:
        """See `Codec.start_gains`. Each of the latents carries a part of the picture."""
        assert self.ladder is not None
        for name in self.gains:
            self._gain(name).start_at([factor * gain for gain in self.ladder.gains()])

    def _analyse(self, x: Tensor) -> tuple[dict[int, Tensor], tuple[int, int]]:
        """Return the features of the encoder by height, and the shape of the first latent."""
        shape = (x.shape[2] // self.downsampling_factor, x.shape[3] // self.downsampling_factor)
        return self.g_a((x - PIXEL_MEAN) * PIXEL_GAIN), shape

    def _decode_features(self, batch: int, shape: tuple[int, int], code: Code) -> Tensor:
        """Return the last feature of the decoder; in eval mode encoder and decoder compute it bit-identically."""
        last = self.top_down.blocks[-1]
        assert isinstance(last, LatentBlock)
        with repeatable(self.top_down, free=(last.z_proj, last.end)):
            return self.top_down(batch, shape, code)

    def _synthesise(self, batch: int, shape: tuple[int, int], code: Code) -> Tensor:
        """Return x_hat, not clamped; the output of g_s is in [-1, 1]."""
        return (self.g_s(self._decode_features(batch, shape, code).float()) + 1) / 2


def _check(N: int, depths: Sequence[int], latents: Sequence[int], projection_init: str) -> None:
    if N < 4 or N % 4:
        raise ValueError(f"N: expected a positive multiple of 4, got {N}")
    for name, counts, least in (("depths", depths, 0), ("latents", latents, 1)):
        if len(counts) != len(ENCODER_WIDTHS) or min(counts) < least:
            raise ValueError(f"{name}: expected 5 numbers of at least {least}, got {list(counts)}")
    if projection_init not in PROJECTION_GAIN:
        raise ValueError(f"projection_init: expected {' or '.join(PROJECTION_GAIN)}, got {projection_init!r}")
