"""Limits on what an untrusted model file makes this process read, allocate and compute."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from lic_train.system.reading import Unreadable, plain, require_file

MAX_ARGUMENT = 2**13  # of a model's constructor; the widest published network has 640 channels
MAX_ARGUMENTS = 1000
# What a constructor may create: multiples of the bytes and of the number of tensors in the file, and a fixed part.
_TIMES, _BYTES, _TENSORS = 8, 2**26, 4096


def read_zip(path: Path, *, mmap: bool = False) -> Any:
    """Return the content of a file that `torch.save` wrote, on the CPU, after verifying all of its checksums.

    Damaged and hostile bytes can raise any exception in the unpickler: callers catch all of them.

    Raises:
        Unreadable: the path is not a regular file.
        zipfile.BadZipFile: a checksum is wrong, or an entry is compressed, which `torch.save` never does.
    """
    require_file(path)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise zipfile.BadZipFile("compressed entries, which torch.save does not write")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise zipfile.BadZipFile("its entries overlap")
        if damaged := archive.testzip():  # torch.load does not verify the checksums
            raise zipfile.BadZipFile(f"wrong checksum in {damaged}")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def checked_config(config: Any) -> dict[str, Any]:
    """Return the configuration of a model from an untrusted file: a mapping of plain values of bounded size.

    Raises:
        Unreadable: it is something else.
    """
    if not isinstance(plain(config), dict) or not all(isinstance(name, str) for name in config):
        raise Unreadable("the configuration of the model is not a mapping")
    values = tree_leaves(config)
    if len(values) > MAX_ARGUMENTS or len(repr(config)) > 2**16:
        raise Unreadable("the configuration of the model is too long")
    numbers = [value for value in values if isinstance(value, int | float)]
    if large := [value for value in numbers if not abs(value) <= MAX_ARGUMENT]:
        raise Unreadable(f"the configuration of the model has the value {large[0]}; the limit is {MAX_ARGUMENT}")
    return dict(config)


def check_stored(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check that tensors of a file are stored in it: a few bytes can be declared as a tensor of any shape.

    Raises:
        Unreadable: they are larger than the file.
    """
    declared, stored = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()), path.stat().st_size
    if declared > stored:
        raise Unreadable(f"tensors of {declared:,} bytes in a file of {stored:,} bytes")


class TooLarge(RuntimeError):
    """A constructor needs more memory than the file of the model justifies."""


class Limited(TorchDispatchMode):
    """Context in which a model is built: its constructor allocates in proportion to the file that describes it.

    Otherwise a file of 1 kB that declares N=M=3000 costs 13 GB before its tensors can be compared with the network's.

    Args:
        num_bytes: of the tensors in the file.
        tensors: their number.
    """

    def __init__(self, num_bytes: int, tensors: int) -> None:
        super().__init__()
        self._bytes = _TIMES * num_bytes + _BYTES  # measured: at most 2.6 times
        self._tensors = _TIMES * tensors + _TENSORS  # measured: at most 1.7 times

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator if its result fits into the remaining memory. Raises TooLarge."""
        kwargs = kwargs or {}
        if function._schema.is_mutable or function.is_view:  # the result needs no memory
            return function(*args, **kwargs)
        leaves = tree_leaves((args, kwargs))
        if _largest(leaves) > self._bytes // 8:
            self._require(_size_of_result(function, args, kwargs))
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and not any(isinstance(leaf, Tensor) for leaf in leaves):
            self._tensors -= 1
            self._bytes -= result.numel() * result.element_size()
            self._require(0)
        return result

    def _require(self, num_bytes: int) -> None:
        if num_bytes > self._bytes or self._bytes < 0 or self._tensors < 0:
            raise TooLarge("its configuration describes a larger network than the file contains")


def _largest(leaves: list[Any]) -> float:
    """Return an upper limit of the number of elements that an operator with these arguments returns."""
    factors: list[float] = [leaf.numel() for leaf in leaves if isinstance(leaf, Tensor)]
    factors += [abs(leaf) for leaf in leaves if isinstance(leaf, int | float) and math.isfinite(leaf)]
    return math.prod(max(factor, 1) for factor in factors)


def _size_of_result(function: Any, args: Any, kwargs: dict[str, Any]) -> int:
    """Return the bytes of an operator's result, computed without allocating it; 0 if that is not possible."""
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    if "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("meta")}
    try:
        result = function(*args, **kwargs)
    except (NotImplementedError, RuntimeError, TypeError):  # it needs values, not only shapes
        return 0
    return sum(t.numel() * t.element_size() for t in tree_leaves(result) if isinstance(t, Tensor))
