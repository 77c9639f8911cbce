"""Panels (original, reconstruction, error and bits of an image in one PNG), and maps of error and bits."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lic_train.rd.metrics import to_8bit
from lic_train.system import atomic

_CELL_INCHES = 5.0  # longer side of each of the four images
_DPI = 140
_SHOWN = 8192  # side in pixels from which on a panel shows every second pixel
_GAINS = (1, 2, 5, 10, 20, 50, 100)
# The same scale for all images and codecs, so that maps can be compared.
ERROR_GAIN = 8
BITS_FULL_SCALE = 4.0  # bits per pixel


def panel(
    path: Path,
    x: Tensor,
    x_hat: Tensor,
    bits: Tensor,
    *,
    title: str,
    bpp: float,
    psnr: float,
    ms_ssim: float | None = None,
) -> None:
    """Draw the four images in one row, or in two rows of two if they are wide, and write them to ``path``.

    Args:
        path: a ``.png``; its directory must exist.
        x: original (3, H, W), RGB in [0, 1], on any device.
        x_hat: reconstruction, likewise.
        bits: (H, W) in bits per pixel, returned by `lic_train.rd.metrics.bits_map`.
        title: heading, for example the names of image and model.
        bpp: bits per pixel, shown above the reconstruction.
        psnr: in dB, shown above the reconstruction; infinity is shown as "equal".
        ms_ssim: in [0, 1], shown above the reconstruction unless it is None.
    """
    every = 1 + max(x.shape[1:]) // _SHOWN
    original, decoded = (_bytes(picture[:, ::every, ::every]) for picture in (x, x_hat))
    rows, columns = (2, 2) if x.shape[2] > x.shape[1] else (1, 4)
    figure = Figure(figsize=_figure_size(x.shape[1], x.shape[2], rows, columns), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = [figure.add_subplot(rows, columns, number) for number in range(1, 5)]
    for axis in axes:
        axis.set_axis_off()
    _show(axes[0], original, f"original, {x.shape[2]} × {x.shape[1]}")
    _show(axes[1], decoded, _caption(bpp, psnr, ms_ssim))
    error, gain = _amplified_error(original, decoded)
    _show(axes[2], error, f"absolute error × {gain}")
    shown = axes[3].imshow(bits[::every, ::every].cpu().numpy(), cmap="inferno", vmin=0)
    axes[3].set_title("estimated bits per pixel", fontsize=8)
    figure.colorbar(shown, cax=axes[3].inset_axes((1.02, 0, 0.03, 1)))
    canvas.print_png(path)


def save_error_map(path: Path, x: Tensor, x_hat: Tensor) -> None:
    """Write the absolute error of two images (3, H, W) in [0, 1], times `ERROR_GAIN`, as a PNG of the same size."""
    error = np.abs(_bytes(x).astype(np.int16) - _bytes(x_hat)) * ERROR_GAIN
    _save(path, np.minimum(error, 255).astype(np.uint8), f"absolute error of 8-bit RGB times {ERROR_GAIN}")


def save_bits_map(path: Path, bits: Tensor) -> None:
    """Write a map (H, W) of bits per pixel as a PNG of that size: 0 is black, `BITS_FULL_SCALE` the lightest colour."""
    shown = colormaps["inferno"](np.minimum(bits.cpu().numpy() / BITS_FULL_SCALE, 1))[..., :3]
    _save(path, (shown * 255).round().astype(np.uint8), f"estimated bits per pixel, 0 to {BITS_FULL_SCALE:g}")


def _save(path: Path, picture: np.ndarray, description: str) -> None:
    """Write (H, W, 3) uint8 with a description in the PNG's metadata."""
    about = PngInfo()
    about.add_text("Description", description)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", pnginfo=about)
    atomic.replace_bytes(path, file.getvalue())


def _bytes(x: Tensor) -> np.ndarray:
    """Return (3, H, W) in [0, 1] as (H, W, 3) uint8."""
    return to_8bit(x).byte().permute(1, 2, 0).cpu().numpy()


def _show(axis: Axes, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture, vmin=0, vmax=255)
    axis.set_title(title, fontsize=8)


def _caption(bpp: float, psnr: float, ms_ssim: float | None) -> str:
    quality = f"{psnr:.2f} dB" if math.isfinite(psnr) else "equal"
    return f"decoded, {bpp:.4f} bpp, PSNR {quality}" + ("" if ms_ssim is None else f", MS-SSIM {ms_ssim:.4f}")


def _amplified_error(original: np.ndarray, decoded: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the absolute error, amplified, and the gain: the largest that saturates at most 1 % of the values."""
    error = np.abs(original.astype(np.int16) - decoded)
    large = max(float(np.quantile(error, 0.99)), 1.0)
    gain = max(gain for gain in _GAINS if gain == 1 or gain * large <= 255)
    return np.minimum(error * gain, 255).astype(np.uint8), gain


def _figure_size(height: int, width: int, rows: int, columns: int) -> tuple[float, float]:
    """Return width and height in inches; cells of extreme shapes (1 x N) are wide enough for their titles."""
    scale = _CELL_INCHES / max(height, width)
    cell_width, cell_height = max(width * scale, 3.4), max(height * scale, 1.0)
    return columns * cell_width + 0.6, rows * (cell_height + 0.35) + 0.4
