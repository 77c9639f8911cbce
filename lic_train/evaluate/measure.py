"""One picture through the real codec: estimate, encode, write, read back, decode elsewhere, compare, measure."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from lic_train import atomic, metrics
from lic_train.bitstream import decode, encode, estimate
from lic_train.models.base import Codec

# Two floats this close, 1/40 of an 8-bit step, may still fall on different sides of a rounding boundary.
FLOAT_ORDER = 1e-4


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
    decode_seconds: float
    equal: bool
    max_difference: float


class Measured(NamedTuple):
    """A row, and the pictures for a panel: x and x_hat (3, H, W) in [0, 1], bits (H, W) in bits per pixel."""

    row: Row
    x: Tensor
    x_hat: Tensor
    bits: Tensor


def measure(encoder: Codec, decoder: Codec, name: str, picture: Tensor, fingerprint: bytes, path: Path) -> Measured:
    """Write ``picture``, uint8 (3, H, W), as ``path``, read it back and measure what ``decoder`` makes of it.

    Both codecs are ready to code, on one device, and hold the same weights in separate objects.
    """
    device = next(encoder.parameters()).device
    x = picture.to(device).float().div(255)
    expected = estimate(encoder, x)
    began = time.perf_counter()
    data = encode(encoder, x, fingerprint)
    encoded = time.perf_counter()
    atomic.replace_bytes(path, data)
    data = path.read_bytes()
    read = time.perf_counter()
    x_hat = decode(decoder, data, fingerprint).cpu()
    decoded = time.perf_counter()
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
        encode_seconds=encoded - began,
        decode_seconds=decoded - read,
        equal=same_picture(reconstruction, x_hat),
        max_difference=float((reconstruction - x_hat).abs().max()),
    )
    bits = metrics.bits_map(expected.likelihoods, expected.padded)[:height, :width]
    return Measured(row, x, x_hat, bits)


def same_picture(a: Tensor, b: Tensor) -> bool:
    """Whether two float pictures are the same in 8 bits, where they differ by more than float order."""
    apart = metrics.to_8bit(a) != metrics.to_8bit(b)
    return not bool((apart & ((a - b).abs() > FLOAT_ORDER)).any())
