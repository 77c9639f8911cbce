"""Child process of test_bitstream: decodes broken ``.lic`` files and reports the outcomes.

``python -m tests.fuzz_lic MODE SEED COUNT``. It fails if an outcome is neither a BitstreamError nor a valid picture.
The parent sets a time limit and detects a crash of the interpreter by the exit status.
"""

from __future__ import annotations

import json
import random
import resource
import struct
import sys
import zlib
from collections.abc import Iterator

import torch

from lic_train.errors import BitstreamError
from lic_train.files.bitstream import decode, encode
from lic_train.files.container import Header, unpack
from tests.tiny import FACTORIZED, HYPERPRIOR, SERIAL, make_codec, picture

FINGERPRINT = bytes(range(8))
MAX_PIXELS = 2**17
HEADER_BYTES = 42


def damaged(data: bytes, chance: random.Random, count: int) -> Iterator[bytes]:
    """Yield all proper prefixes, then ``count`` files with one changed byte."""
    yield from (data[:end] for end in range(len(data)))
    for _ in range(count):
        changed = bytearray(data)
        changed[chance.randrange(len(data))] ^= chance.randrange(1, 256)
        yield bytes(changed)


def hostile(data: bytes, chance: random.Random, count: int) -> Iterator[bytes]:
    """Change header, lengths or sections, and correct the CRC."""
    for number in range(count):
        changed = bytearray(data[:-4])
        limit = HEADER_BYTES + 12 if number % 2 else len(changed)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(13, limit)] = chance.randrange(256)
        if number % 5 == 0:
            del changed[chance.randrange(HEADER_BYTES, len(changed)) :]
        if number % 7 == 0:
            _consistent_sizes(changed, chance)
        yield bytes(changed) + struct.pack("<I", zlib.crc32(bytes(changed)))


def _consistent_sizes(changed: bytearray, chance: random.Random) -> None:
    """Set another size, with consistent padding and latent for stride 16 or 64: only the section can reveal it."""
    stride = chance.choice((16, 64))
    rows, columns = chance.choice(((1, 2), (3, 3), (4, 2), (2**20, 2**20), (2**25 // stride, 1)))
    struct.pack_into("<IIHHIIIH", changed, 13, rows * stride - 3, columns * stride, 3, 0, rows, columns, 0, 0)


MODES = {"damaged": damaged, "hostile": hostile}


def run(mode: str, seed: int, count: int) -> dict[str, int]:
    """Decode all cases with each codec; count the outcomes and the memory growth in MiB."""
    outcomes = {"refused": 0, "equal": 0, "another": 0}
    chance = random.Random(seed)
    before = None
    for config in (FACTORIZED, HYPERPRIOR, SERIAL)[: 3 if mode == "hostile" else 1]:
        codec = make_codec(config)
        x = picture(40, 52).float() / 255
        data = encode(codec, x, FINGERPRINT)
        original = decode(codec, data, FINGERPRINT)
        before = before or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for case in MODES[mode](data, chance, count):
            try:
                x_hat = decode(codec, case, FINGERPRINT, MAX_PIXELS)
            except BitstreamError:
                outcomes["refused"] += 1
                continue
            header: Header = unpack(case)[0]
            assert x_hat.shape == (3, header.height, header.width), (x_hat.shape, header)
            assert bool(torch.isfinite(x_hat).all())
            outcomes["equal" if torch.equal(x_hat, original) else "another"] += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - (before or 0)
    return {**outcomes, "grown_mib": grown // 1024, "length": len(data)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
