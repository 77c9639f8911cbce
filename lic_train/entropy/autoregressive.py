"""Serial spatial context, coded as a wavefront.

Minnen et al. 2018, "Joint autoregressive and hierarchical priors for learned image compression", section 3.

The mask covers two rows above and two columns to the left. A position with ``t = column + 3 * row`` depends only on
positions of smaller t, so one step codes a whole diagonal: w + 3(h - 1) steps instead of h * w.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lic_train.entropy.coder import Strings, SymbolEncoder, decoder_of
from lic_train.entropy.gaussian import GaussianConditional
from lic_train.entropy.precision import one_thread, repeatable
from lic_train.entropy.quantize import add_noise, on_grid, round_to

# (row, column) of the 12 visible taps of a 5x5 kernel with mask type A.
TAPS = tuple((row, column) for row in range(3) for column in range(5) if row < 2 or column < 2)

# (name in CompressAI's models with this context, name here) of the tensors of `SerialContext`, a regular expression.
COMPRESSAI_NAMES = ((r"^(context_prediction|entropy_parameters)\.", r"context.\1."),)

# Maps positions (K,), scales (B, K, M) and means (B, K, M) to y_hat (B, K, M).
Code = Callable[[Tensor, Tensor, Tensor], Tensor]


class CausalConv2d(nn.Conv2d):
    """5x5 convolution restricted to the 12 taps before the centre in raster order (mask type A)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=5, padding=2)
        mask = torch.zeros(5, 5)
        for row, column in TAPS:
            mask[row, column] = 1
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h, w)."""
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=2)

    def taps(self) -> Tensor:
        """Return the visible weights (C', 12 * C), tap-major, for patches gathered per position."""
        visible = [self.weight[:, :, row, column] for row, column in TAPS]
        return torch.stack(visible, dim=1).flatten(1)


class SerialContext(nn.Module):
    """Entropy model of a Gaussian y: masked 5x5 context and 1x1 entropy-parameter network.

    ``psi`` (B, 2M, h, w) is the output of h_s. Channel order of inputs: psi, context; of outputs: scales, means.
    """

    def __init__(self, M: int) -> None:
        super().__init__()
        self.context_prediction = CausalConv2d(M, 2 * M)
        self.entropy_parameters = nn.Sequential(
            nn.Conv2d(4 * M, 10 * M // 3, 1),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(10 * M // 3, 8 * M // 3, 1),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(8 * M // 3, 2 * M, 1),
        )
        self.gaussian_conditional = GaussianConditional()

    def forward(self, y: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
        """Return y_hat and its likelihoods, both (B, M, h, w).

        Training adds noise and evaluates the context in one pass. Evaluation quantises around the mean, which depends
        on y_hat itself, and therefore follows the wavefront of the bitstream.
        """
        if not self.training:
            return self._estimate(y, psi)
        y_hat = add_noise(y.float())
        params = self.entropy_parameters(torch.cat([psi, self.context_prediction(y_hat)], dim=1))
        scales, means = params.chunk(2, dim=1)
        return y_hat, self.gaussian_conditional.likelihood(y_hat, scales, means)

    def _estimate(self, y: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
        flat = y.float().flatten(2).transpose(1, 2)
        scales, means = torch.empty_like(flat), torch.empty_like(flat)

        def quantise(positions: Tensor, scales_hat: Tensor, means_hat: Tensor) -> Tensor:
            means_hat = on_grid(means_hat)
            scales[:, positions], means[:, positions] = scales_hat.float(), means_hat.float()
            return round_to(flat[:, positions], means_hat)

        y_hat = self._wavefront(psi, quantise)
        scales, means = (value.transpose(1, 2).reshape(y.shape) for value in (scales, means))
        return y_hat, self.gaussian_conditional.likelihood(y_hat, scales, means)

    @torch.no_grad()
    def compress(self, y: Tensor, psi: Tensor) -> bytes:
        """Encode y (1, M, h, w) given psi (1, 2M, h, w)."""
        encoder = SymbolEncoder()
        flat = y.flatten(2).transpose(1, 2)

        def write(positions: Tensor, scales: Tensor, means: Tensor) -> Tensor:
            return self.gaussian_conditional.encode(encoder, flat[:, positions], scales, means)

        self._wavefront(psi, write)
        return encoder.finish()

    @torch.no_grad()
    def decompress(self, string: Strings, psi: Tensor) -> Tensor:
        """Return y_hat (B, M, h, w).

        Raises:
            BitstreamError: the string is damaged.
        """
        decoder = decoder_of(string)
        y_hat = self._wavefront(psi, lambda _, *params: self.gaussian_conditional.decode(decoder, *params))
        decoder.finish()
        return y_hat

    def _wavefront(self, psi: Tensor, code: Code) -> Tensor:
        """Process all positions in coding order, in float64, and return y_hat (B, M, h, w) in float32."""
        batch, _, height, width = psi.shape
        M = self.context_prediction.in_channels
        with repeatable(self):
            context, first, *rest = self._matrices()
        split = 2 * M
        canvas = psi.new_zeros(batch, (height + 2) * (width + 4), M)  # two rows above, two columns on each side
        with one_thread():
            hyper = F.linear(psi.flatten(2).transpose(1, 2), first[0][:, :split], first[1])
            for positions, centres, neighbours in _diagonals(height, width, psi.device):
                patches = canvas[:, neighbours].flatten(2)
                values = hyper[:, positions] + F.linear(F.linear(patches, *context), first[0][:, split:])
                for weight, bias in rest:
                    values = F.linear(F.leaky_relu(values, 0.01), weight, bias)
                scales, means = values.chunk(2, dim=2)
                canvas[:, centres] = code(positions, scales, means)
        inner = canvas.view(batch, height + 2, width + 4, M)[:, 2:, 2:-2]
        return inner.permute(0, 3, 1, 2).float().contiguous()

    def _matrices(self) -> list[tuple[Tensor, Tensor | None]]:
        """Return the convolutions as matrices: context (2M, 12M), then the 1x1 ones."""
        pointwise = [layer for layer in self.entropy_parameters if isinstance(layer, nn.Conv2d)]
        return [
            (self.context_prediction.taps(), self.context_prediction.bias),
            *((layer.weight.flatten(1), layer.bias) for layer in pointwise),
        ]


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # indexes first computed in inference mode are also used outside
def _diagonals(height: int, width: int, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return for each t: positions (K,) in the map and in the padded canvas, and their 12 neighbours there (K, 12)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    time = (columns + 3 * rows).flatten()
    order = torch.argsort(time, stable=True)
    steps = []
    for positions in order.split(torch.bincount(time).tolist()):
        row, column = positions // width, positions % width
        centres = (row + 2) * (width + 4) + column + 2
        taps = torch.tensor([(r - 2) * (width + 4) + c - 2 for r, c in TAPS])
        steps.append(tuple(index.to(device) for index in (positions, centres, centres[:, None] + taps)))
    return steps
