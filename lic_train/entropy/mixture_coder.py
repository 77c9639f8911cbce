"""Range coding of integers that each have their own Gaussian mixture."""

from __future__ import annotations

import zlib

import constriction
import numpy as np

from lic_train.entropy.coder import MAX_SYMBOL, SymbolDecoder, SymbolEncoder
from lic_train.entropy.mixture_tables import Mixtures
from lic_train.errors import BitstreamError

_ROWS = constriction.stream.model.Categorical(perfect=False)


class MixtureEncoder(SymbolEncoder):
    """A SymbolEncoder that also takes a probability row per symbol; both kinds may share a string."""

    def encode_mixtures(self, symbols: np.ndarray, mixtures: Mixtures) -> None:
        """Append int32 ``symbols`` (n,), each coded with its own mixture."""
        self._checksum = zlib.crc32(np.ascontiguousarray(symbols, dtype="<i4").tobytes(), self._checksum)
        for positions, chunk in mixtures.chunks():
            rows = chunk.rows()
            size = rows.shape[1] - 1
            slots = symbols[positions].astype(np.int64) - chunk.first
            outside = (slots < 0) | (slots >= size)
            self._coder.encode(np.where(outside, size, slots).astype(np.int32), _ROWS, rows)
            if outside.any():
                self._encode_escapes(slots[outside], size)


class MixtureDecoder(SymbolDecoder):
    """Reads back what MixtureEncoder wrote, given the same mixtures in the same order."""

    def decode_mixtures(self, mixtures: Mixtures) -> np.ndarray:
        """Return the int32 symbols (n,).

        Raises:
            BitstreamError: the words are no possible code.
        """
        symbols = np.zeros(mixtures.first.shape, dtype=np.int64)
        try:
            for positions, chunk in mixtures.chunks():
                rows = chunk.rows()
                slots = self._coder.decode(_ROWS, rows).astype(np.int64)
                escaped = slots == rows.shape[1] - 1
                if escaped.any():
                    slots[escaped] = self._decode_escapes(int(escaped.sum()), rows.shape[1] - 1)
                symbols[positions] = slots + chunk.first
        except AssertionError as error:
            raise BitstreamError("an entropy-coded section holds words that no encoder writes") from error
        if symbols.size and np.abs(symbols).max() > MAX_SYMBOL:
            raise BitstreamError(f"an entropy-coded section holds a symbol beyond +-{MAX_SYMBOL}")
        self._checksum = zlib.crc32(symbols.astype("<i4").tobytes(), self._checksum)
        return symbols.astype(np.int32)
