"""Conversion of bytes to floats: exact division, mirroring, and memory format."""

from __future__ import annotations

import pytest
import torch

from lic_train.data.stream.on_device import to_floats


@pytest.mark.parametrize("source", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("target", [torch.contiguous_format, torch.channels_last])
def test_pixels_are_divided_mirrored_and_in_the_memory_format(source, target):
    x = torch.arange(4 * 3 * 16 * 16).reshape(4, 3, 16, 16).to(torch.uint8)  # all 256 values
    flip = torch.tensor([False, True, True, False])
    got = to_floats(x.to(memory_format=source), flip, target)
    rows = [row.flip(-1) if mirror else row for row, mirror in zip(x, flip, strict=True)]
    expected = torch.stack(rows).float() / 255
    assert torch.equal(got, expected)
    assert got.is_contiguous(memory_format=target)


def test_empty_batch():
    assert to_floats(torch.empty(0, 3, 8, 8, dtype=torch.uint8), torch.empty(0, dtype=torch.bool)).shape == (0, 3, 8, 8)
