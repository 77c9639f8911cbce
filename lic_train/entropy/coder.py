"""Range coding of integer symbols with shared tables, escapes and a checksum.

The range coder is ``constriction``'s: memory-safe for any input, and equally fast for small and large calls, which the
wavefronts of context models need. Encoder and decoder use the same tables, indexes and order. A string consists of

- the record of close calls (see `lic_train.entropy.close_calls`), with a zero byte more if its size is a multiple of 4;
  nothing if there are none, so that the size of the string is a multiple of 4,
- the words of the range coder, 4 bytes each, little-endian,
- the CRC-32 of all symbols and all rounded parameters, in the order of coding, each as the lowest 4 bytes of
  the integer, little-endian.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property

import constriction
import numpy as np

from lic_train.entropy.close_calls import NO_CLOSE_CALLS, CloseCallReader, CloseCallWriter, Steps
from lic_train.entropy.stopwatch import entropy_coding
from lic_train.errors import BitstreamError

_UNIFORM = constriction.stream.model.Uniform()
_LENGTH = constriction.stream.model.Uniform(32)
_CHECKSUM_BYTES = 4
Strings = bytes | Sequence[bytes]  # the string of one picture, or one for each picture of a batch
# Larger symbols are refused, because float32 cannot represent larger integers exactly.
MAX_SYMBOL = 2**24
# Precision of the integers in a table: coarse enough that two mathematical libraries give the same ones.
WEIGHT_BITS = 28


class Table:
    """Probability table over ``minimum .. minimum + size - 1``, with the escape as its last slot.

    Args:
        minimum: smallest symbol.
        weights: int32 (size + 1,), probabilities in units of 2^-28, the escape last; their sum is 1 or slightly more.
    """

    def __init__(self, minimum: int, weights: np.ndarray) -> None:
        self.minimum, self.size, self.weights = minimum, len(weights) - 1, weights

    @classmethod
    def from_pmf(cls, pmf: np.ndarray, minimum: int) -> Table:
        """Build from float64 probabilities of consecutive integers; the escape has the remaining probability.

        The escape has at least 2^-14. This costs 1e-4 bits per symbol and keeps an outlier near 30 bits, the estimate
        from the likelihood's lower bound of 1e-9.
        """
        tail = max(1.0 - float(pmf.sum()), 2.0**-14)
        return cls(minimum, np.rint(np.append(pmf, tail) * 2.0**WEIGHT_BITS).astype(np.int32))

    @cached_property
    def model(self) -> object:
        """Model of the range coder; every slot has at least 2^-24."""
        return constriction.stream.model.Categorical(self.weights * 2.0**-WEIGHT_BITS, perfect=False)

    def __reduce__(self) -> tuple[type[Table], tuple[int, np.ndarray]]:
        """Copy and pickle without the model, which supports neither."""
        return Table, (self.minimum, self.weights)


def _groups(indexes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (table index, positions) in increasing order of the index; symbols of one table are coded in one call."""
    order = np.argsort(indexes, kind="stable")
    ranked = indexes[order]
    starts = np.flatnonzero(np.diff(ranked, prepend=-1))
    for start, positions in zip(starts, np.split(order, starts[1:]), strict=True):
        yield int(ranked[start]), positions


