"""Panels: arrangement of the four images and their pixels."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lic_train.evaluate.pictures import panel


def draw(path, height: int, width: int, x_hat=None, **options) -> np.ndarray:
    x = torch.zeros(3, height, width)
    x[0] = 1.0  # red original
    if x_hat is None:
        x_hat = torch.zeros_like(x)
        x_hat[2] = 1.0  # blue reconstruction
    bits = torch.zeros(height, width)
    bits[: height // 2] = 2.0
    values = {"title": "a [bold] title", "bpp": 0.25, "psnr": 31.5, "ms_ssim": 0.97} | options
    panel(path, x, x_hat, bits, **values)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def centre_of(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return rows.mean() / mask.shape[0], columns.mean() / mask.shape[1]


def red_and_blue(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (image == (255, 0, 0)).all(axis=2), (image == (0, 0, 255)).all(axis=2)


def test_wide_images_are_arranged_two_by_two(tmp_path):
    image = draw(tmp_path / "wide.png", 40, 60)
    (top, left), (top_too, right) = map(centre_of, red_and_blue(image))
    assert top == pytest.approx(top_too, abs=0.02)
    assert top < 0.4
    assert left < 0.35
    assert right > 0.5


def test_high_images_are_arranged_in_a_row(tmp_path):
    image = draw(tmp_path / "high.png", 60, 40)
    (row, first), (row_too, second) = map(centre_of, red_and_blue(image))
    assert row == pytest.approx(row_too, abs=0.02)
    assert 0.4 < row < 0.65
    assert first < 0.25 < second < 0.5


def test_error_is_amplified_by_the_printed_factor(tmp_path):
    x_hat = torch.zeros(3, 40, 60)
    x_hat[0] = 1 - 10 / 255
    image = draw(tmp_path / "error.png", 40, 60, x_hat)
    # An error of 10 levels in red is shown 20 times as large.
    assert ((image == (200, 0, 0)).all(axis=2)).mean() > 0.1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1)])
def test_extreme_shapes_are_drawn(tmp_path, height, width):
    assert draw(tmp_path / "x.png", height, width, ms_ssim=None, psnr=float("inf")).size > 0


def test_no_global_figure_remains(tmp_path):
    draw(tmp_path / "x.png", 20, 20)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
