"""Distortion and rate as the literature reports them: pure functions of tensors.

Pictures are RGB in [0, 1] of shape (3, H, W) or (B, 3, H, W). Results have one value per picture, shape () or (B,).
Average over pictures last: the mean of PSNRs is not the PSNR of the mean error.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pytorch_msssim.ssim import _fspecial_gauss_1d, _ssim
from torch import Tensor

_TAPS = 11
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales
# The smallest of five scales must contain the 11-tap window.
MS_SSIM_MIN_SIDE = 161
# Pixels for which similarities are computed at once: they take 15 times the memory of the pictures.
_STRIP = 2**24


def to_8bit(x: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the integers 0..255 of a PNG, as float32, for any shape."""
    return x.float().clamp(0, 1).mul(255).round()


def psnr(x: Tensor, x_hat: Tensor, rounded: bool = True) -> Tensor:
    """Return the peak signal-to-noise ratio of the 8-bit pictures in dB, one value per picture.

    The mean square error is over all pixels and channels; the PSNR of equal pictures is infinite. Without ``rounded``,
    the pictures are clamped but not rounded to 8 bits.
    """
    pair = [to_8bit(picture) if rounded else picture.float().clamp(0, 1) * 255 for picture in (x, x_hat)]
    mse = (pair[0] - pair[1]).square().mean(dim=(-3, -2, -1))
    return 10 * torch.log10(255**2 / mse)


def ms_ssim(x: Tensor, x_hat: Tensor) -> Tensor | None:
    """Return the multi-scale structural similarity of the 8-bit pictures, at most 1 (Wang et al. 2003).

    Five scales, 11-tap Gaussian windows without padding, mean of R, G and B. One value per picture, or None if a side
    has fewer than 161 pixels. Pictures of more than 2^24 pixels are processed in strips.
    """
    if min(x.shape[-2:]) < MS_SSIM_MIN_SIDE:
        return None
    a, b = (to_8bit(picture if picture.dim() == 4 else picture[None]) for picture in (x, x_hat))
    similarities = []
    for _ in _WEIGHTS[1:]:
        similarities.append(_similarities(a, b)[1])
        odd = [side % 2 for side in a.shape[2:]]
        a, b = (F.avg_pool2d(picture, 2, padding=odd) for picture in (a, b))
    similarities.append(_similarities(a, b)[0])
    weights = a.new_tensor(_WEIGHTS).view(-1, 1, 1)
    values = (torch.stack(similarities).relu() ** weights).prod(dim=0).mean(dim=1)
    return values if x.dim() == 4 else values[0]


def _similarities(a: Tensor, b: Tensor) -> Tensor:
    """Return structural similarity and its contrast and structure part (2, B, C) of one scale, means over pixels."""
    window = _fspecial_gauss_1d(_TAPS, 1.5).repeat(a.shape[1], 1, 1, 1)
    rows = a.shape[2] - _TAPS + 1
    step = max(_STRIP // a.shape[3], 1)
    means = torch.zeros(2, *a.shape[:2], device=a.device)
    for top in range(0, rows, step):
        count = min(step, rows - top)
        strip = slice(top, top + count + _TAPS - 1)
        parts = _ssim(a[:, :, strip], b[:, :, strip], data_range=255, win=window, size_average=False)
        means += torch.stack(parts) * (count / rows)
    return means


def ms_ssim_db(value: Tensor) -> Tensor:
    """Return ``-10 log10(1 - MS-SSIM)`` in dB; infinite for 1."""
    return -10 * torch.log10(1 - value)


def bpp(likelihoods: Mapping[str, Tensor], num_pixels: int) -> Tensor:
    """Return the estimated bits per pixel, a scalar: the sum of ``-log2`` of all likelihoods over ``num_pixels``.

    Args:
        likelihoods: tensors of any shape.
        num_pixels: pixels of the whole batch without padding, B*H*W.
    """
    return torch.stack([_bits(likelihood).sum() for likelihood in likelihoods.values()]).sum() / num_pixels


def bits_map(likelihoods: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
    """Return the bit allocation of one picture: each latent's bits, spread evenly over the pixels that it covers.

    Args:
        likelihoods: tensors (1, C, h, w) whose h and w divide H and W.
        size: (H, W) of the padded picture.

    Returns:
        (H, W) in bits per pixel; its sum is the total number of bits.

    Raises:
        ValueError: a latent has a batch size other than 1, or its sides do not divide ``size``.
    """
    height, width = size
    total = torch.zeros(size)
    for name, likelihood in likelihoods.items():
        batch, _, rows, columns = likelihood.shape
        if batch != 1 or height % rows or width % columns:
            raise ValueError(
                f"{name}: expected (1, C, h, w) with h, w dividing {height}x{width}, got {tuple(likelihood.shape)}"
            )
        step_y, step_x = height // rows, width // columns
        bits = _bits(likelihood[0]).sum(dim=0).cpu() / (step_y * step_x)
        total += bits.repeat_interleave(step_y, dim=0).repeat_interleave(step_x, dim=1)
    return total


def _bits(likelihood: Tensor) -> Tensor:
    return -torch.log2(likelihood.float())
