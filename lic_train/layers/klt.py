"""Initial weights of strided convolutions: a linear transform of blocks of pixels, 16x16 for four, and its inverse.

The Karhunen-Loeve transform (KLT) of a stationary process with correlation rho^distance between pixels, applied in
steps: each step takes blocks of 2x2 vectors of the step before, and keeps the components with the largest
variance, as many as the convolution has outputs. The analysis network then begins as a transform coder, and training
improves it, instead of first having to find a transform. This matters for short trainings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_CORRELATION = 0.95  # of neighbouring pixels, the usual value for photographs
_VARIANCES = (1, 0.06, 0.0599)  # of Y, Cb and Cr, relative to Y
_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # ITU-R BT.601
# Rows differ from columns, and Cb from Cr: eigenvectors of equal eigenvalues would depend on the machine.
_ROWS = 1 + 1e-6  # squared distance of neighbouring rows, relative to columns
_GREY = 0.5  # subtracted from the image by the biases, so that the values of all layers have means near 0
_RANDOM = 0.03  # share of the random initial weights that is kept, without which unused channels would have no gradient
TAPS = slice(2, 4)  # taps of a 5x5 kernel of stride 2 and padding 2 on the 2x2 block of an output position


def best_gain(g_a: nn.Module, lmbda: float) -> float:
    """Return the factor of the y of the transform ``g_a`` for which rounding is optimal.

    Each of its n convolutions divides the orthonormal components by 2.

    At high rate the best step of a quantiser is sqrt(6 / (ln 2 * lambda)) of 255 pixel levels, for the loss
    ``bpp + lambda * 255^2 * MSE``.
    """
    return 2 ** len(_convolutions(g_a)) * 255 / math.sqrt(6 / (math.log(2) * lmbda))


@torch.no_grad()
def start_as_klt(g_a: nn.Module, g_s: nn.Module, gain: float = 1.0) -> None:
    """Set the convolutions of ``g_a`` to the transform, and the transposed convolutions of ``g_s`` to its inverse.

    Each step halves its values, so that they stay in the linear range of GDN.

    Args:
        g_a: its convolutions have 5x5 kernels and stride 2; the first has three inputs.
        g_s: its transposed convolutions mirror them.
        gain: factor of y in the last layer of ``g_a`` and the first of ``g_s``.

    Raises:
        ValueError: the networks have other convolutions.
    """
    down = _convolutions(g_a)
    up = [layer for layer in g_s.modules() if isinstance(layer, nn.ConvTranspose2d)][::-1]
    _check(down, up)
    for analysis, synthesis, matrix in zip(down, up, _steps(down), strict=True):
        outputs, inputs = matrix.shape[:2]
        for layer, rows in ((analysis, matrix / 2), (synthesis, matrix * 2)):
            layer.weight.mul_(_RANDOM)
            layer.weight[:outputs, :inputs, TAPS, TAPS] += rows
            layer.get_parameter("bias").zero_()
    up[0].get_parameter("bias").fill_(_GREY)
    down[0].get_parameter("bias").copy_(-_GREY * down[0].weight.sum((1, 2, 3)))
    down[-1].weight.mul_(gain)
    up[-1].weight.div_(gain)


def _convolutions(g_a: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in g_a.modules() if isinstance(layer, nn.Conv2d)]


def _check(down: Sequence[nn.Conv2d], up: Sequence[nn.ConvTranspose2d]) -> None:
    shapes = [(layer.weight.shape, layer.stride) for layer in (*down, *up)]
    mirrored = len(down) == len(up) > 0 and shapes[: len(down)] == shapes[len(down) :]
    if not mirrored or any(shape[2:] != (5, 5) or stride != (2, 2) for shape, stride in shapes):
        found = ", ".join(f"{tuple(shape)} with stride {stride[0]}" for shape, stride in shapes)
        raise ValueError(f"klt: expected mirrored 5x5 convolutions of stride 2, got {found}")


def _steps(layers: Sequence[nn.Conv2d]) -> list[Tensor]:
    """Return the orthonormal rows of every step, (outputs, inputs, 2, 2), float32; at most as many as a layer has."""
    steps = []
    basis = torch.eye(3, dtype=torch.float64).reshape(3, 1, 1, 3)  # (components, rows, columns, colours) of a block
    for layer in layers:
        inputs, side = basis.shape[:2]
        blocks = torch.zeros(2, 2, inputs, 2, side, 2, side, 3, dtype=torch.float64)
        for row in range(2):
            for column in range(2):
                blocks[row, column, :, row, :, column] = basis
        flat = blocks.reshape(4 * inputs, -1)
        _, vectors = torch.linalg.eigh(flat @ _covariance(2 * side) @ flat.T)
        rows = vectors.flip(1).T[: layer.out_channels]
        rows = rows * torch.where(rows.sum(1) < 0, -1.0, 1.0)[:, None]  # the sign of an eigenvector is arbitrary
        steps.append(rows.reshape(-1, 2, 2, inputs).permute(0, 3, 1, 2).float())
        basis = (rows @ flat).reshape(-1, 2 * side, 2 * side, 3)
    return steps


def _covariance(side: int) -> Tensor:
    """Return the covariance of the values of a block, ordered by row, column and colour, float64."""
    place = torch.arange(side, dtype=torch.float64)
    squares = (place[:, None] - place) ** 2
    distance = (_ROWS * squares[:, None, :, None] + squares[None, :, None, :]).sqrt().reshape(side**2, side**2)
    to_rgb = torch.linalg.inv(torch.tensor(_YCBCR, dtype=torch.float64))
    colours = to_rgb @ torch.tensor(_VARIANCES, dtype=torch.float64).diag() @ to_rgb.T
    return torch.kron(_CORRELATION**distance, colours)
