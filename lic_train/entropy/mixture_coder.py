"""Range coding of integers with one Gaussian mixture each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import constriction
import numpy as np
import torch
from torch import Tensor

from lic_train.entropy.coder import Strings, SymbolDecoder, SymbolEncoder, mismatch
from lic_train.entropy.mixture_tables import Mixtures
from lic_train.entropy.stopwatch import entropy_coding

Context = TypeVar("Context")
_ROWS = constriction.stream.model.Categorical(perfect=False)


class MixtureEncoder(SymbolEncoder):
    """SymbolEncoder that also accepts one probability row per symbol; a string can contain both kinds."""

    @entropy_coding
    def encode_mixtures(self, symbols: np.ndarray, mixtures: Mixtures) -> None:
        """Append int32 ``symbols`` (n,); each is coded with its own mixture."""
        self._count(symbols)
        for positions, chunk in mixtures.chunks():
            rows = chunk.rows()
            size = rows.shape[1] - 1
            slots = symbols[positions].astype(np.int64) - chunk.first
            outside = (slots < 0) | (slots >= size)
            self._coder.encode(np.where(outside, size, slots).astype(np.int32), _ROWS, rows)
            if outside.any():
                self._encode_escapes(slots[outside], size)


class MixtureDecoder(SymbolDecoder):
    """Decoder of the strings of MixtureEncoder, given the same mixtures in the same order."""

    @entropy_coding
    def decode_mixtures(self, mixtures: Mixtures) -> np.ndarray:
        """Return the int32 symbols (n,).

        Raises:
            BitstreamError: the words are not a valid code.
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
            raise mismatch("words that no encoder writes") from error
        return self._accept(symbols)


def one_by_one(decompress: Callable[[Context, bytes, Tensor], Tensor]) -> Callable[[Context, Strings, Tensor], Tensor]:
    """Extend ``decompress(string, psi)`` of one picture to the strings of a batch and psi (B, ...).

    Mixtures take most of the decoding time on the CPU, one picture after another in either case.
    """

    @functools.wraps(decompress)
    def of_batch(self: Context, string: Strings, psi: Tensor) -> Tensor:
        if isinstance(string, bytes):
            return decompress(self, string, psi)
        return torch.cat([decompress(self, *one) for one in zip(string, psi.split(1), strict=True)])

    return of_batch
