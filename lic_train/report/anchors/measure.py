"""One picture through one codec at one rate: a real file, decoded by a separate call; and rows kept for a restart."""

from __future__ import annotations

import json
import math
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lic_train import metrics
from lic_train.report.anchors.codecs import Anchor


@dataclass(frozen=True)
class Row:
    """One picture at one rate.

    Attributes:
        name: of the picture, as evaluation names it.
        bytes: of the whole file.
        bpp: ``8 * bytes / (height * width)``.
        psnr: dB, 8-bit RGB; None if the picture came back unchanged.
        ms_ssim: at most 1; None if a side is too short for it.
        encode_seconds: from the pixels in memory to the closed file, start of a process and colour included.
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

    Raises:
        AnchorError: the codec failed.
    """
    height, width = picture.shape[1:]
    with tempfile.TemporaryDirectory(prefix="lic_train_") as folder:
        path = Path(folder) / f"picture{anchor.suffix}"
        began = time.perf_counter()
        anchor.encode(picture.permute(1, 2, 0).contiguous().numpy(), rate, path)
        encoded = time.perf_counter()
        decoded = anchor.decode(path, height, width)
        ended = time.perf_counter()
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


class Rows:
    """Finished rows in a file of JSON lines, each under a key that says what it depends on; safe for threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._rows: dict[str, Row] = {}
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
            self._read(line)

    def get(self, key: str) -> Row | None:
        """The row of ``key``, if it was finished before."""
        return self._rows.get(key)

    def add(self, key: str, row: Row) -> None:
        """Keep a row, also through a kill of this process."""
        line = json.dumps({"key": key, "row": asdict(row)}, ensure_ascii=False)
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")  # the first line break ends what a killed process may have begun
            self._rows[key] = row

    def _read(self, line: str) -> None:
        try:
            content = json.loads(line)
            self._rows[content["key"]] = Row(**content["row"])
        except (ValueError, TypeError, KeyError):
            return  # empty, or half a line: that row is measured again
