"""Limits on what an untrusted model file makes this process read, allocate and compute."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._pytree import tree_leaves

from lic_train.system.reading import Unreadable, plain, require_file

MAX_ARGUMENT = 2**13  # of a model's constructor; the widest published network has 640 channels
MAX_ARGUMENTS = 1000


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


@contextmanager
def at_most_parameters(count: int) -> Iterator[None]:
    """Context in which constructors create at most ``count`` parameters.

    Raises:
        Unreadable: they create more.
    """
    left = count

    def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Unreadable("its configuration describes a larger network than the file contains")

    hook = register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        hook.remove()