class SymbolEncoder:
    """Encoder of symbols into one string."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()
        self._close_calls = CloseCallWriter()
        self._checksum = 0

    @entropy_coding
    def round(self, values: np.ndarray, steps: Steps) -> np.ndarray:
        """Round finite float64 ``values * steps`` (n,) to int64 (n,) that the decoder reproduces."""
        integers = self._close_calls.round(values, steps)
        self._count(integers)
        return integers

    @entropy_coding
    def encode(self, symbols: np.ndarray, indexes: np.ndarray, tables: Sequence[Table]) -> None:
        """Append int32 ``symbols`` (n,); symbol i is coded with ``tables[indexes[i]]``."""
        self._count(symbols)
        if symbols.size == 0:
            return
        for index, positions in _groups(indexes):
            table = tables[index]
            slots = symbols[positions].astype(np.int64) - table.minimum
            outside = (slots < 0) | (slots >= table.size)
            self._coder.encode(np.where(outside, table.size, slots).astype(np.int32), table.model)
            if outside.any():
                self._encode_escapes(slots[outside], table.size)

    def _count(self, symbols: np.ndarray) -> None:
        """Update the checksum with ``symbols``."""
        self._checksum = zlib.crc32(symbols.astype("<i4").tobytes(), self._checksum)

    def _encode_escapes(self, slots: np.ndarray, size: int) -> None:
        """Exp-Golomb code: odd below the table, even above; bit length first, then the bits below the leading one."""
        overflow = np.where(slots < 0, -2 * slots - 1, 2 * (slots - size)) + 1
        lengths = np.floor(np.log2(overflow)).astype(np.int64)
        self._coder.encode(lengths.astype(np.int32), _LENGTH)
        rest = overflow - (1 << lengths)
        for part, bits in ((rest & 0xFFFF, np.minimum(lengths, 16)), (rest >> 16, lengths - 16)):
            some = bits > 0
            if some.any():
                self._coder.encode(part[some].astype(np.int32), _UNIFORM, (1 << bits[some]).astype(np.int32))

    @entropy_coding
    def finish(self) -> bytes:
        """Return the string."""
        record = self._close_calls.finish()
        if record == NO_CLOSE_CALLS:
            record = b""
        elif len(record) % 4 == 0:
            record += b"\0"
        words = self._coder.get_compressed().astype("<u4").tobytes()
        return record + words + self._checksum.to_bytes(_CHECKSUM_BYTES, "little")


class SymbolDecoder:
    """Decoder of the strings of SymbolEncoder, given the same tables and indexes in the same order."""

    pictures = 1

    def __init__(self, string: bytes) -> None:
        code = string
        self._close_calls = CloseCallReader(string if len(string) % 4 else NO_CLOSE_CALLS)
        if len(string) % 4:
            size = self._close_calls.size
            code = string[size + (size % 4 == 0) :]
        if len(code) < _CHECKSUM_BYTES or len(code) % 4:
            raise BitstreamError(
                "An entropy-coded section has an invalid size.",
                expected="a positive multiple of 4 bytes after the record of close calls",
                got=f"{len(code)} bytes",
            )
        words = np.frombuffer(code[:-_CHECKSUM_BYTES], dtype="<u4").astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)
        self._expected = int.from_bytes(string[-_CHECKSUM_BYTES:], "little")
        self._checksum = 0

    @entropy_coding
    def round(self, values: np.ndarray, steps: Steps) -> np.ndarray:
        """Round finite float64 ``values * steps`` (n,) to the encoder's int64 (n,).

        Raises:
            BitstreamError: the record of close calls does not fit the values.
        """
        integers = self._close_calls.round(values, steps)
        self._count(integers)
        return integers

    @entropy_coding
    def decode(self, indexes: np.ndarray, tables: Sequence[Table]) -> np.ndarray:
        """Return the int32 symbols (n,) for ``indexes`` (n,).

        Raises:
            BitstreamError: the words are not a valid code.
        """
        symbols = np.zeros(indexes.shape, dtype=np.int64)
        try:
            for index, positions in _groups(indexes) if indexes.size else ():
                table = tables[index]
                slots = self._coder.decode(table.model, len(positions)).astype(np.int64)
                escaped = slots == table.size
                if escaped.any():
                    slots[escaped] = self._decode_escapes(int(escaped.sum()), table.size)
                symbols[positions] = slots + table.minimum
        except AssertionError as error:
            raise mismatch("words that no encoder writes") from error
        return self._accept(symbols)

    def _accept(self, symbols: np.ndarray) -> np.ndarray:
        """Check the range of decoded symbols, update the checksum with them, and return them as int32."""
        if symbols.size and np.abs(symbols).max() > MAX_SYMBOL:
            raise mismatch(f"a symbol beyond +-{MAX_SYMBOL}")
        self._count(symbols)
        return symbols.astype(np.int32)

    def _count(self, symbols: np.ndarray) -> None:
        """Update the checksum with ``symbols``."""
        self._checksum = zlib.crc32(symbols.astype("<i4").tobytes(), self._checksum)

    def _decode_escapes(self, count: int, size: int) -> np.ndarray:
        lengths = self._coder.decode(_LENGTH, count).astype(np.int64)
        overflow = 1 << lengths
        for shift, bits in ((0, np.minimum(lengths, 16)), (16, lengths - 16)):
            some = bits > 0
            if some.any():
                part = self._coder.decode(_UNIFORM, (1 << bits[some]).astype(np.int32)).astype(np.int64)
                overflow[some] += part << shift
        overflow -= 1
        return np.where(overflow % 2 == 1, -(overflow + 1) // 2, overflow // 2 + size)

    def finish(self) -> None:
        """Compare the checksum with that of the encoder.

        Raises:
            BitstreamError: they differ: the file is damaged, or this machine computes other entropy parameters.
        """
        self._close_calls.finish()
        if self._checksum != self._expected:
            raise mismatch("symbols with another checksum")


class BatchDecoder:
    """Decoder of one string per picture of a batch, with the methods of `SymbolDecoder`.

    All arrays are flat tensors of shape (B, ...): B equal parts, one for each picture.
    """

    def __init__(self, strings: Sequence[bytes]) -> None:
        self._decoders = [SymbolDecoder(string) for string in strings]
        self.pictures = len(strings)

    def round(self, values: np.ndarray, steps: float) -> np.ndarray:
        """See `SymbolDecoder.round`."""
        return np.concatenate([decoder.round(part, steps) for decoder, part in self._parts(values)])

    def decode(self, indexes: np.ndarray, tables: Sequence[Table]) -> np.ndarray:
        """See `SymbolDecoder.decode`."""
        return np.concatenate([decoder.decode(part, tables) for decoder, part in self._parts(indexes)])

    def _parts(self, values: np.ndarray) -> Iterator[tuple[SymbolDecoder, np.ndarray]]:
        return zip(self._decoders, np.split(values, self.pictures), strict=True)

    def finish(self) -> None:
        """See `SymbolDecoder.finish`."""
        for decoder in self._decoders:
            decoder.finish()


def decoder_of(strings: Strings) -> SymbolDecoder | BatchDecoder:
    """Return the decoder of one picture, or of a batch."""
    return SymbolDecoder(strings) if isinstance(strings, bytes) else BatchDecoder(strings)


def mismatch(found: str) -> BitstreamError:
    """Return the error of a decoder that reads what an encoder cannot have written."""
    return BitstreamError(
        "An entropy-coded section cannot be decoded.",
        expected="the symbols of the encoder",
        got=f"{found}: it is damaged, or this machine computes other entropy parameters",
        to_do="copy the file again; if it is intact, decode it where it was encoded",
    )
