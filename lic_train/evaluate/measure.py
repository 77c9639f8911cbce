"""Measurement of one image through the bitstream: encode, write, read, decode with a second model, compare."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lic_train.codec.image_codec import codable
from lic_train.entropy.stopwatch import coding_time
from lic_train.errors import BitstreamError
from lic_train.evaluate.definitions import FLOAT_ORDER
from lic_train.evaluate.protocol import HOUSE, Protocol
from lic_train.evaluate.results import Row, decibel, finite
from lic_train.files.bitstream import Estimate, decode, encode, estimate
from lic_train.models.base import Codec
from lic_train.rd import metrics
from lic_train.system import atomic

T = TypeVar("T")


class Measured(NamedTuple):
    """Row and images of one measurement: x and x_hat (3, H, W) in [0, 1]; bits (H, W) in bits per pixel."""

    row: Row
    x: Tensor
    x_hat: Tensor
    bits: Tensor


class Seconds(NamedTuple):
    """Duration of one call, and its two parts."""

    total: float
    model: float
    coding: float


class Coded(NamedTuple):
    """An image after coding, before the comparison, which needs the CPU only.

    Attributes:
        name: of the image.
        size: bytes of the file.
        x: the image (3, H, W) in [0, 1], on the CPU like the images below.
        reconstruction: of the encoder.
        x_hat: of the decoder.
        bits: bits per pixel (H, W).
        estimated: bits from the likelihoods.
        encoding: duration of encoding.
        decoding: duration of decoding.
        io_seconds: duration of writing and reading the file.
    """

    name: str
    size: int
    x: Tensor
    reconstruction: Tensor
    x_hat: Tensor
    bits: Tensor
    estimated: float
    encoding: Seconds
    decoding: Seconds
    io_seconds: float


def code(
    encoder: Codec,
    decoder: Codec,
    name: str,
    picture: Tensor,
    fingerprint: bytes,
    path: Path,
    repeats: int = 1,
    protocol: Protocol = HOUSE,
    level: float | None = None,
) -> Coded:
    """Encode an image to a file and decode the file with a second model.

    Args:
        encoder: ready to code. Its forward pass for the estimated rate is also the warm-up of the timing.
        decoder: another model with the same weights, on the same device.
        name: of the image, for its row.
        picture: uint8 (3, H, W).
        fingerprint: of the model, written to the file.
        path: the .lic file, which is replaced.
        repeats: number of timed calls of the encoder and of the decoder; times are their medians.
        protocol: padding, tiles and kind of PSNR.
        level: of a variable rate.

    Raises:
        BitstreamError: the estimated rate is not finite.
        CheckpointError: the model's coding tables are stale.
        ConfigError: the protocol does not fit the model.
        PictureError: the picture has too many pixels to be coded as a whole.
    """
    device = next(encoder.parameters()).device
    x = picture.to(device).float().div(255)
    padded = protocol.pad(x, encoder.downsampling_factor)
    with codable():
        expected = estimate(encoder, padded.x, protocol.tile, level=level)
    estimated = _finite_bits(name, expected)
    data, encoding = _timed(lambda: encode(encoder, padded.x, fingerprint, protocol.tile, level=level), repeats, device)
    began = time.perf_counter()
    atomic.replace_bytes(path, data)
    data = path.read_bytes()
    io_seconds = time.perf_counter() - began
    x_hat, decoding = _timed(lambda: decode(decoder, data, fingerprint).cpu(), repeats, device)
    return Coded(
        name=name,
        size=len(data),
        x=x.cpu(),
        reconstruction=padded.crop(expected.x_hat.cpu()),
        x_hat=padded.crop(x_hat),
        bits=padded.crop(expected.bits_map()),
        estimated=estimated,
        encoding=encoding,
        decoding=decoding,
        io_seconds=io_seconds,
    )


def compare(coded: Coded, protocol: Protocol = HOUSE) -> Measured:
    """Compute quality and rate on the CPU, and compare the decoded image with the encoder's reconstruction."""
    x, x_hat = coded.x, coded.x_hat
    height, width = x.shape[1:]
    similarity = metrics.ms_ssim(x, x_hat)
    ms_ssim = None if similarity is None else finite(float(similarity))
    row = Row(
        name=coded.name,
        width=width,
        height=height,
        bytes=coded.size,
        bpp_file=8 * coded.size / (height * width),
        bpp=coded.estimated / (height * width),
        psnr=finite(float(metrics.psnr(x, x_hat, rounded=protocol.psnr == "uint8"))),
        ms_ssim=ms_ssim,
        ms_ssim_db=decibel(ms_ssim),
        encode_seconds=coded.encoding.total,
        encode_model_seconds=coded.encoding.model,
        encode_coding_seconds=coded.encoding.coding,
        decode_seconds=coded.decoding.total,
        decode_model_seconds=coded.decoding.model,
        decode_coding_seconds=coded.decoding.coding,
        io_seconds=coded.io_seconds,
        equal=same_picture(coded.reconstruction, x_hat),
        max_difference=finite(float((coded.reconstruction - x_hat).abs().max())),
    )
    return Measured(row, x, x_hat, coded.bits)


def same_picture(a: Tensor, b: Tensor) -> bool:
    """Return whether two float images are equal in 8 bits; differences of at most `FLOAT_ORDER` are ignored."""
    apart = metrics.to_8bit(a) != metrics.to_8bit(b)
    return not bool((apart & ((a - b).abs() > FLOAT_ORDER)).any())


def _finite_bits(name: str, expected: Estimate) -> float:
    bits = expected.bits
    if math.isfinite(bits):
        return bits
    raise BitstreamError(
        f"The estimated rate of {name} is not finite.",
        expected="a finite number of bits from the model's likelihoods",
        got=str(bits),
        to_do="evaluate an earlier checkpoint; the training has diverged",
    )


def _timed(act: Callable[[], T], repeats: int, device: torch.device) -> tuple[T, Seconds]:
    """Call ``act`` ``repeats`` times. Returns the last result, and the medians of the durations."""
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
    """Wait until a GPU has finished, so that the clock measures completed work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
