"""A decoder of .lic files without lic_train and PyTorch, written from docs/file_format.md and docs/onnx.md."""

from __future__ import annotations

import itertools
import json
import math
import struct
import zlib
from pathlib import Path

import constriction
import numpy as np
import onnxruntime
from safetensors.numpy import load_file

UNIFORM = constriction.stream.model.Uniform()
LENGTH = constriction.stream.model.Uniform(32)
ROWS = constriction.stream.model.Categorical(perfect=False)


class Damaged(Exception):
    pass


class Exported:
    """A folder of ``lic export --onnx``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = json.loads((folder / "codec.json").read_text())
        self.tables = load_file(folder / "tables.safetensors")

    def run(self, network: str, value: np.ndarray) -> list[np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(self.folder / f"{network}.onnx"), options)
        return session.run(None, {session.get_inputs()[0].name: value})

    def table_rows(self, name: str) -> list[tuple[int, np.ndarray]]:
        """Smallest symbol and weights of each table."""
        ends = np.cumsum(self.tables[f"{name}.size"] + 1)
        rows = np.split(self.tables[f"{name}.weights"], ends[:-1])
        return list(zip(self.tables[f"{name}.minimum"].tolist(), rows, strict=True))


class Section:
    """Rounding with the record of close calls, symbols, and the checksum of both."""

    def __init__(self, data: bytes, tolerance: float) -> None:
        self.tolerance, self.seen, self.crc = tolerance, 0, 0
        self.sides: dict[int, int] = {}
        size, position = 0, -1
        while len(data) % 4:  # otherwise there is no record
            number = shift = 0
            while data[size] >= 0x80:
                number |= (data[size] & 0x7F) << shift
                size, shift = size + 1, shift + 7
            number |= data[size] << shift
            size += 1
            if number == 0:
                break
            position += number >> 1
            self.sides[position] = number & 1
        size += size > 0 and size % 4 == 0
        self.expected = int.from_bytes(data[-4:], "little")
        self.coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data[size:-4], "<u4").astype(np.uint32))

    def round(self, values: np.ndarray, steps: float | np.ndarray) -> np.ndarray:
        scaled = (values * steps).reshape(-1)
        rounded = np.rint(scaled).astype(np.int64)
        for position in [p for p in self.sides if self.seen <= p < self.seen + len(scaled)]:
            at = position - self.seen
            below = math.floor(scaled[at])
            if abs(scaled[at] - below - 0.5) > self.tolerance:
                raise Damaged("a recorded position is not a close call")
            rounded[at] = below + self.sides.pop(position)
        self.seen += len(scaled)
        self.count(rounded)
        return rounded

    def count(self, integers: np.ndarray) -> None:
        self.crc = zlib.crc32(integers.astype("<i4").tobytes(), self.crc)

    def by_table(self, indexes: np.ndarray, tables: list[tuple[int, np.ndarray]], bits: int) -> np.ndarray:
        symbols = np.zeros(len(indexes), np.int64)
        for index in np.unique(indexes):
            minimum, weights = tables[index]
            model = constriction.stream.model.Categorical(weights * 2.0**-bits, perfect=False)
            at = np.flatnonzero(indexes == index)
            slots = self.coder.decode(model, len(at)).astype(np.int64)
            symbols[at] = minimum + self.unescaped(slots, len(weights) - 1)
        self.count(symbols)
        return symbols

    def unescaped(self, slots: np.ndarray, size: int) -> np.ndarray:
        """Replace the escapes among decoded slots by their Exp-Golomb codes."""
        escaped = slots == size
        if escaped.any():
            lengths = self.coder.decode(LENGTH, int(escaped.sum())).astype(np.int64)
            number = 1 << lengths
            for shift, bits in ((0, np.minimum(lengths, 16)), (16, lengths - 16)):
                if (some := bits > 0).any():
                    ranges = (1 << bits[some]).astype(np.int32)
                    number[some] += self.coder.decode(UNIFORM, ranges).astype(np.int64) << shift
            number -= 1
            slots[escaped] = np.where(number % 2, -(number + 1) // 2, number // 2 + size)
        return slots

    def finish(self) -> None:
        if self.sides or self.crc != self.expected:
            raise Damaged("checksum of a section")


# Fingerprint; height, width; padding; height and width of the latent; side and overlap of the tiles; level; sections.
HEADER = "<8sIIHHIIIHHB"


def sections_of(data: bytes, about: dict) -> tuple[tuple[int, ...], list[bytes]]:
    """Fields of the header after the fingerprint, and the sections."""
    if data[:5] != b"LIC1" + bytes([about["lic_version"]]) or zlib.crc32(data[:-4]) != int.from_bytes(
        data[-4:], "little"
    ):
        raise Damaged("the file")
    fingerprint, *fields, tile, _overlap, _level, count = struct.unpack_from(HEADER, data, 5)
    if tile:
        raise ValueError("this reader decodes pictures of one tile")
    if fingerprint.hex() != about["fingerprint"]:
        raise Damaged("a file of another model")
    begin = 5 + struct.calcsize(HEADER)
    lengths = struct.unpack_from(f"<{count}I", data, begin)
    ends = begin + 4 * count + np.cumsum([0, *lengths])
    return tuple(fields), [data[a:b] for a, b in itertools.pairwise(ends)]


def factorized(exported: Exported, kind: dict, section: Section, shape: tuple[int, int]) -> np.ndarray:
    tables = exported.table_rows(kind["tables"])
    indexes = np.repeat(np.arange(len(tables)), shape[0] * shape[1])
    symbols = section.by_table(indexes, tables, exported.about["weight_bits"])
    medians = exported.tables[f"{kind['tables']}.quantiles"][:, 0, 1].astype(np.float64)
    return symbols.reshape(1, len(tables), *shape) + medians[:, None, None]


def gaussian(exported: Exported, kind: dict, section: Section, scales: np.ndarray, *means: np.ndarray) -> np.ndarray:
    tables = exported.table_rows("gaussian")
    low, high = kind["scale_range"]
    steps = (len(tables) - 1) / (math.log(high) - math.log(low))
    indexes = section.round(np.log(np.clip(scales, low, high)) - math.log(low), steps)
    largest, grid = kind["max_mean"], kind["steps_per_unit"]
    centres = [section.round(np.clip(mean, -largest, largest), grid) / grid for mean in means]
    symbols = section.by_table(indexes, tables, exported.about["weight_bits"])
    return sum(centres, symbols.astype(np.float64)).reshape(scales.shape)


def mixture(
    exported: Exported, kind: dict, section: Section, weights: np.ndarray, means: np.ndarray, scales: np.ndarray
) -> np.ndarray:
    shape = scales.shape[2:]
    weights, means, scales = (part.reshape(part.shape[1], -1) for part in (weights, means, scales))
    per_octave, (lowest, highest), unit = kind["levels_per_octave"], kind["levels"], kind["scale_unit"]
    ends = (unit * 2.0 ** (end / per_octave) for end in (lowest, highest))
    octaves = np.log2(np.clip(np.maximum(scales, kind["scale_min"]), *ends) / unit)
    level = section.round(octaves, per_octave).reshape(scales.shape) - lowest
    all_bits, all_radius = (exported.tables[f"mixture.{name}"].astype(np.int64) for name in ("bits", "radius"))
    values = exported.tables["mixture.values"].astype(np.int64)
    centres = np.cumsum(2 * all_radius + 1) - all_radius - 1
    bits, radius, centre = all_bits[level], all_radius[level], centres[level]
    largest = kind["max_mean"]
    shift = section.round(np.clip(means, -largest, largest) + 0.5, np.exp2(bits)).reshape(means.shape)
    whole = 1 << kind["weight_bits"]
    cumulative = np.cumsum(weights, axis=0)
    inner = cumulative[:-1] / cumulative[-1]
    weight = np.diff(section.round(inner, whole).reshape(inner.shape), axis=0, prepend=0, append=whole)

    # The symbols of a table: within the radius of a component, and MAX_WIDTH / 2 from the heaviest.
    columns = np.arange(weight.shape[1])
    middle = (shift >> bits)[weight.argmax(axis=0), columns]
    first = np.where(weight > 0, (shift - radius) >> bits, middle).min(axis=0)
    last = np.where(weight > 0, -((-shift - radius) >> bits) - 1, middle).max(axis=0)
    first = np.maximum(first, middle - kind["max_width"] // 2)
    width = np.minimum(last, middle + kind["max_width"] // 2 - 1) - first + 1

    symbols = np.zeros(len(columns), np.int64)
    order = np.argsort(-width, kind="stable")
    while len(order):
        widest = int(width[order[0]])
        at, order = np.split(order, [max(1, kind["chunk_cells"] // (widest + 1))])
        edges = ((first[at] + np.arange(widest + 1)[:, None])[:, None] << bits[:, at]) - shift[:, at]
        entries = np.clip(edges, -radius[:, at], radius[:, at]) + centre[:, at]  # (edges, K, n)
        mass = (weight[:, at] * values[entries]).sum(axis=1).T >> kind["weight_bits"]
        rows = np.diff(mass, axis=1, append=(kind["total"] + mass[:, 0])[:, None]).astype(np.float32)
        rows[:, -1] = kind["total"] - (mass[:, -1] - mass[:, 0])
        symbols[at] = first[at] + section.unescaped(
            section.coder.decode(ROWS, np.ascontiguousarray(rows)).astype(np.int64), widest
        )
    section.count(symbols)
    return symbols.astype(np.float64).reshape(1, *shape)


def decoded(
    exported: Exported, kind: dict, string: bytes, latents: dict[str, np.ndarray], shape: tuple[int, int]
) -> np.ndarray:
    section = Section(string, exported.about["close_call_tolerance"])
    if kind["density"] == "factorized":
        latent = factorized(exported, kind, section, shape)
    else:
        density = {"gaussian": gaussian, "mixture": mixture}[kind["density"]]
        latent = density(exported, kind, section, *exported.run("h_s", latents["z"]))
    section.finish()
    return latent


def read(folder: Path, data: bytes) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Decode a file; return its latents by name and the picture (3, H, W) in [0, 1].

    Raises:
        Damaged: the file is damaged.
    """
    exported = Exported(folder)
    if exported.about["missing"]:
        raise ValueError(f"parts of this model are not in ONNX: {exported.about['missing']}")
    (height, width, _, _, *shape), strings = sections_of(data, exported.about)
    latents: dict[str, np.ndarray] = {}
    # The last section, z, comes first: the parameters of y depend on it.
    for kind, string in reversed(list(zip(exported.about["sections"], strings, strict=True))):
        try:
            latents[kind["latent"]] = decoded(exported, kind, string, latents, (shape[0], shape[1]))
        except (AssertionError, IndexError) as error:  # of the range coder; of a record without end
            raise Damaged("a section with an invalid code") from error
    (x_hat,) = exported.run("g_s", latents["y"].astype(np.float32))
    return latents, np.clip(x_hat[0, :, :height, :width], 0, 1)
