"""Measure one picture with one codec at one rate: write a real file, decode it by a separate call, compare."""

from __future__ import annotations

import math
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lic_train.anchors.codecs import Anchor
from lic_train.rd import metrics


@dataclass(frozen=True)
class Row:
    """One picture at one rate.

    Attributes:
        name: name of the picture, as in evaluation results.
        bytes: size of the whole file.
        bpp: ``8 * bytes / (height * width)``.
        psnr: PSNR in dB, 8-bit RGB; None if the decoded picture is exact.
        ms_ssim: MS-SSIM, at most 1; None if a side is too short.
        encode_seconds: CPU time of all threads from the pixels in memory to the closed file, including the colour
            conversion and the start of ffmpeg.
        decode_seconds: CPU time from the file to the pixels.
    """

    name: str
    bytes: int
    bpp: float
    psnr: float | None
    ms_ssim: float | None
    encode_seconds: float
    decode_seconds: float


def measure(anchor: Anchor, rate: int, name: str, picture: Tensor) -> Row:
    """Encode a picture to a file, decode the file and compare.

    The CPU time of the whole process is measured, so nothing else may run in it meanwhile.

    Args:
        anchor: the codec.
        rate: value of its parameter.
        name: name of the picture.
        picture: uint8 (3, H, W).

    Raises:
        AnchorError: the codec failed.
    """
    height, width = picture.shape[1:]
    with tempfile.TemporaryDirectory(prefix="lic_train_") as folder:
        path = Path(folder) / f"picture{anchor.suffix}"
        began = _cpu_seconds()
        anchor.encode(picture.permute(1, 2, 0).contiguous().numpy(), rate, path)
        encoded = _cpu_seconds()
        decoded = anchor.decode(path, height, width)
        ended = _cpu_seconds()
        num_bytes = path.stat().st_size
    x, x_hat = picture / 255, torch.tensor(decoded).permute(2, 0, 1) / 255
    psnr, similarity = float(metrics.psnr(x, x_hat)), metrics.ms_ssim(x, x_hat)
    return Row(
        name=name,
        bytes=num_bytes,
        bpp=8 * num_bytes / (height * width),
        psnr=psnr if math.isfinite(psnr) else None,
        ms_ssim=None if similarity is None else float(similarity),
        encode_seconds=encoded - began,
        decode_seconds=ended - encoded,
    )


def _cpu_seconds() -> float:
    """Return the CPU time of all threads of this process and of its finished children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
