"""One picture through one codec at one rate: a real file, decoded by a separate call."""

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
        name: of the picture, as evaluation names it.
        bytes: of the whole file.
        bpp: ``8 * bytes / (height * width)``.
        psnr: dB, 8-bit RGB; None if the picture came back unchanged.
        ms_ssim: at most 1; None if a side is too short for it.
        encode_seconds: of processor time, from the pixels in memory to the closed file: colour, the start of ffmpeg and
            all threads included.
        decode_seconds: from the file to the pixels, likewise.
    """

    name: str
    bytes: int
    bpp: float
    psnr: float | None
    ms_ssim: float | None
    encode_seconds: float
    decode_seconds: float


def measure(anchor: Anchor, rate: int, name: str, picture: Tensor) -> Row:
    """Code ``picture``, uint8 (3, H, W), into a file, read that, and compare.

    Nothing else may run in this process meanwhile, for its processor time is taken.

    Raises:
        AnchorError: the codec failed.
    """
    height, width = picture.shape[1:]
    with tempfile.TemporaryDirectory(prefix="lic_train_") as folder:
        path = Path(folder) / f"picture{anchor.suffix}"
        began = _processor_seconds()
        anchor.encode(picture.permute(1, 2, 0).contiguous().numpy(), rate, path)
        encoded = _processor_seconds()
        decoded = anchor.decode(path, height, width)
        ended = _processor_seconds()
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


def _processor_seconds() -> float:
    """Of this process with all its threads, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
