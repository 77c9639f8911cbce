"""GCAB + GMM: scale hyperprior with global context attention in the encoder and a Gaussian mixture for each latent.

Zhu J., Gao C., Chen Z., Chen F., "End-to-end image compression method based on attention modules and discretized
Gaussian mixture model", J. Chongqing Univ. of Posts and Telecommunications (Natural Science), 2020, issue 5, p. 769 ff.
The attention block comes from Y. Cao et al., "GCNet: Non-local networks meet squeeze-excitation networks and beyond",
ICCV 2019 workshops.

No code was published and the figures are not available. Interpretations
- The text gives 192 channels; the file sizes (20.3 and 23.3 MB) imply N = 128, M = 192. So 192 is the latent's width.
- Three attention blocks follow the first three GDNs, with bottleneck ratio 16; see ``gcab_after`` and ``ratio``.
- The head has 1x1 convolutions and follows the hyper decoder; its inner ``head_widths`` match the growth of 3.0 MB.
- The paper takes the weights from a sigmoid and requires a sum of 1, which sigmoids do not have. ``head="softmax"`` is
  the default; ``head="sigmoid"`` divides the sigmoids by their sum.
- Scales are softplus, then bounded below by 0.11. ``scale="raw"`` has only the bound; its rate overshoots at the start.
- The hyper encoder reads y with its sign, because means are predicted; ``abs_y=True`` follows Balle et al.

The paper calls the mask spatially adaptive; its own equations add one vector per image to all positions.

Legend: B batch, H W image, N M channels, K components, h w = H/16 W/16; y is (B, M, h, w), z is (B, N, h/4, w/4),
weights, means and scales are (B, K, M, h, w).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from compressai.layers import GDN
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.gaussian import GaussianConditional
from lic_train.entropy.mixture import GaussianMixture
from lic_train.entropy.mixture_coder import one_by_one
from lic_train.entropy.precision import at_least_float32, repeatable
from lic_train.models.base import HyperpriorCodec

STAGES = 4


class GlobalContext(nn.Module):
    """GCAB: one attention-pooled vector per image, transformed and added to every position; initially the identity.

    Args:
        channels: C.
        ratio: the transform has C // ratio inner channels, at least 2, because the norm of one number is constant.
    """

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        hidden = channels // ratio
        if hidden < 2:
            raise ValueError(
                f"ratio: expected at most half of the {channels} channels, got {ratio}; use {channels // 2} or less"
            )
        self.score = nn.Conv2d(channels, 1, kernel_size=1)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel_size=1),
            nn.LayerNorm([hidden, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, kernel_size=1),
        )
        nn.init.kaiming_normal_(self.score.weight, nonlinearity="relu")
        assert self.score.bias is not None
        for parameter in (self.score.bias, *self.transform[-1].parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        attention = self.score(x).flatten(1).float().softmax(dim=1)  # (B, HW), float32: thousands of small values
        context = x.flatten(2) @ attention.to(x.dtype)[:, :, None]
        return x + self.transform(context[..., None])


def encoder(N: int, M: int, gcab_after: Sequence[int], ratio: int) -> nn.Sequential:
    """Build g_a, from x (B, 3, H, W) to y, with an attention block after each of the stages ``gcab_after``, 1 to 4."""
    layers: list[nn.Module] = []
    widths = (3, N, N, N, M)
    for stage in range(1, STAGES + 1):
        layers.append(conv(widths[stage - 1], widths[stage]))
        if stage < STAGES:
            layers.append(GDN(N))
        if stage in gcab_after:
            layers.append(GlobalContext(widths[stage], ratio))
    return nn.Sequential(*layers)


def decoder(N: int, M: int) -> nn.Sequential:
    """Build g_s, from y_hat to x_hat (B, 3, H, W)."""
    return nn.Sequential(
        deconv(M, N),
        GDN(N, inverse=True),
        deconv(N, N),
        GDN(N, inverse=True),
        deconv(N, N),
        GDN(N, inverse=True),
        deconv(N, 3),
    )


def hyper_encoder(N: int, M: int, act: type[nn.Module]) -> nn.Sequential:
    """Build h_a, from y to z."""
    return nn.Sequential(conv(M, N, kernel_size=3, stride=1), act(), conv(N, N), act(), conv(N, N))


def hyper_decoder(N: int, M: int, act: type[nn.Module], last: type[nn.Module]) -> nn.Sequential:
    """Build h_s, from z_hat to (B, M, h, w)."""
    return nn.Sequential(deconv(N, N), act(), deconv(N, N), act(), conv(N, M, kernel_size=3, stride=1), last())


class MixtureHead(nn.Module):
    """Three 1x1 convolutions whose output is K*M weight logits, K*M means and K*M scales, component-major.

    Args:
        M: channels of the input and of the latent.
        K: components.
        widths: output channels of the first two convolutions.
        weights: "softmax" over K, or "sigmoid" divided by its sum over K.
        scale: "softplus", or "raw" for only the bound of the entropy model.
    """

    def __init__(self, M: int, K: int, widths: Sequence[int], weights: str, scale: str) -> None:
        super().__init__()
        self.M, self.K, self.weights, self.scale = M, K, weights, scale
        first, second = widths
        self.layers = nn.Sequential(
            nn.Conv2d(M, first, kernel_size=1),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(first, second, kernel_size=1),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(second, 3 * K * M, kernel_size=1),
        )
        self._spread_means()

    @torch.no_grad()
    def _spread_means(self) -> None:
        """Initialise the means one apart around 0, because equal components would stay equal."""
        spread = torch.arange(self.K) - (self.K - 1) / 2
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        last.bias.view(3, self.K, self.M)[1].add_(spread[:, None])

    def forward(self, psi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, M, h, w) to weights, means and scales, each (B, K, M, h, w), in float32 or float64."""
        logits, means, scales = at_least_float32(self.layers(psi)).unflatten(1, (3, self.K, self.M)).unbind(1)
        if self.weights == "sigmoid":
            logits = F.logsigmoid(logits)  # sigmoids over their sum, computed with logarithms to avoid 0/0
        return logits.softmax(dim=1), means, F.softplus(scales) if self.scale == "softplus" else scales


