"""Pictures in tiles: places, blending, files, estimates, evaluation, forged fields and memory."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lic_train.codec.__main__ import main
from lic_train.codec.load import load
from lic_train.data.decode.images import read_image, save_png
from lic_train.errors import BitstreamError, ConfigError, DataError
from lic_train.evaluate.bench import Settings
from lic_train.evaluate.protocol import Protocol
from lic_train.evaluate.run import evaluate_run
from lic_train.evaluate.sets import FolderImages
from lic_train.files.bitstream import decode, decode_8bit, encode, estimate
from lic_train.files.container import unpack
from lic_train.files.tiles import MAX_TILE_PIXELS, Grid, blended, plan
from lic_train.rd.metrics import to_8bit
from tests.test_bitstream import Average
from tests.tiny import FACTORIZED, HYPERPRIOR, make_codec, make_run, picture

FINGERPRINT = bytes(range(8))
# Ragged last tiles, one factor above a tile, exact tiles, one row of tiles, one pixel above a tile.
SIZES = [(70, 100, 32, 8), (48, 32, 32, 0), (48, 48, 32, 16), (64, 96, 32, 0), (9, 70, 32, 5), (33, 33, 32, 16)]


@pytest.fixture(scope="module")
def codec() -> Any:
    return make_codec(FACTORIZED)  # downsampling factor 16


def floats(height: int, width: int) -> Tensor:
    return picture(height, width).float() / 255


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_tiles_cover_the_picture_and_share_only_the_overlap(height: int, width: int, tile: int, overlap: int) -> None:
    grid = plan(height, width, 16, tile, overlap)
    boxes = list(grid.boxes())
    covered = np.zeros((height, width), int)
    for top, left, rows, columns in boxes:
        assert max(rows, columns) <= tile
        covered[top : top + rows, left : left + columns] += 1
    assert covered.min() == 1
    assert (grid.count, grid.first, grid.last) == (len(boxes), boxes[0], boxes[-1])
    tops, lefts = ({box[side] for box in boxes} for side in (0, 1))
    expected = (height + overlap * (len(tops) - 1)) * (width + overlap * (len(lefts) - 1))
    assert covered.sum() == expected


def test_default_tiles_only_pictures_that_are_too_large_for_the_networks() -> None:
    assert plan(4320, 7680, 256) == Grid(4320, 7680)
    assert plan(5824, 5824, 64).tile == 2048
    assert plan(1, 2**21, 64).count == 1 + (2**21 - 2048) // 2016 + 1  # padding to 64 rows counts
    assert plan(8000, 12000, 48).tile % 48 == 0
    assert plan(100, 100, 64, 128) == Grid(100, 100)  # one tile is the whole picture
    for grid in (plan(4320, 7680, 256), plan(10_000, 17_000, 64), plan(1, 2**28, 64)):
        height, width = grid.first[2:]
        assert (height + -height % 64) * (width + -width % 64) <= MAX_TILE_PIXELS


@pytest.mark.parametrize(
    ("size", "tile", "message"),
    [
        ((100, 100), 40, "a multiple of the model's downsampling factor 16, got 40"),
        ((100, 100), -16, "got -16"),
        ((6000, 6000), 0, "at most 33554432 pixels .padded., got 6000x6000; use tile=2048"),
        ((6000, 12000), 5888, "got 5888x5888; use tile=2048"),
        ((2**14, 2**14 + 1), None, "at most 268435456 pixels, got 16384x16385"),
    ],
)
def test_tiles_that_cannot_be_coded_are_refused(size: tuple[int, int], tile: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(*size, 16, tile)


# --- blending --------------------------------------------------------------------------------------------------------


def weights(grid: Grid, side: int, begin: int, length: int) -> Tensor:
    """Weight of a tile for each of its pixels along one side: triangular ramps over the overlaps."""
    place = torch.arange(begin, begin + length, dtype=torch.float64)
    v = grid.overlap
    rising = torch.ones(length) if begin == 0 else ((place - begin + 1) / (v + 1)).clamp(max=1)
    falling = torch.ones(length) if begin + length == side else ((begin + length - place) / (v + 1)).clamp(max=1)
    return rising.double() * falling


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_blending_is_the_weighted_sum_of_the_tiles(height: int, width: int, tile: int, overlap: int) -> None:
    grid = plan(height, width, 16, tile, overlap)
    tiles = [torch.rand(3, box.height, box.width) for box in grid.boxes()]
    total, found = torch.zeros(3, height, width, dtype=torch.float64), torch.full((3, height, width), torch.nan)
    for box, x in zip(grid.boxes(), tiles, strict=True):
        down, across = weights(grid, height, box.top, box.height), weights(grid, width, box.left, box.width)
        box.of(total).add_(x * down[:, None] * across)
    for box, part in blended(grid, tiles):
        assert box.of(found).isnan().all()  # parts do not overlap
        box.of(found).copy_(part)
    torch.testing.assert_close(found.double(), total, rtol=0, atol=1e-6)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_decoded_tiles_equal_the_estimate(codec: Any, height: int, width: int, tile: int, overlap: int) -> None:
    x = floats(height, width)
    data = encode(codec, x, FINGERPRINT, tile, overlap)
    x_hat, expected = decode(codec, data, FINGERPRINT), estimate(codec, x, tile, overlap)
    torch.testing.assert_close(x_hat, expected.x_hat, rtol=0, atol=1e-6)
    assert torch.equal(decode_8bit(codec, data, FINGERPRINT), to_8bit(x_hat).byte())
    assert encode(codec, picture(height, width), FINGERPRINT, tile, overlap) == data  # uint8 input


def test_every_tile_is_coded_as_a_picture_of_its_own(codec: Any) -> None:
    x = floats(70, 100)
    data = encode(codec, x, FINGERPRINT, 32, 0)
    header, tiles = unpack(data)
    assert (header.tile, header.overlap, len(tiles)) == (32, 0, 12)
    alone = [encode(codec, x[:, i : i + 32, j : j + 32], FINGERPRINT) for i in (0, 32, 64) for j in (0, 32, 64, 96)]
    assert [unpack(each)[1] for each in alone] == [[sections] for sections in tiles]
    decoded = [decode(codec, each, FINGERPRINT) for each in alone]
    rows = [torch.cat(decoded[i : i + 4], dim=2) for i in (0, 4, 8)]
    assert torch.equal(decode(codec, data, FINGERPRINT), torch.cat(rows, dim=1))


def test_tile_of_the_size_of_the_picture_changes_nothing(codec: Any) -> None:
    x = floats(40, 52)
    assert encode(codec, x, FINGERPRINT, 64) == encode(codec, x, FINGERPRINT, 0) == encode(codec, x, FINGERPRINT)


def test_bits_and_their_map_are_those_of_the_tiles() -> None:
    codec, x = make_codec(HYPERPRIOR), floats(128, 200)  # downsampling factor 64
    whole = estimate(codec, x, 64, 0)
    alone = [estimate(codec, x[:, i : i + 64, j : j + 64]) for i in (0, 64) for j in (0, 64, 128, 192)]
    assert whole.bits == pytest.approx(sum(each.bits for each in alone), rel=1e-6)
    rows = [torch.cat([each.bits_map() for each in alone[i : i + 4]], dim=1) for i in (0, 4)]
    torch.testing.assert_close(whole.bits_map(), torch.cat(rows))
    overlapping = estimate(codec, floats(112, 160), 64, 16)  # no padding: the map contains all bits
    assert float(overlapping.bits_map().sum()) == pytest.approx(overlapping.bits, rel=1e-5)
    data = encode(codec, x, FINGERPRINT, 64, 0)
    assert 8 * len(data) == pytest.approx(whole.bits, rel=0.5)


# --- hostile files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (16, 8, "cut short"),  # more tiles than lengths
        (64, 8, "after its end"),  # fewer
        (48, 8, "expected: latent_height 3, latent_width 3\ngot: latent_height 2"),  # as many
        (2**32 - 1, 8, "after its end"),
        (32, 32, "cut short"),
        (32, 2**16 - 1, "cut short"),
        (32, 7, "expected: pad_bottom 1, pad_right 1\ngot: pad_bottom 0"),
        (33, 9, "a multiple of the model's downsampling factor 16, got 33"),
        (0, 0, "after its end"),
    ],
)
def test_forged_tile_fields_raise_one_error(codec: Any, tile: int, overlap: int, message: str) -> None:
    changed = bytearray(encode(codec, floats(56, 56), FINGERPRINT, 32, 8)[:-4])
    struct.pack_into("<IH", changed, 33, tile, overlap)
    forged = bytes(changed) + struct.pack("<I", zlib.crc32(bytes(changed)))
    with pytest.raises(BitstreamError, match=message):
        decode(codec, forged, FINGERPRINT)


def test_every_changed_byte_of_a_file_with_tiles_raises(codec: Any) -> None:
    data = encode(codec, floats(40, 40), FINGERPRINT, 32, 8)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x41
        with pytest.raises(BitstreamError):
            decode(codec, bytes(changed), FINGERPRINT)


# --- memory ----------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Records the bytes of the largest floating-point tensor and of the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.floats = self.any = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                size = tensor.untyped_storage().nbytes()
                self.any = max(self.any, size)
                self.floats = max(self.floats, size if tensor.is_floating_point() else 0)
        return out


def test_memory_depends_on_the_tile_and_not_on_the_picture() -> None:
    x, sizes = picture(320, 400), []
    for rows in (160, 320):
        with Largest() as largest:
            data = encode(Average(), x[:, :rows], FINGERPRINT, 64)
            x_hat = decode_8bit(Average(), data, FINGERPRINT)
        sizes.append(largest.floats)
        assert x_hat.shape == (3, rows, 400)
        assert largest.any == max(3 * rows * 400, x.numel())  # the pictures, in 8 bits
    assert sizes[0] == sizes[1] <= 4 * 3 * 32 * 400  # the overlap with the next row of tiles


def test_picture_is_allocated_after_its_first_tile_has_been_decoded() -> None:
    class Broken(Average):
        def decompress(self, strings: Any, shape: Any) -> Any:
            raise ValueError("forged")

    data = encode(Average(), picture(512, 512), FINGERPRINT, 64)
    with Largest() as largest, pytest.raises(BitstreamError, match="forged"):
        decode_8bit(Broken(), data, FINGERPRINT)
    assert largest.any < 1000


# --- commands and evaluation -----------------------------------------------------------------------------------------


def test_commands_code_in_tiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "run")
    save_png(tmp_path / "in.png", picture(70, 100))
    model, target, back = ["--run", str(tmp_path / "run")], tmp_path / "out.lic", tmp_path / "back.png"
    assert main(["compress", str(tmp_path / "in.png"), str(target), *model, "--tile", "32"]) == 0
    assert main(["decompress", str(target), str(back), *model]) == 0
    codec = load(tmp_path / "run")
    x = picture(70, 100).float() / 255
    assert codec.encode(x, tile=32) == target.read_bytes()
    estimated = codec.estimate(x, tile=32)
    assert torch.equal(read_image(back).float(), to_8bit(estimated.x_hat))
    bits = -sum(float(values.log2().sum()) for values in estimated.likelihoods.values())
    assert bits == pytest.approx(estimated.bits, rel=1e-5)
    assert main(["compress", str(tmp_path / "in.png"), str(target), *model, "--tile", "40"]) == 2
    assert "a multiple of the model's downsampling factor 16, got 40" in capsys.readouterr().err


def measured(run: Path, tile: int | None) -> dict[str, Any]:
    settings = Settings(panels=0, protocol=Protocol(tile=tile))
    return evaluate_run(run, [("a.png", picture(70, 100))], "one", settings=settings)


def test_evaluation_estimates_the_tiles_of_the_file(tmp_path: Path) -> None:
    make_run(tmp_path)
    tiled, whole = measured(tmp_path, 32), measured(tmp_path, None)
    row = tiled["rows"][0]
    x, codec = picture(70, 100).float() / 255, load(tmp_path)
    expected = codec.estimate(x, tile=32)
    assert row["equal"]
    assert row["bytes"] == len(codec.encode(x, tile=32)) > whole["rows"][0]["bytes"]
    assert row["bpp"] == pytest.approx(expected.bits / 7000)
    assert row["psnr"] != whole["rows"][0]["psnr"]
    assert (tiled["protocol"]["tile"], whole["protocol"]["tile"]) == (32, None)
    assert tiled["definitions"]["tile"] == "pictures are coded in tiles of 32"
    assert "33554432" in whole["definitions"]["tile"]
    with pytest.raises(ConfigError, match=r"eval\.tile does not fit the model"):
        measured(tmp_path, 40)


def test_pictures_that_must_not_be_tiled_are_named_before_any_is_coded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run")
    for name, side in (("a", 30), ("b", 70)):
        save_png(tmp_path / "set" / f"{name}.png", picture(side, side))
    monkeypatch.setattr("lic_train.files.tiles.MAX_TILE_PIXELS", 64 * 64)
    images = FolderImages([tmp_path / "set"], None)
    with pytest.raises(DataError, match=r"(?s)1 of 2 images.*b\.png: tile: expected at most 4096 pixels"):
        evaluate_run(tmp_path / "run", images, "set", settings=Settings(protocol=Protocol(tile=0)))
