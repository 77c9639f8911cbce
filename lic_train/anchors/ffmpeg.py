"""Video encoders of ffmpeg, each encoding one picture as one intra frame."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lic_train.anchors import ycbcr
from lic_train.errors import AnchorError
from lic_train.system.screen import reason

_QUIET = ["-hide_banner", "-nostats"]
_WARNINGS = ["-loglevel", "warning"]
_RANGE = ["-color_range", "pc", "-colorspace", "bt709"]  # stored in the file, so that players show the right colours
_LAST_OUTPUT = 600  # characters of ffmpeg's error output in a message
_STREAM = re.compile(r"Stream #0:0.*: Video: \w+.*?, (?P<pixel_format>[a-z0-9]+)[(,]")


@dataclass(frozen=True)
class FfmpegAnchor:
    """An encoder of ffmpeg. `lic_train.anchors.codecs.Anchor` documents the other attributes.

    Attributes:
        encoder: ffmpeg's name of the encoder.
        muxer: ffmpeg's name of the raw bitstream without a container.
        pixel_format: input format, which the file must have too; one of `ycbcr.CHROMA`.
        options: options of the encoder, with ``{rate}`` for the rate.
        library: regular expression that finds the version of the encoder in ffmpeg's output.
    """

    key: str
    name: str
    encoder: str
    muxer: str
    suffix: str
    parameter: str
    rates: tuple[int, ...]
    pixel_format: str
    options: str
    library: str

    @property
    def chroma(self) -> str:
        """Chroma format of the pixel format."""
        return ycbcr.CHROMA[self.pixel_format]

    @property
    def colour(self) -> str:
        """Description of the colour conversion."""
        return ycbcr.COLOUR + (f"; {ycbcr.SUBSAMPLED}" if self.chroma == "4:2:0" else "")

    @property
    def command(self) -> str:
        """The command line that writes a file, with ``{rate}`` for the rate."""
        return " ".join(["ffmpeg", *self._arguments("{width}x{height}"), f"picture{self.suffix}"])

    def require(self) -> str:
        """Return the versions of the encoder and of ffmpeg; raise AnchorError if ffmpeg lacks the encoder."""
        listed = _run([*_QUIET, "-encoders"]).stdout.decode()
        if not re.search(rf"\b{self.encoder}\b", listed):
            raise AnchorError(
                f"The encoder {self.encoder} is missing.",
                expected=f"ffmpeg with {self.encoder}",
                got="ffmpeg built without it",
                to_do="install imageio-ffmpeg>=0.8.1",
            )
        black = ycbcr.to_planes(np.zeros((64, 64, 3), np.uint8), self.pixel_format)
        arguments = [*self._arguments("64x64", self.rates[0])[:-1], "null", "-loglevel", "verbose", "-"]
        library = re.search(self.library, _run(arguments, black).stderr.decode(errors="replace"))
        ffmpeg = _run(["-version"]).stdout.decode().splitlines()[0].partition(" Copyright")[0]
        return f"{self.encoder} {library[1] if library else 'of unknown version'}, {ffmpeg}"

    def encode(self, picture: np.ndarray, rate: int, path: Path) -> None:
        """Write ``picture`` to ``path``; raise AnchorError if ffmpeg fails."""
        height, width = picture.shape[:2]
        planes = ycbcr.to_planes(picture, self.pixel_format)
        if self.chroma == "4:2:0":
            height, width = height + height % 2, width + width % 2
        _run([*_WARNINGS, *self._arguments(f"{width}x{height}", rate), str(path)], planes)

    def decode(self, path: Path, height: int, width: int) -> np.ndarray:
        """Decode the file; raise AnchorError if ffmpeg fails or pixel format or size differ."""
        done = _run([*_QUIET, "-i", str(path), "-f", "rawvideo", "-"])
        stream = _STREAM.search(done.stderr.decode(errors="replace"))
        if (found := stream["pixel_format"] if stream else "nothing") != self.pixel_format:
            raise AnchorError(f"{self.encoder} wrote another pixel format.", expected=self.pixel_format, got=found)
        try:
            return ycbcr.from_planes(done.stdout, self.pixel_format, height, width)
        except ValueError as error:
            raise AnchorError(
                f"{self.encoder} decoded a picture of another size.",
                expected=f"one frame of {width} x {height}",
                got=f"{len(done.stdout)} bytes",
            ) from error

    def _arguments(self, size: str, rate: int | str = "{rate}") -> list[str]:
        source = ["-f", "rawvideo", "-pix_fmt", self.pixel_format, "-s", size, *_RANGE, "-i", "-"]
        options = self.options.replace("{rate}", str(rate)).split()
        return [*_QUIET, *source, "-frames:v", "1", "-c:v", self.encoder, *options, "-threads", "1", "-f", self.muxer]


def _run(arguments: list[str], data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run ffmpeg on ``data``.

    Raises:
        AnchorError: ffmpeg is missing or failed; the message ends with the last part of its error output.
    """
    try:
        import imageio_ffmpeg  # an extra: only these codecs need it

        done = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *arguments], input=data, capture_output=True)
    except (ImportError, OSError, RuntimeError) as error:
        raise AnchorError(
            "ffmpeg is missing.",
            expected="the package imageio-ffmpeg",
            got=reason(error),
            to_do="install imageio-ffmpeg>=0.8.1",
        ) from error
    if done.returncode:
        output = done.stderr.decode(errors="replace")[-_LAST_OUTPUT:].strip()
        raise AnchorError(f"ffmpeg ended with exit status {done.returncode}.", got=output)
    return done
