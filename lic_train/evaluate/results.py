"""The evaluation of one model on one set, as data: ``eval/<set>.json``."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lic_train import atomic
from lic_train.checkpoint import Metadata
from lic_train.evaluate.measure import FLOAT_ORDER, Row
from lic_train.metrics import MS_SSIM_MIN_SIDE

FORMAT = 1
AVERAGED = ("bytes", "bpp_file", "bpp", "psnr", "ms_ssim", "encode_seconds", "decode_seconds")
DEFINITIONS = {
    "bpp_file": "8 * bytes of the .lic file / (width * height), header and checksum included; true pixels, no padding",
    "bpp": "estimate: sum of -log2 of all likelihoods of the padded picture / (width * height)",
    "psnr": "dB, of 8-bit rounded and clamped RGB, error over all pixels and channels of one picture; null if equal",
    "ms_ssim": f"pytorch-msssim, 5 scales, 8-bit rounded RGB; null if a side is below {MS_SSIM_MIN_SIDE} pixels",
    "ms_ssim_db": "-10 log10(1 - ms_ssim); in the mean, of the mean ms_ssim",
    "encode_seconds": "picture in memory to bytes, after one forward pass of the same picture; padding included",
    "decode_seconds": "bytes to picture in the host's memory",
    "equal": "the picture decoded from the file by a second object is the encoder's reconstruction (forward in eval "
    f"mode) in 8 bits; samples that differ by at most {FLOAT_ORDER:g} of [0, 1] and only straddle a rounding boundary "
    "count as equal",
    "max_difference": "largest absolute difference of the same two pictures, as floats in [0, 1]",
    "mean": "arithmetic mean over the pictures of each number; null if it is null for one of them",
    "padding": "replicate, bottom and right, to multiples of the model's factor",
    "image_list_sha256": "over name, height, width and RGB bytes of every picture, in order",
    "fingerprint": "first 8 bytes of SHA-256 over the model's configuration and weights; it is in every .lic file",
}


class ImageListHash:
    """SHA-256 over names and pixels, so that two results are known to be of the same pictures."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, picture: Tensor) -> None:
        """Take in one picture, uint8 (3, H, W)."""
        self._digest.update(f"{name}\0{picture.shape[1]}\0{picture.shape[2]}\0".encode())
        self._digest.update(picture.permute(1, 2, 0).contiguous().numpy().data)

    def hexdigest(self) -> str:
        """The hash so far."""
        return self._digest.hexdigest()


def describe(metadata: Metadata) -> dict[str, Any]:
    """What a result says of its model: configuration, training, checkpoint file with SHA-256, fingerprint."""
    with metadata.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "model": metadata.config,
        "training": metadata.training,
        "checkpoint": {"file": "/".join(metadata.path.parts[-2:]), "sha256": digest},
        "fingerprint": metadata.fingerprint.hex(),
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Where the numbers were made."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: version(package) for package in ("compressai", "constriction", "pytorch-msssim")},
    }


def assemble(
    set_name: str, rows: Sequence[Row], info: dict[str, Any], image_list: ImageListHash, device: torch.device
) -> dict[str, Any]:
    """The content of the JSON file: plain values, no infinity, no NaN."""
    plain = [_plain(row) for row in rows]
    return {
        "format": FORMAT,
        "set": set_name,
        "images": len(rows),
        "image_list_sha256": image_list.hexdigest(),
        **info,
        "mean": _mean(plain),
        "rows": plain,
        "environment": environment(device),
        "definitions": DEFINITIONS,
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """Write the JSON file, all or nothing."""
    atomic.replace_bytes(path, (json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def decibel(ms_ssim: float | None) -> float | None:
    """MS-SSIM in dB; None for None and for 1."""
    return None if ms_ssim is None or ms_ssim >= 1 else -10 * math.log10(1 - ms_ssim)


def _plain(row: Row) -> dict[str, Any]:
    values = {name: _finite(value) for name, value in asdict(row).items()}
    return values | {"ms_ssim_db": decibel(row.ms_ssim)}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    mean: dict[str, Any] = {}
    for name in AVERAGED:
        values = [row[name] for row in rows]
        mean[name] = None if None in values else sum(values) / len(values)
    return mean | {"ms_ssim_db": decibel(mean["ms_ssim"]), "equal": all(row["equal"] for row in rows)}
