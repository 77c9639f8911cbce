"""The eight anchors, tuned for PSNR, with rates from about 0.1 to 2 bits per pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from lic_train.anchors.ffmpeg import FfmpegAnchor
from lic_train.anchors.pillow import (
    PillowAnchor,
    avif_chroma,
    avif_library,
    built_in,
    jpeg_chroma,
    jxl_plugin,
)


class Anchor(Protocol):
    """A classical codec at several rates. Pictures are uint8 (H, W, 3), RGB."""

    @property
    def key(self) -> str:
        """Short and unique, for command lines and file names."""

    @property
    def name(self) -> str:
        """Name in legends."""

    @property
    def suffix(self) -> str:
        """File suffix, with the dot."""

    @property
    def parameter(self) -> str:
        """Name of the setting that determines the rate: "quality", "QP"."""

    @property
    def rates(self) -> tuple[int, ...]:
        """Values of the parameter, in the order of increasing rate."""

    @property
    def chroma(self) -> str:
        """Chroma format, "4:4:4" or "4:2:0"."""

    @property
    def colour(self) -> str:
        """Description of the colour conversion."""

    @property
    def command(self) -> str:
        """Exact command line or call that writes a file."""

    def require(self) -> str:
        """Return the version of the encoder; raise AnchorError if it is not installed."""

    def encode(self, picture: np.ndarray, rate: int, path: Path) -> None:
        """Write ``picture`` to the new file ``path``; raise AnchorError if the encoder fails."""

    def decode(self, path: Path, height: int, width: int) -> np.ndarray:
        """Decode the file; raise AnchorError if the decoder fails or the file has another chroma format or size."""


_JFIF = "YCbCr BT.601, full range, 8 bits, made and inverted inside the library"

_ANCHORS: tuple[Anchor, ...] = (
    PillowAnchor(
        key="jpeg",
        name="JPEG 4:4:4",
        format="JPEG",
        suffix=".jpg",
        parameter="quality",
        rates=(5, 10, 20, 35, 55, 75, 88),
        colour=_JFIF,
        chroma="4:4:4",
        library=built_in("libjpeg_turbo", "libjpeg-turbo"),
        options={"subsampling": 0, "optimize": True},
        at_rate=lambda rate: {"quality": rate},
        read_chroma=jpeg_chroma,
    ),
    PillowAnchor(
        key="jpeg2000",
        name="JPEG 2000",
        format="JPEG2000",
        suffix=".jp2",
        parameter="compression ratio",
        rates=(240, 120, 70, 40, 24, 16, 12),
        colour="irreversible colour transform of JPEG 2000 (mct=1; Pillow's default is none)",
        chroma="4:4:4",
        library=built_in("jpg_2000", "OpenJPEG"),
        options={"quality_mode": "rates", "irreversible": True, "mct": 1},
        at_rate=lambda rate: {"quality_layers": [rate]},
    ),
    PillowAnchor(
        key="webp",
        name="WebP",
        format="WEBP",
        suffix=".webp",
        parameter="quality",
        rates=(0, 10, 30, 55, 75, 87, 93),
        colour="YCbCr BT.601, limited range, 8 bits, chroma halved, all inside the library",
        chroma="4:2:0",
        library=built_in("webp", "libwebp"),
        options={"method": 6},
        at_rate=lambda rate: {"quality": rate},
    ),
    PillowAnchor(
        key="avif",
        name="AVIF 4:4:4",
        format="AVIF",
        suffix=".avif",
        parameter="quality",
        rates=(10, 20, 33, 46, 59, 70, 82),
        colour=_JFIF,
        chroma="4:4:4",
        library=avif_library,
        options={
            "codec": "aom",
            "speed": 4,
            "subsampling": "4:4:4",
            "range": "full",
            "max_threads": 1,
            "advanced": {"tune": "psnr"},
        },
        at_rate=lambda rate: {"quality": rate},
        read_chroma=avif_chroma,
    ),
    PillowAnchor(
        key="jxl",
        name="JPEG XL",
        format="JXL",
        suffix=".jxl",
        parameter="quality",
        rates=(1, 20, 40, 62, 78, 87, 93),
        colour="XYB, made and inverted inside the library",
        chroma="4:4:4",
        library=jxl_plugin,
        options={"effort": 7, "num_threads": 1},
        at_rate=lambda rate: {"quality": rate},
    ),
    FfmpegAnchor(
        key="hevc",
        name="HEVC intra 4:4:4 (x265, the engine of BPG)",
        encoder="libx265",
        muxer="hevc",
        suffix=".hevc",
        parameter="QP",
        rates=(46, 41, 37, 33, 29, 25, 21),
        pixel_format="yuv444p10le",
        options="-preset veryslow -tune psnr -x265-params qp={rate}:aq-mode=0:psy-rd=0:psy-rdoq=0:info=0:pools=none",
        library=r"HEVC encoder version (\S+)",
    ),
    FfmpegAnchor(
        key="av1",
        name="AV1 intra 4:4:4 (libaom)",
        encoder="libaom-av1",
        muxer="obu",
        suffix=".obu",
        parameter="CRF",
        rates=(57, 49, 41, 34, 26, 19, 12),
        pixel_format="yuv444p10le",
        options="-still-picture 1 -tune psnr -cpu-used 4 -crf {rate} -b:v 0",
        library=r"\[libaom-av1 [^]]*\] v(\S+)",
    ),
    FfmpegAnchor(
        key="vvc",
        name="VVC intra 4:2:0 10-bit (VVenC)",
        encoder="libvvenc",
        muxer="vvc",
        suffix=".vvc",
        parameter="QP",
        rates=(45, 40, 36, 31, 27, 23, 19),
        pixel_format="yuv420p10le",
        options="-preset medium -qpa 0 -qp {rate}",
        library=r"libvvenc version: (\S+)",
    ),
)

ANCHORS = {anchor.key: anchor for anchor in _ANCHORS}
