"""GAACNN: asymmetric convolutions, linked channel and coordinate attention, graph attention, 3-D context, mixture.

Z. Tang, H. Wang, X. Yi, Y. Zhang, S. Kwong, C.-C. J. Kuo, "Joint Graph Attention and Asymmetric Convolutional Neural
Network for Deep Image Compression", IEEE Trans. Circuits Syst. Video Technol. 33(1), 2023.

Differences from the paper, and from the authors' code where it differs from the paper
- The code rectifies skips and latent with an in-place ReLU; ``acnn_skip="raw"`` follows the figure,
  ``"relu_alias"`` the code (y is then never negative).
- First and last layers follow the code, ``stem="code"``; ``"figure"`` has a bare 3x3 convolution at either end.
- The hyper transforms keep the order of the code, ``hyper_order="code"``; ``"figure"`` moves one attention in each of
  them (its links then join maps of equal size, without pooling or sub-pixel convolution).
- Two nodes share a graph edge if their inner product is positive, and every node has an edge to itself. The code
  divides by the row sum first, which inverts rows with a negative sum: ``adjacency="rownorm"``; ``"full"`` joins all
  nodes.
- Asymmetric blocks are folded into one 3x3 convolution, the same function for 60 % of the multiplications; gradients
  flow through the fold. ``reparameterize=False`` runs the three convolutions.
- The mean shift is a constant; the code intends to freeze it but trains it: ``mean_shift="trainable"``.
- Scales are |raw|, at least 0.11 (the code: 1e-6), or ``scale_param="softplus"``; z is rounded around its median.
- Each channel-attention body is evaluated once (the code: twice), the scores of graph attention are two dot products
  (the code: a tensor n x n x 2M), and the ELU before a ReLU is omitted. The results are the same.
- Omitted: a likelihood that the code evaluates but never uses, and a convolution that never receives a gradient.

Legend: B batch, H W image, h w map, M channels of y, N channels of z, C channels of a block, n graph nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from compressai.layers import GDN, subpel_conv3x3
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from lic_train.entropy import decisions
from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.coder import Strings
from lic_train.entropy.context3d import VolumeContext
from lic_train.entropy.noise import uniform
from lic_train.entropy.precision import repeatable
from lic_train.entropy.quantize import add_noise
from lic_train.layers.graph_attention import ADJACENCIES, GraphAttention
from lic_train.models.base import CodecOutput, Compressed, Decompressed, HyperpriorCodec

RGB_MEAN = (0.4488, 0.4371, 0.4040)
LEGAL = {
    "acnn_skip": ("raw", "relu_alias"),
    "stem": ("code", "figure"),
    "hyper_order": ("code", "figure"),
    "adjacency": ADJACENCIES,
    "mean_shift": ("constant", "trainable"),
}


@dataclass(frozen=True)
class Options:
    """Options shared by the blocks; see the module's docstring. Raises ValueError if an option is not valid."""

    acnn_skip: str = "raw"
    stem: str = "code"
    hyper_order: str = "code"
    adjacency: str = "sign"
    mean_shift: str = "constant"
    reparameterize: bool = True

    def __post_init__(self) -> None:
        for option, legal in LEGAL.items():
            check_choice(option, getattr(self, option), legal)

    @property
    def aliased(self) -> bool:
        """Whether the input of an ACNN is also rectified for its other consumers."""
        return self.acnn_skip == "relu_alias"


def check_choice(option: str, value: str, legal: tuple[str, ...]) -> None:
    """Check an option's value. Raises ValueError if it is not in ``legal``."""
    if value not in legal:
        raise ValueError(f"{option}: expected {' or '.join(legal)}, got {value!r}")


def _pairs(*names: str) -> list[tuple[str, str]]:
    """Return name pairs from ``theirs -> here``, each of one or more whole components of a name."""
    return [(rf"(?<![^.]){theirs}(?![^.])", here) for theirs, here in (name.split(" -> ") for name in names)]


