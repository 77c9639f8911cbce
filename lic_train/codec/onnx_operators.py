"""Functions of PyTorch as ONNX operators that onnxruntime implements in float64 on CPUs.

It has no float64 convolution, LeakyReLU and Softplus; here they are matrix products, maxima and logarithms. The error
function (GELU), which it does not implement either, has no replacement. Importing this module needs onnxscript.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx import TensorProto
from onnx.helper import make_tensor
from onnxscript import opset18

op: Any = opset18  # its annotations exclude the lists of numbers that it accepts
_LAST = 2**63 - 1  # as the end of a slice: up to the last element

Ints = Sequence[int]


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Ints = (1, 1),
    padding: Ints = (0, 0),
    dilation: Ints = (1, 1),
    groups: int = 1,
) -> Any:
    """Map x (B, C, h, w) and weight (C', C, k, k) to (B, C', h', w')."""
    return convolution(x, weight, bias, stride, padding, dilation, False, (0, 0), groups)


def convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
) -> Any:
    """Return the convolution of `conv2d`, or the transposed one with weight (C, C', k, k).

    Raises:
        NotImplementedError: there are groups, dilation, or a transposed convolution with different strides.
    """
    if groups != 1 or set(dilation) != {1} or (transposed and stride[0] != stride[1]):
        raise NotImplementedError("float64 convolutions with groups, dilation or a different stride of each axis")
    if transposed:
        return _transposed(x, weight, bias, stride[0], padding, output_padding)
    matrix = op.Reshape(op.Transpose(weight, perm=[2, 3, 1, 0]), [-1, weight.shape[0]])
    return _product(op.Pad(x, [0, 0, *padding, 0, 0, *padding]), matrix, weight.shape[2:], bias, stride)


def _transposed(x: Any, weight: Any, bias: Any, stride: int, padding: Ints, output_padding: Ints) -> Any:
    """Convolve the input, with zeros inserted between its elements, with the mirrored kernel."""
    (inputs, outputs), kernel = weight.shape[:2], weight.shape[2:]
    if stride > 1:
        x = op.DepthToSpace(op.Pad(x, [0, 0, 0, 0, 0, inputs * (stride**2 - 1), 0, 0]), blocksize=stride)
    begins = [side - 1 - pad for side, pad in zip(kernel, padding, strict=True)]
    # The zeros after the last element are part of the padding.
    ends = [begin + more - (stride - 1) for begin, more in zip(begins, output_padding, strict=True)]
    mirrored = op.Slice(weight, [-1, -1], [-_LAST, -_LAST], [2, 3], [-1, -1])
    matrix = op.Reshape(op.Transpose(mirrored, perm=[2, 3, 0, 1]), [-1, outputs])
    return _product(op.Pad(x, [0, 0, *begins, 0, 0, *ends]), matrix, kernel, bias, (1, 1))


def _product(padded: Any, matrix: Any, kernel: Ints, bias: Any, stride: Ints) -> Any:
    """Return the product of the slices of a padded map and a matrix (k * k * C, C')."""
    slices = []
    for tap in itertools.product(*map(range, kernel)):
        # Counted from the end, so that all slices have the same size.
        ends = [start + 1 - side or _LAST for start, side in zip(tap, kernel, strict=True)]
        slices.append(op.Slice(padded, list(tap), ends, [2, 3], list(stride)))
    values = op.MatMul(op.Transpose(op.Concat(*slices, axis=1), perm=[0, 2, 3, 1]), matrix)
    return op.Transpose(values if bias is None else op.Add(values, bias), perm=[0, 3, 1, 2])


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """Return ``max(x, negative_slope * x)``."""
    return op.Max(x, op.Mul(x, _float64(negative_slope)))


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Return ``log(1 + exp(beta * x)) / beta`` without overflow; x itself above the threshold, as in PyTorch."""
    scaled = op.Mul(x, _float64(beta))
    logarithm = op.Log(op.Add(op.Exp(op.Neg(op.Abs(scaled))), _float64(1)))
    soft = op.Div(op.Add(op.Max(scaled, _float64(0)), logarithm), _float64(beta))
    return op.Where(op.Greater(scaled, _float64(threshold)), x, soft)


def _float64(value: float) -> Any:
    return op.Constant(value=make_tensor("value", TensorProto.DOUBLE, [], [value]))


# For ``custom_translation_table`` of `torch.onnx.export`.
FLOAT64: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.conv2d.default: conv2d,
    torch.ops.aten.convolution.default: convolution,
    torch.ops.aten.leaky_relu.default: leaky_relu,
    torch.ops.aten.softplus.default: softplus,
}
