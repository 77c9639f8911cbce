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
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lic_train.evaluate.measure import FLOAT_ORDER, Row
from lic_train.files.checkpoint import Metadata
from lic_train.rd.metrics import MS_SSIM_MIN_SIDE
from lic_train.system import atomic

FORMAT = 2
SECONDS = (
    "encode_seconds",
    "encode_model_seconds",
    "encode_coding_seconds",
    "decode_seconds",
    "decode_model_seconds",
    "decode_coding_seconds",
    "io_seconds",
)
AVERAGED = ("bytes", "bpp_file", "bpp", "psnr", "ms_ssim", *SECONDS)
DEFINITIONS = {
    "bpp_file": "8 * bytes of the .lic file / (width * height), header and checksum included; true pixels, no padding",
    "bpp": "estimate: sum of -log2 of all likelihoods of the padded picture / (width * height)",
    "psnr": "dB, of 8-bit rounded and clamped RGB, error over all pixels and channels of one picture; null if equal",
    "ms_ssim": f"pytorch-msssim, 5 scales, 8-bit rounded RGB; null if a side is below {MS_SSIM_MIN_SIDE} pixels",
    "ms_ssim_db": "-10 log10(1 - ms_ssim); in the mean, of the mean ms_ssim",
    "encode_seconds": "picture in memory to bytes, padding included; all times are medians of environment.repeats "
    "calls, and a forward pass of the same picture goes before them as warm-up; environment.jobs processes of "
    "environment.threads threads ran beside each other",
    "decode_seconds": "bytes to picture in the host's memory",
    "encode_coding_seconds": "inside the entropy coder: tables of mixtures, symbols to bytes",
    "decode_coding_seconds": "inside the entropy coder: tables of mixtures, bytes to symbols",
    "encode_model_seconds": "all else of encode_seconds: the networks",
    "decode_model_seconds": "all else of decode_seconds: the networks",
    "io_seconds": "file written, brought to the disk, and read",
    "equal": "the picture decoded from the file by a second object is the encoder's reconstruction (forward in eval "
    f"mode) in 8 bits; samples that differ by at most {FLOAT_ORDER:g} of [0, 1] and only straddle a rounding boundary "
    "count as equal",
    "max_difference": "largest absolute difference of the same two pictures, as floats in [0, 1]",
    "mean": "arithmetic mean over the pictures of each number; null if it is null for one of them",
    "median": "over the pictures, of the times",
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
    set_name: str,
    rows: Sequence[dict[str, Any]],
    info: dict[str, Any],
    image_list: ImageListHash,
    environment: dict[str, Any],
) -> dict[str, Any]:
    """The content of the JSON file: plain values, no infinity, no NaN."""
    return {
        "format": FORMAT,
        "set": set_name,
        "images": len(rows),
        "image_list_sha256": image_list.hexdigest(),
        **info,
        "mean": _mean(rows),
        "median": {name: median(row[name] for row in rows) for name in SECONDS},
        "rows": rows,
        "environment": environment,
        "definitions": DEFINITIONS,
    }


def write(path: Path, result: dict[str, Any]) -> None:
    """Write the JSON file, all or nothing."""
    atomic.replace_bytes(path, (json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def decibel(ms_ssim: float | None) -> float | None:
    """MS-SSIM in dB; None for None and for 1."""
    return None if ms_ssim is None or ms_ssim >= 1 else -10 * math.log10(1 - ms_ssim)


def plain(row: Row) -> dict[str, Any]:
    """A row as it stands in JSON: no infinity, no NaN, and MS-SSIM in dB beside MS-SSIM."""
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