class MixtureContext(nn.Module):
    """Entropy model of y given psi (B, M, h, w): one mixture per element, without spatial context."""

    def __init__(self, head: MixtureHead) -> None:
        super().__init__()
        self.head, self.mixture = head, GaussianMixture()

    def forward(self, y: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
        """Return y_hat and its likelihoods, both (B, M, h, w)."""
        return self.mixture(y, *self._parameters_of_y(psi))

    def compress(self, y: Tensor, psi: Tensor) -> bytes:
        """Encode y (1, M, h, w)."""
        return self.mixture.compress(y, *self._parameters_of_y(psi))

    @one_by_one
    def decompress(self, string: bytes, psi: Tensor) -> Tensor:
        """Return y_hat (B, M, h, w)."""
        return self.mixture.decompress(string, *self._parameters_of_y(psi))

    def _parameters_of_y(self, psi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with repeatable(self):
            return self.head(psi)


ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


class GCABMixture(HyperpriorCodec):
    """``x -> g_a -> y -> h_a -> z -> z_hat -> h_s -> head -> weights, means, scales``; ``y -> y_hat -> g_s -> x_hat``.

    All parameters of y come from z_hat, so y is decoded in one pass.

    Args:
        N: channels of the networks and of z. Paper: 128.
        M: channels of y. Paper: 192.
        K: components of the mixture. Paper: 3, with an ablation from 2 to 4; 1 is a single Gaussian.
        mixture: False removes the head: zero-mean Gaussians and abs(y) into h_a, the hyperprior that the paper extends.
        gcab_after: stages of g_a, 1 to 4, that are followed by an attention block; empty for no attention.
        ratio: bottleneck of the attention blocks.
        head: "softmax" or "sigmoid", the normalisation of the weights.
        head_widths: inner channels of the head.
        scale: "softplus" or "raw".
        act: "relu" or "leaky_relu", inside the hyper networks.
        abs_y: whether h_a reads abs(y).

    Raises:
        ValueError: an option is not valid.
    """

    def __init__(
        self,
        N: int = 128,
        M: int = 192,
        K: int = 3,
        mixture: bool = True,
        gcab_after: Sequence[int] = (1, 2, 3),
        ratio: int = 16,
        head: str = "softmax",
        head_widths: Sequence[int] = (384, 320),
        scale: str = "softplus",
        act: str = "relu",
        abs_y: bool = False,
    ) -> None:
        super().__init__()
        _check(K=K, gcab_after=gcab_after, head=head, head_widths=head_widths, scale=scale, act=act)
        activation = ACTIVATIONS[act]
        self.abs_y = abs_y or not mixture
        self.g_a, self.g_s = encoder(N, M, gcab_after, ratio), decoder(N, M)
        self.h_a = hyper_encoder(N, M, activation)
        self.h_s = hyper_decoder(N, M, activation, last=nn.LeakyReLU if mixture else nn.ReLU)
        self.entropy_bottleneck = EntropyBottleneck(N)
        if mixture:
            self.context = MixtureContext(MixtureHead(M, K, head_widths, head, scale))
        else:
            self.context = GaussianConditional()

    def _analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.g_a(x)
        return y, self.h_a(y.abs() if self.abs_y else y)


def _check(K: int, gcab_after: Sequence[int], head: str, head_widths: Sequence[int], scale: str, act: str) -> None:
    if K < 1:
        raise ValueError(f"K: expected at least 1 component, got {K}")
    if not set(gcab_after) <= set(range(1, STAGES + 1)):
        raise ValueError(f"gcab_after: expected stages from 1 to {STAGES}, got {list(gcab_after)}")
    if len(head_widths) != 2:
        raise ValueError(f"head_widths: expected two widths, got {list(head_widths)}")
    choices = {
        "head": (head, ("softmax", "sigmoid")),
        "scale": (scale, ("softplus", "raw")),
        "act": (act, tuple(ACTIVATIONS)),
    }
    for option, (name, known) in choices.items():
        if name not in known:
            raise ValueError(f"{option}: expected {' or '.join(known)}, got {name!r}")
    if head == "sigmoid":
        warnings.warn(
            "head=sigmoid follows the text of the paper: sigmoids do not sum to 1, so they are divided by their sum; "
            "the default head=softmax fulfils the equations of the paper",
            stacklevel=3,
        )
