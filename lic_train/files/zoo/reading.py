"""Reading of weights that other projects saved: containers, prefixes of wrappers, and names of earlier releases."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lic_train.errors import CheckpointError
from lic_train.files.limits import read_zip
from lic_train.system.screen import reason

# Keys under which a training checkpoint stores its weights. An average of the weights is what authors evaluate.
_CONTAINERS = ("state_dict", "model_state_dict", "ema", "model", "net")
# Prefixes of DataParallel, torch.compile and training scripts.
_WRAPPERS = re.compile(r"^(?:(?:module|model|net|_orig_mod|codec)\.)+|(?<=\.)(?:module|_orig_mod)\.")
# (name in other releases of CompressAI and in projects derived from it, present name)
_OLD_NAMES = (
    (re.compile(r"\.downsample\.(weight|bias)$"), r".skip.\1"),
    (re.compile(r"\._matri(?:x|ces\.)(\d)$"), r".matrices.\1"),
    (re.compile(r"\._bias(?:es)?\.?(\d)$"), r".biases.\1"),
    (re.compile(r"\._factors?\.?(\d)$"), r".factors.\1"),
)


def read_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Return the tensors of one network by name, without prefixes of wrappers. Runs no code from the files.

    All checksums of zip files, the format of ``torch.save`` since PyTorch 1.6, are verified. The older format has none,
    so damaged numbers in such a file are not noticed.

    Args:
        paths: one file, or the files over which the authors distribute the network. Each is a state_dict or a
            checkpoint that contains one, in either format of ``torch.save``.

    Raises:
        CheckpointError: a file is missing, cut short, of another kind, or contains a tensor twice.
    """
    weights: dict[str, Tensor] = {}
    for path in paths:
        for key, tensor in _tensors(path).items():
            name = present_name(key)
            if name in weights:
                raise CheckpointError(
                    f"{path} contains a tensor twice.", expected="different names", got=f"{key}, which is {name}"
                )
            weights[name] = tensor
    return weights


def present_name(key: str) -> str:
    """Return a tensor's name without prefixes of wrappers, and in the spelling of CompressAI 1.2.8."""
    name = _WRAPPERS.sub("", key)
    for old, new in _OLD_NAMES:
        name = old.sub(new, name)
    return name


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = read_zip(path) if _is_zip(path) else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # invalid bytes can raise anything in an unpickler
        raise _foreign(path, reason(error)) from error
    while isinstance(content, Mapping) and (key := next((k for k in _CONTAINERS if _is_mapping(content, k)), None)):
        content = content[key]
    if not (isinstance(content, Mapping) and content and all(isinstance(t, Tensor) for t in content.values())):
        raise _foreign(path, f"a file that contains {type(content).__name__} without weights")
    return {str(key): tensor for key, tensor in content.items()}


def _is_zip(path: Path) -> bool:
    """Return whether a file is a zip for PyTorch, by its first bytes, or for Python, by its last ones."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4" or zipfile.is_zipfile(file)


def _is_mapping(content: Mapping[str, Any], key: str) -> bool:
    return isinstance(content.get(key), Mapping)


def _foreign(path: Path, got: str) -> CheckpointError:
    return CheckpointError(
        f"{path} does not contain weights.",
        expected=f"a state_dict, or a checkpoint with one under {', '.join(_CONTAINERS)}",
        got=got,
    )
