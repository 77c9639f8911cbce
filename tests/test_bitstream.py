"""The .lic file: byte layout, round trips for any size, and errors for every other input."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

from lic_train.errors import BitstreamError
from lic_train.files.bitstream import decode, encode, estimate
from lic_train.files.container import ONE_RATE, Header, pack, unpack
from lic_train.files.tiles import padding
from lic_train.models.base import Codec
from tests.tiny import FACTORIZED, HYPERPRIOR, SERIAL, make_codec, picture

ROOT = Path(__file__).resolve().parent.parent
FINGERPRINT = b"\x01\x02\x03\x04\x05\x06\x07\x08"


class Average(Codec):
    """Codec without networks: every 4x4 block becomes its mean, in 8 bits."""

    downsampling_factor = 4

    def compress(self, x):
        blocks = torch.nn.functional.avg_pool2d(x, 4)[0]
        return {
            "strings": [bytes((c * 255).round().byte().flatten().tolist()) for c in blocks],
            "shape": blocks.shape[1:],
        }

    def decompress(self, strings, shape):
        blocks = torch.tensor([list(string) for string in strings], dtype=torch.float32).view(1, 3, *shape) / 255
        return {"x_hat": blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)}


def with_crc(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


@pytest.fixture(scope="module")
def codec():
    return make_codec()


@pytest.fixture(scope="module")
def data(codec):
    return encode(codec, picture(20, 30).float() / 255, FINGERPRINT)


def test_layout_matches_the_documentation():
    data = pack(Header(FINGERPRINT, 97, 131, 31, 61, 2, 3, 0, 0, ONE_RATE), [[b"abc", b"", b"\xff"]])
    expected = b"LIC1" + b"\x02" + FINGERPRINT + struct.pack("<IIHHIIIHH", 97, 131, 31, 61, 2, 3, 0, 0, 2**16 - 1)
    expected += b"\x03" + struct.pack("<III", 3, 0, 1) + b"abc" + b"\xff"
    assert data == expected + struct.pack("<I", zlib.crc32(expected))
    header, sections = unpack(data)
    assert (header.height, header.width, header.pad_bottom, header.pad_right) == (97, 131, 31, 61)
    assert (header.latent_height, header.latent_width, header.grid.count) == (2, 3, 1)
    assert sections == [[b"abc", b"", b"\xff"]]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (8, 12), (5, 7)])
def test_any_size_decodes_to_the_blocks_of_the_replicated_picture(height, width):
    x = picture(height, width).float() / 255
    x_hat = decode(Average(), encode(Average(), x, FINGERPRINT), FINGERPRINT)
    rows = [min(i, height - 1) for i in range(height + 3)]
    columns = [min(j, width - 1) for j in range(width + 3)]
    assert x_hat.shape == (3, height, width)
    for i, j in {(0, 0), (height - 1, width - 1)}:
        top, left = i // 4 * 4, j // 4 * 4
        block = x[:, rows[top : top + 4]][:, :, columns[left : left + 4]]
        expected = (block.mean(dim=(1, 2)) * 255).round() / 255
        torch.testing.assert_close(x_hat[:, i, j], expected, rtol=0, atol=1 / 255 + 1e-6)


@pytest.fixture(scope="module", params=[FACTORIZED, HYPERPRIOR, SERIAL], ids=["factorized", "hyperprior", "serial"])
def pair(request):
    return make_codec(request.param), make_codec(request.param)


@pytest.mark.parametrize(("height", "width"), [(97, 131), (1, 1), (1, 70), (64, 128)])
def test_decoded_picture_equals_the_evaluation_forward(pair, height, width):
    encoder, decoder = pair
    x = picture(height, width).float() / 255
    expected = estimate(encoder, x)
    data = encode(encoder, x, FINGERPRINT)
    x_hat = decode(decoder, data, FINGERPRINT)
    assert x_hat.shape == (3, height, width)
    torch.testing.assert_close(x_hat, expected.x_hat, rtol=0, atol=1e-6)
    assert [part.padded for part in expected.parts] == [
        tuple(-(-side // encoder.downsampling_factor) * encoder.downsampling_factor for side in x.shape[1:])
    ]
    [sections] = unpack(data)[1]
    assert len(data) == 42 + 4 * len(sections) + sum(map(len, sections)) + 4


@pytest.mark.parametrize(("size", "factor", "expected"), [((64, 65), 64, (0, 63)), ((1, 128), 16, (15, 0))])
def test_padding_reaches_the_next_multiple(size, factor, expected):
    assert padding(*size, factor) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG picture"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "a JPEG picture"),
        (b"Call me Ishmael. Some years ago, never mind how long precisely, having little or no money", "Call me"),
        (b"LI", "cut short"),
        (b"LIC1" + bytes(10), "cut short"),
    ],
)
def test_error_names_the_format_of_another_file(codec, content, message):
    with pytest.raises(BitstreamError, match=message):
        decode(codec, content, FINGERPRINT)


def test_other_version_model_tail_and_byte_raise_different_errors(codec, data):
    for broken, message in (
        (data[:4] + b"\x03" + data[5:], r"unknown version.\nexpected: version 2\ngot: version 3"),
        (data[:4] + b"\x01" + data[5:], r"from release 0\.1.*\n.*\ngot: version 1\nto do: decode it with release 0\.1"),
        (data + b"\0", f"after its end.*\nexpected: {len(data)} bytes\ngot: {len(data) + 1} bytes"),
        (data[:-9], f"cut short.*\nexpected: {len(data)} bytes\ngot: {len(data) - 9} bytes"),
        (data[:-1] + bytes([data[-1] ^ 1]), "is damaged.\nexpected: CRC-32"),
    ):
        with pytest.raises(BitstreamError, match=message):
            decode(codec, broken, FINGERPRINT)
    fingerprints = f"expected: fingerprint {'00' * 8}\ngot: fingerprint {FINGERPRINT.hex()}"
    with pytest.raises(BitstreamError, match=fingerprints):
        decode(codec, data, bytes(8))


def header_with(data: bytes, offset: int, layout: str, *values: int) -> bytes:
    changed = bytearray(data[:-4])
    struct.pack_into(layout, changed, offset, *values)
    return with_crc(bytes(changed))


@pytest.mark.parametrize(
    ("offset", "layout", "values", "message"),
    [
        (13, "<II", (2**32 - 1, 2**32 - 1), "at most 268435456 pixels"),
        (13, "<II", (1, 2**26), r"tiles that this model can code.*\n.*at most 33554432 pixels \(padded\)"),
        (13, "<I", (0,), "positive sizes"),
        (21, "<HH", (28, 2), "expected: pad_bottom 12\ngot: pad_bottom 28"),
        (25, "<II", (2**31, 2), "expected: latent_height 2\ngot: latent_height 2147483648 of 20x30"),
        (25, "<II", (0, 2), "expected: latent_height 2"),
        (33, "<IH", (16, 0), "cut short.*\nexpected: "),  # four tiles
        (33, "<IH", (64, 0), "expected: tile 0\ngot: tile 64"),
        (33, "<IH", (2**32 - 1, 2**16 - 1), "a multiple of the model's downsampling factor"),
        (33, "<IH", (0, 5), "expected: overlap 0\ngot: overlap 5"),
        (33, "<IH", (1, 1), "cut short"),
        (39, "<H", (1024,), "a variable rate"),
        (41, "<B", (0,), "expected: 46 bytes\ngot: "),
        (41, "<B", (255,), "cut short"),
        (42, "<I", (2**32 - 1,), "expected: 4294967[0-9]+ bytes"),
    ],
)
def test_invalid_header_raises_before_decoding(codec, data, offset, layout, values, message):
    with pytest.raises(BitstreamError, match=message):
        decode(codec, header_with(data, offset, layout, *values), FINGERPRINT)


def test_file_without_sections_raises(codec):
    empty = b"LIC1\x02" + FINGERPRINT + struct.pack("<IIHHIIIHHB", 16, 16, 0, 0, 1, 1, 0, 0, ONE_RATE, 0)
    with pytest.raises(BitstreamError, match="at least one section"):
        decode(codec, with_crc(empty), FINGERPRINT)


@pytest.mark.parametrize("error", [AssertionError, IndexError, RuntimeError, ValueError, KeyError, OverflowError])
def test_any_error_of_the_decoder_becomes_a_bitstream_error(error):
    class Raising(Average):
        def decompress(self, strings, shape):
            raise error("deep inside")

    with pytest.raises(BitstreamError, match=f"{error.__name__}: .*deep inside"):
        decode(Raising(), encode(Average(), torch.zeros(3, 4, 4), FINGERPRINT), FINGERPRINT)


@pytest.mark.parametrize("made", [torch.full((1, 3, 4, 4), torch.nan), torch.zeros(1, 3, 8, 4)])
def test_decoded_picture_of_another_size_or_not_finite_raises(made):
    class Wrong(Average):
        def decompress(self, strings, shape):
            return {"x_hat": made}

    with pytest.raises(BitstreamError, match=r"invalid picture\.\nexpected: finite values of shape"):
        decode(Wrong(), encode(Average(), torch.zeros(3, 4, 4), FINGERPRINT), FINGERPRINT)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 3, 4, 4), r"\(3, H, W\)"),
        (torch.zeros(1, 4, 4), r"\(3, H, W\)"),
        (torch.zeros(3, 0, 4), r"\(3, H, W\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "floats in .* or uint8"),
        (torch.full((3, 4, 4), torch.nan), "finite"),
        (torch.full((3, 4, 4), 1.5), "0, 1"),
    ],
)
def test_invalid_picture_raises_in_encode(x, message):
    with pytest.raises(ValueError, match=message):
        encode(Average(), x, FINGERPRINT)


def test_max_pixels_limits_the_picture():
    with pytest.raises(ValueError, match="at most 15 pixels"):
        encode(Average(), torch.zeros(3, 4, 4), FINGERPRINT, max_pixels=15)
    data = encode(Average(), torch.zeros(3, 4, 4), FINGERPRINT, max_pixels=16)
    assert decode(Average(), data, FINGERPRINT, max_pixels=16).shape == (3, 4, 4)
    with pytest.raises(BitstreamError, match="at most 15 pixels"):
        decode(Average(), data, FINGERPRINT, max_pixels=15)


@pytest.fixture(scope="module")
def fuzz():
    """Child processes, started together: pytest survives a crash or a hang of their interpreters."""
    cases = {"damaged 1": ("damaged", 1, 1000), "damaged 2": ("damaged", 2, 1000), "hostile": ("hostile", 3, 300)}
    children = {}
    for name, (mode, seed, count) in cases.items():
        command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz_lic", mode, str(seed), str(count)]
        children[name] = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield children
    for child in children.values():
        child.kill()
        child.communicate()


def outcome(child: subprocess.Popen) -> dict:
    output, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors[-2000:]
    return json.loads(output)


@pytest.mark.parametrize("name", ["damaged 1", "damaged 2"])
def test_every_prefix_and_every_changed_byte_raises(fuzz, name):
    counts = outcome(fuzz[name])
    assert counts["refused"] == counts["length"] + 1000
    assert counts["equal"] == counts["another"] == 0


def test_hostile_files_with_a_correct_crc_neither_crash_nor_hang_nor_allocate(fuzz):
    counts = outcome(fuzz["hostile"])
    assert counts["refused"] + counts["equal"] + counts["another"] == 900
    assert counts["refused"] > 800
    assert counts["grown_mib"] < 300
