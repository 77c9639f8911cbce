"""Convolutions in float64 that take less time on a CPU than PyTorch's, which have no float64 kernels of their own.

PyTorch unfolds the map and multiplies matrices, for depthwise convolutions one channel after another. Here depthwise
convolutions add one product per tap, and 3x3 convolutions of larger maps use the minimal filtering F(2x2, 3x3) of
Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.1: 16 products instead of 36.
Results differ from PyTorch's by less than 1e-13 for outputs of about 1, far less than the margin of close calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

# Size of the map and of the filters from which minimal filtering is faster.
LEAST_POSITIONS, LEAST_CHANNELS = 24 * 24, 96


class Float64Kernels(TorchFunctionMode):
    """Context in which `conv2d` replaces ``torch.conv2d``.

    PyTorch's convolution remains in exported and compiled graphs, and where gradients are computed.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``function``, or `conv2d` in its place."""
        traced = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
        if function is torch.conv2d and not (traced or torch.is_grad_enabled()):
            function = conv2d
        return function(*args, **(kwargs or {}))


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """Return ``torch.conv2d`` of x (B, C, h, w), by one of the methods above where it applies."""
    outputs, _, height, width = weight.shape
    same = {*_pair(stride), *_pair(dilation)} == {1} and height % 2 == 1 and _pair(padding) == (height // 2,) * 2
    if x.dtype == torch.float64 and x.device.type == "cpu" and x.ndim == 4 and height == width and same:
        if groups == x.shape[1] == outputs:
            return _depthwise(x, weight, bias)
        is_large = x.shape[2] * x.shape[3] >= LEAST_POSITIONS and x.shape[1] >= LEAST_CHANNELS
        if groups == 1 and height == 3 and is_large:
            return _minimal_filtering(x, weight, bias)
    return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve x (B, C, h, w) with ``weight`` (C, 1, k, k), channel by channel."""
    height, width = x.shape[2:]
    size = weight.shape[2]
    padded = F.pad(x, [size // 2] * 4)
    out = torch.zeros_like(x) if bias is None else bias.view(-1, 1, 1).expand_as(x).clone()
    for row in range(size):
        for column in range(size):
            tap = weight[:, :, row, column].unsqueeze(2)
            out.addcmul_(padded[:, :, row : row + height, column : column + width], tap)
    return out


def _minimal_filtering(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve x (B, C, h, w) with ``weight`` (C', C, 3, 3) in tiles of 2x2 outputs and 4x4 inputs."""
    batch, channels, height, width = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    padded = F.pad(x, [1, 1 + width % 2, 1, 1 + height % 2])
    tiles = x.new_empty(4, 4, batch, channels, rows, columns)
    for line, target in zip(_of_inputs([padded[:, :, i : i + 2 * rows - 1 : 2] for i in range(4)]), tiles, strict=True):
        _of_inputs([line[..., i : i + 2 * columns - 1 : 2] for i in range(4)], target)
    kernel = weight.new_tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
    filters = (torch.kron(kernel, kernel) @ weight.flatten(2).flatten(0, 1).t()).view(16, 1, -1, channels)
    products = (filters @ tiles.view(16, batch, channels, -1)).view(4, 4, batch, -1, rows, columns)
    out = x.new_empty(batch, len(weight), rows, 2, columns, 2)
    for i, line in enumerate(_of_outputs(products)):
        for j, values in enumerate(_of_outputs(line)):
            out[:, :, :, i, :, j] = values
    out = out.view(batch, -1, 2 * rows, 2 * columns)[:, :, :height, :width]
    return out.contiguous() if bias is None else out + bias.view(-1, 1, 1)


def _of_inputs(parts: Sequence[Tensor], out: Sequence[Tensor | None] = (None,) * 4) -> list[Tensor]:
    """Transform the four inputs of a tile along one axis."""
    a, b, c, d = parts
    return [
        torch.sub(a, c, out=out[0]),
        torch.add(b, c, out=out[1]),
        torch.sub(c, b, out=out[2]),
        torch.sub(b, d, out=out[3]),
    ]


def _of_outputs(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Transform the four products of a tile along one axis to two outputs."""
    a, b, c, d = parts
    return (a + b).add_(c), (b - c).sub_(d)