def _numbered(theirs: str, here: str, count: int, first: int = 1) -> list[tuple[str, str]]:
    """Return name pairs of layers numbered from ``first``; {0} is the number from 0, {1} and {2} split it by 3."""
    return _pairs(*(f"{theirs}{first + i} -> {here.format(i, *divmod(i, 3))}" for i in range(count)))


# Tensor names in the authors' files, which repeat three tensors and contain an unused convolution, and here.
AUTHORS_NAMES = (
    (r"^(factorized_entropy_func\.(matrix|bias|factor)|encoder\.conv_out\..*)$", ""),
    *_pairs("^conv1 -> context.context_prediction", "^conv2 -> context.entropy_parameters", "^conv3 -> context.hyper"),
    *_pairs("encoder.conv_block1.2.gamma -> g_a.first.2.weight", "encoder.conv_block1.2.beta -> g_a.first.2.bias"),
    *_pairs("encoder.conv_block1.1 -> g_a.first.1", "encoder.blk1 -> g_a.first.4", "encoder.low_high -> g_a.skip"),
    *_pairs("factorized_entropy_func -> entropy_bottleneck", "encoder.sub_mean -> g_a.first.0"),
    *_pairs("encoder.trans -> g_a.pool.0.0", "encoder.conv -> h_a.last", "hyper_dec.conv0 -> h_s.first"),
    *_pairs("hyper_dec.subpel_conv1 -> h_s.grow", "decoder.high_low -> g_s.skip", "decoder.blk1 -> g_s.last.0"),
    *_pairs("decoder.conv.1 -> g_s.last.1", "decoder.add_mena -> g_s.last.2", "p.context_p.3 -> p_net.last"),
    *_pairs(r"p.context_p.(\d).conv1 -> p_net.pairs.\1.0", r"p.context_p.(\d).conv2 -> p_net.pairs.\1.2"),
    *_numbered("encoder.blk", "g_a.down.{1}.0.blocks.{2}", 12, first=2),
    *_numbered("encoder.blk", "h_a.acnn.{1}.blocks.{2}", 6, first=14),
    *_pairs(*(f"encoder.down{i + 1}.{j} -> g_a.down.{i}.{j + 1}" for i in range(4) for j in range(2))),
    *_numbered("encoder.down", "h_a.down.{0}", 2, first=5),
    *_numbered("encoder.attention", "g_a.attention.{0}.coordinate", 4),
    *_numbered("encoder.encode", "g_a.attention.{0}.group", 4),
    *_numbered("encoder.attention", "h_a.attention.{0}.coordinate", 2, first=5),
    *_numbered("encoder.hyper_encode", "h_a.attention.{0}.group", 2),
    *_numbered("encoder.(gamma|beta)", r"g_a.link.{0}.\1", 3),
    *_numbered("encoder.(gamma|beta)", r"h_a.link.{0}.\1", 2, first=4),
    *_numbered("encoder.gcn", "h_a.graph.layers.{0}", 2),
    *_numbered("hyper_dec.blk", "h_s.acnn.{1}.blocks.{2}", 6, first=2),
    *_numbered("hyper_dec.gcn", "h_s.graph.layers.{0}", 2),
    *_numbered("decoder.blk", "g_s.up.{1}.2.blocks.{2}", 12, first=2),
    *_pairs("decoder -> g_s", "hyper_dec -> h_s", r"h_s.(gamma|beta)1 -> h_s.link.\1"),
    *_numbered("([gh]_s).up", r"\1.up.{0}", 4),
    *_numbered("([gh]_s).attention", r"\1.attention.{0}.coordinate", 4),
    *_numbered("([gh]_s).(?:hyper_)?decode", r"\1.attention.{0}.group", 4),
    *_numbered("g_s.(gamma|beta)", r"g_s.link.{0}.\1", 3),
    *_numbered("g_s.subpel_conv", "g_s.grow.{0}", 3),
    *_pairs(r"blocks.(\d).1 -> blocks.\1", "conv1x3.0 -> row", "conv3x1.0 -> column", "conv3x3.0 -> square"),
    *_pairs("coordinate.conv1 -> coordinate.reduce.0", "coordinate.bn1 -> coordinate.reduce.1", "conv_h -> rows"),
    *_pairs("conv_w -> columns", "group.0.body -> group", "body.3.conv_du -> gate", "W -> weight", "a -> attention"),
)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


