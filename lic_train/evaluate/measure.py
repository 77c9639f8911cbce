"""One picture through the real codec: estimate, encode, write, read back, decode elsewhere, compare, measure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lic_train.entropy.stopwatch import coding_time
from lic_train.files.bitstream import decode, encode, estimate
from lic_train.models.base import Codec
from lic_train.rd import metrics
from lic_train.system import atomic

# Two floats this close, 1/40 of an 8-bit step, may still fall on different sides of a rounding boundary.
FLOAT_ORDER = 1e-4
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One picture's results; `lic_train.evaluate.results.DEFINITIONS` says what each number means."""

    name: str
    width: int
    height: int
    bytes: int
    bpp_file: float
    bpp: float
    psnr: float
    ms_ssim: float | None
    encode_seconds: float
    encode_model_seconds: float
    encode_coding_seconds: float
    decode_seconds: float
    decode_model_seconds: float
    decode_coding_seconds: float
    io_seconds: float
    equal: bool
    max_difference: float


class Measured(NamedTuple):
    """A row, and the pictures for a panel: x and x_hat (3, H, W) in [0, 1], bits (H, W) in bits per pixel."""

    row: Row
    x: Tensor
    x_hat: Tensor
    bits: Tensor


class Seconds(NamedTuple):
    """Of one call: all of it, and its two parts."""

    total: float
    model: float
    coding: float


def measure(
    encoder: Codec, decoder: Codec, name: str, picture: Tensor, fingerprint: bytes, path: Path, repeats: int = 1
) -> Measured:
    """Write ``picture``, uint8 (3, H, W), as ``path``, read it back and measure what ``decoder`` makes of it.

    Both codecs are ready to code, on one device, and hold the same weights in separate objects. The forward pass for
    the estimate warms up; times are medians of ``repeats`` calls.
    """
    device = next(encoder.parameters()).device
    x = picture.to(device).float().div(255)
    expected = estimate(encoder, x)
    data, encoding = _timed(lambda: encode(encoder, x, fingerprint), repeats, device)
    began = time.perf_counter()
    atomic.replace_bytes(path, data)
    data = path.read_bytes()
    io_seconds = time.perf_counter() - began
    x_hat, decoding = _timed(lambda: decode(decoder, data, fingerprint).cpu(), repeats, device)
    x, reconstruction, (height, width) = x.cpu(), expected.x_hat.cpu(), picture.shape[1:]
    similarity = metrics.ms_ssim(x, x_hat)
    row = Row(
        name=name,
        width=width,
        height=height,
        bytes=len(data),
        bpp_file=8 * len(data) / (height * width),
        bpp=expected.bits / (height * width),
        psnr=float(metrics.psnr(x, x_hat)),
        ms_ssim=None if similarity is None else float(similarity),
        encode_seconds=encoding.total,
        encode_model_seconds=encoding.model,
        encode_coding_seconds=encoding.coding,
        decode_seconds=decoding.total,
        decode_model_seconds=decoding.model,
        decode_coding_seconds=decoding.coding,
        io_seconds=io_seconds,
        equal=same_picture(reconstruction, x_hat),
        max_difference=float((reconstruction - x_hat).abs().max()),
    )
    bits = metrics.bits_map(expected.likelihoods, expected.padded)[:height, :width]
    return Measured(row, x, x_hat, bits)


def same_picture(a: Tensor, b: Tensor) -> bool:
    """Whether two float pictures are the same in 8 bits, where they differ by more than float order."""
    apart = metrics.to_8bit(a) != metrics.to_8bit(b)
    return not bool((apart & ((a - b).abs() > FLOAT_ORDER)).any())


def _timed(act: Callable[[], T], repeats: int, device: torch.device) -> tuple[T, Seconds]:
    """The last result of ``repeats`` calls, and the medians of their times."""
    times = []
    for _ in range(repeats):
        _wait(device)
        began = time.perf_counter()
        with coding_time() as coding:
            result = act()
        _wait(device)
        total = time.perf_counter() - began
        times.append(Seconds(total, total - coding.seconds, coding.seconds))
    return result, Seconds(*(median(part) for part in zip(*times, strict=True)))


def _wait(device: torch.device) -> None:
    """Let a GPU finish what it was given, so that a clock read here means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