class AsymmetricConv(nn.Module):
    """AB: the sum of parallel 3x3, 3x1 and 1x3 convolutions."""

    def __init__(self, C: int, fold: bool = True) -> None:
        super().__init__()
        self.square = nn.Conv2d(C, C, kernel_size=3, padding=1)
        self.column = nn.Conv2d(C, C, kernel_size=(3, 1), padding=(1, 0))
        self.row = nn.Conv2d(C, C, kernel_size=(1, 3), padding=(0, 1))
        self.fold = fold

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        if not self.fold:
            return self.column(x) + self.row(x) + self.square(x)
        column, row = F.pad(self.column.weight, (1, 1)), F.pad(self.row.weight, (0, 0, 1, 1))
        bias = _bias(self.square) + _bias(self.column) + _bias(self.row)
        return F.conv2d(x, self.square.weight + column + row, bias, padding=1)


class ACNN(nn.Module):
    """Sum of the input and the results of three consecutive pre-activated asymmetric blocks."""

    def __init__(self, C: int, options: Options) -> None:
        super().__init__()
        self.aliased = options.aliased
        self.blocks = nn.ModuleList(AsymmetricConv(C, options.reparameterize) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        t = x
        total = F.relu(x) if self.aliased else x
        for block in self.blocks:
            t = block(F.relu(t))
            total = total + t
        return total


class ResidualChannelAttention(nn.Module):
    """RCAB: two convolutions, then one factor per channel computed from the mean of the map."""

    def __init__(self, C: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(C, C, 3, 1), nn.ReLU(inplace=True), conv(C, C, 3, 1))
        self.gate = nn.Sequential(nn.Conv2d(C, C, 1), nn.ReLU(inplace=True), nn.Conv2d(C, C, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        u = self.body(x)
        return x + u * self.gate(u.mean(dim=(2, 3), keepdim=True))


class CoordinateAttention(nn.Module):
    """Coordinate attention: one factor per channel and row, and one per channel and column (reduction 32)."""

    def __init__(self, C: int) -> None:
        super().__init__()
        inner = max(8, C // 32)
        self.reduce = nn.Sequential(nn.Conv2d(C, inner, 1), nn.BatchNorm2d(inner), nn.Hardswish())
        self.rows, self.columns = nn.Conv2d(inner, C, 1), nn.Conv2d(inner, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        means = torch.cat([x.mean(dim=3, keepdim=True), x.mean(dim=2, keepdim=True).mT], dim=2)
        rows, columns = self.reduce(means).split(x.shape[2:], dim=2)
        return x * self.rows(rows).sigmoid() * self.columns(columns.mT).sigmoid()


class Attention(nn.Module):
    """Att: coordinate attention plus a residual group of six channel-attention blocks."""

    def __init__(self, C: int) -> None:
        super().__init__()
        self.coordinate = CoordinateAttention(C)
        self.group = nn.Sequential(*(ResidualChannelAttention(C) for _ in range(6)), conv(C, C, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w)."""
        return self.coordinate(x) + x + self.group(x)


class Link(nn.Module):
    """Link between consecutive attentions: ``beta * attention + gamma * earlier``, initially without ``earlier``."""

    def __init__(self) -> None:
        super().__init__()
        self.beta, self.gamma = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, attention: Tensor, earlier: Tensor) -> Tensor:
        """Combine two maps of equal shape."""
        return self.beta * attention + self.gamma * earlier


class ChannelNorm(nn.Module):
    """Normalisation of each pixel's channels to zero mean and unit variance, then scale and offset per channel."""

    def __init__(self, C: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(C, 1, 1)), nn.Parameter(torch.zeros(C, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h, w), in float32 also under autocast."""
        variance, mean = torch.var_mean(x.float(), dim=1, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-3) * self.weight + self.bias


class MeanShift(nn.Module):
    """Addition of ``sign`` times the mean colour."""

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.offset: Tensor
        self.register_buffer("offset", sign * torch.tensor(RGB_MEAN).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, H, W)."""
        return x + self.offset


def mean_shift(sign: int, kind: str) -> nn.Module:
    """Build the mean shift: a constant, or a 1x1 convolution that is initialised as one."""
    if kind == "constant":
        return MeanShift(sign)
    layer = nn.Conv2d(3, 3, kernel_size=1)
    nn.init.dirac_(layer.weight)
    with torch.no_grad():
        _bias(layer).copy_(sign * torch.tensor(RGB_MEAN))
    return layer


def first_layers(C: int, options: Options) -> nn.Module:
    """Build the layers from x (B, 3, H, W) to e1 (B, C, H, W)."""
    if options.stem == "figure":
        return conv(3, C, 3, 1)
    return nn.Sequential(
        mean_shift(-1, options.mean_shift),
        nn.Conv2d(3, C, kernel_size=5, padding=2, padding_mode="reflect"),
        ChannelNorm(C),
        nn.ReLU(inplace=True),
        AsymmetricConv(C, options.reparameterize),
    )


def last_layers(C: int, options: Options) -> nn.Module:
    """Build the layers from (B, C, H, W) to x_hat (B, 3, H, W)."""
    if options.stem == "figure":
        return conv(C, 3, 3, 1)
    return nn.Sequential(
        AsymmetricConv(C, options.reparameterize),
        nn.Conv2d(C, 3, kernel_size=5, padding=2, padding_mode="reflect"),
        mean_shift(1, options.mean_shift),
    )


class Analysis(nn.Module):
    """g_a: every stage halves the map; each attention is linked to the one before it."""

    def __init__(self, M: int, widths: tuple[int, int], options: Options) -> None:
        super().__init__()
        inputs, outputs = (*widths, M, M), (widths[1], M, M, M)
        self.first = first_layers(widths[0], options)
        self.down = nn.ModuleList(
            nn.Sequential(ACNN(a, options), conv(a, b), GDN(b)) for a, b in zip(inputs, outputs, strict=True)
        )
        self.attention = nn.ModuleList(Attention(C) for C in outputs)
        self.pool = nn.ModuleList(
            [nn.Sequential(conv(widths[1], M, 3, 1), nn.AvgPool2d(2)), nn.AvgPool2d(2), nn.AvgPool2d(2)]
        )
        self.link = nn.ModuleList(Link() for _ in self.pool)
        self.skip = nn.Conv2d(widths[0], M, kernel_size=5, stride=16, padding=2)
        self.seen = nn.ReLU() if options.aliased else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, 3, H, W) to y (B, M, H/16, W/16)."""
        e1 = self.seen(self.first(x))
        a1 = self.seen(self.attention[0](self.down[0](e1)))
        a2 = self.seen(self.link[0](self.attention[1](self.down[1](a1)), self.pool[0](a1)))
        a3 = self.seen(self.link[1](self.attention[2](self.down[2](a2)), self.pool[1](a2)))
        u = self.down[3](a3) + self.skip(e1)
        return self.seen(self.link[2](self.attention[3](u), self.pool[2](a3)))


class HyperAnalysis(nn.Module):
    """h_a, with graph attention over the positions at 1/32 of the resolution."""

    def __init__(self, M: int, N: int, options: Options) -> None:
        super().__init__()
        self.attention_last = options.hyper_order == "code"
        self.acnn = nn.ModuleList([ACNN(M, options), ACNN(M, options)])
        self.down = nn.ModuleList(nn.Sequential(conv(M, M), nn.LeakyReLU(inplace=True)) for _ in range(2))
        self.attention = nn.ModuleList([Attention(M), Attention(M)])
        self.link = nn.ModuleList([Link(), Link()])
        self.graph = GraphAttention(M, options.adjacency)
        self.pool = nn.AvgPool2d(2)
        self.last = conv(M, N, 3, 1)

    def forward(self, y: Tensor) -> Tensor:
        """Map y (B, M, H/16, W/16) to z (B, N, H/64, W/64)."""
        g = self.down[0](self.acnn[0](y))
        v = self.link[0](self.attention[0](g), self.pool(y))
        w = self.acnn[1](v + self.graph(g))
        if self.attention_last:
            q = self.down[1](w)
            return self.last(self.link[1](self.attention[1](q), self.pool(v)))
        return self.last(self.down[1](self.link[1](self.attention[1](w), v)))


class HyperSynthesis(nn.Module):
    """h_s without P-net."""

    def __init__(self, M: int, N: int, options: Options) -> None:
        super().__init__()
        self.attention_first = options.hyper_order == "code"
        self.first = conv(N, M, 3, 1)
        self.attention = nn.ModuleList([Attention(M), Attention(M)])
        self.up = nn.ModuleList(nn.Sequential(deconv(M, M), nn.LeakyReLU(inplace=True)) for _ in range(2))
        self.acnn = nn.ModuleList([ACNN(M, options), ACNN(M, options)])
        self.grow = subpel_conv3x3(M, M, 2) if self.attention_first else nn.Identity()
        self.link = Link()
        self.graph = GraphAttention(M, options.adjacency)

    def forward(self, z_hat: Tensor) -> Tensor:
        """Map z_hat (B, N, H/64, W/64) to (B, M, H/16, W/16)."""
        c = self.first(z_hat)
        if self.attention_first:
            d = self.attention[0](c)
            h = self.acnn[0](self.up[0](d))
        else:
            d = self.attention[0](self.up[0](c))
            h = self.acnn[0](d)
        o = self.link(self.attention[1](h), self.grow(d)) + self.graph(h)
        return self.acnn[1](self.up[1](o))


class PredictionNet(nn.Module):
    """P-net: three residual pairs of convolutions and the output layer of psi."""

    def __init__(self, M: int) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(
            nn.Sequential(conv(M, M, 3, 1), nn.ReLU(inplace=True), conv(M, M, 3, 1)) for _ in range(3)
        )
        self.last = conv(M, 2 * M, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, M, H/16, W/16) to psi (B, 2M, H/16, W/16)."""
        for pair in self.pairs:
            x = x + pair(x)
        return self.last(x)


class Synthesis(nn.Module):
    """g_s, the mirror image of g_a."""

    def __init__(self, M: int, widths: tuple[int, int], options: Options) -> None:
        super().__init__()
        outputs = (M, M, *widths[::-1])
        self.up = nn.ModuleList(
            nn.Sequential(deconv(a, b), GDN(b, inverse=True), ACNN(b, options))
            for a, b in zip((M, *outputs), outputs, strict=False)
        )
        self.attention = nn.ModuleList(Attention(C) for C in (M, *outputs[:3]))
        self.grow = nn.ModuleList(subpel_conv3x3(M, C, 2) for C in outputs[:3])
        self.link = nn.ModuleList(Link() for _ in self.grow)
        self.skip = nn.ConvTranspose2d(M, widths[0], kernel_size=5, stride=16, padding=2, output_padding=15)
        self.last = last_layers(widths[0], options)

    def forward(self, y_hat: Tensor) -> Tensor:
        """Map y_hat (B, M, H/16, W/16) to x_hat (B, 3, H, W)."""
        b0 = self.attention[0](y_hat)
        b1 = self.link[0](self.attention[1](self.up[0](b0)), self.grow[0](b0))
        b2 = self.link[1](self.attention[2](self.up[1](b1)), self.grow[1](b1))
        b3 = self.link[2](self.attention[3](self.up[2](b2)), self.grow[2](b2))
        return self.last(self.up[3](b3) + self.skip(b0))


def universal(values: Tensor, width: Tensor | float) -> Tensor:
    """Return ``round(values + u) - u``, straight-through, with u uniform of that width (Choi et al. 2019)."""
    u = uniform(values, -0.5, 0.5) * width
    return values + (torch.round(values + u) - u - values).detach()


class GAACNN(HyperpriorCodec):
    """Codec of the paper; y is (B, M, H/16, W/16), z is (B, N, H/64, W/64), psi is (B, 2M, H/16, W/16).

    ::

        x --g_a--> y --h_a--> z --Q, EB--> z_hat --h_s, p_net--> psi
        y --Q--> y_hat,  3 weights, means, scales per element = context(earlier y_hat, psi)
        y_hat --g_s--> x_hat

    Args:
        M: channels of the networks and of y. Paper: 192, and 320 for high rates.
        N: channels of z.
        widths: channels at full and at half resolution.
        scale_param: see `VolumeContext`.
        options: the fields of `Options`.

    Raises:
        ValueError: an option is not valid.
        TypeError: an option does not exist.
    """

    quantizers = ("universal", "noise")  # in training; evaluation rounds
    authors_names = AUTHORS_NAMES
    authors_arguments: ClassVar = {"acnn_skip": "relu_alias", "adjacency": "rownorm", "mean_shift": "trainable"}
    context: VolumeContext  # its forward takes y_hat and returns only likelihoods

    def __init__(
        self, M: int = 192, N: int = 128, widths: Sequence[int] = (64, 128), scale_param: str = "abs", **options: Any
    ) -> None:
        super().__init__()
        chosen = Options(**options)
        self.use_quantizer(None)
        full, half = widths
        self.g_a, self.g_s = Analysis(M, (full, half), chosen), Synthesis(M, (full, half), chosen)
        self.h_a, self.h_s = HyperAnalysis(M, N, chosen), HyperSynthesis(M, N, chosen)
        self.p_net = PredictionNet(M)
        self.entropy_bottleneck = EntropyBottleneck(N, filters=(3, 3, 3))
        self.context = VolumeContext(M, scale_param=scale_param)

    def forward(self, x: Tensor) -> CodecOutput:
        """Return x_hat and likelihoods of x (B, 3, H, W); networks, context and rate use the same y_hat."""
        y, z = self._analyse(x)
        z_hat, z_likelihoods = self._quantise_z(z)
        psi = self._psi(z_hat)
        y_hat = self._quantise_y(y.float())
        y_likelihoods = self.context(y_hat, psi)
        x_hat = self.g_s(y_hat)
        return {"x_hat": x_hat, "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}

    def compress(self, x: Tensor) -> Compressed:
        """Return the strings [y, z]; that of y begins with the record of the edges in h_s."""
        with decisions.recorded() as record:
            coded = super().compress(x)
        coded["strings"][0] = record.finish() + coded["strings"][0]
        return coded

    def decompress(self, strings: Sequence[Strings], shape: tuple[int, int]) -> Decompressed:
        """See `Codec.decompress`. Pictures of a batch follow one another: each has its own record."""
        if not isinstance(strings[0], bytes):
            pictures = [self.decompress(one, shape)["x_hat"] for one in zip(*strings, strict=True)]
            return {"x_hat": torch.cat(pictures)}
        with decisions.followed(strings[0]) as record:
            return super().decompress([strings[0][record.size :], strings[1]], shape)

    def _quantise_y(self, y: Tensor) -> Tensor:
        if not self.training:
            return torch.round(y)
        if self.quantizer == "noise":
            return add_noise(y)
        # One width for the whole batch: 2^b, b uniform in [-1, 1].
        return universal(y, torch.exp2(2 * torch.rand((), device=y.device) - 1))

    def _quantise_z(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return z_hat and its likelihoods."""
        if not self.training or self.quantizer == "noise":
            return self.entropy_bottleneck(z)
        z_hat = universal(z.float(), 1.0)
        return z_hat, self.entropy_bottleneck.likelihood(z_hat)

    def _psi(self, z_hat: Tensor) -> Tensor:
        with repeatable(self.h_s, self.p_net):
            return self.p_net(self.h_s(z_hat))

    def _synthesise(self, y_hat: Tensor) -> Tensor:
        return self.g_s(y_hat.to(self.entropy_bottleneck.medians))
