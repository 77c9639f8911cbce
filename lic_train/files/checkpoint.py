"""Trained models on disk: safetensors with the model's configuration inside, and the checkpoints of a run.

``python -m lic_train.files.checkpoint export RUN [OUT.safetensors] [--checkpoint last]`` and ``... show FILE``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from lic_train.errors import CheckpointError, ConfigError
from lic_train.models.base import Codec, build
from lic_train.system import atomic
from lic_train.system.screen import reason

FORMAT = 1
_KEY = "lic_train"
_AVERAGE = "weight_averaging"  # where a training checkpoint keeps the moving average of its parameters
_ADVICE = "The file is missing, cut short or foreign: copy or export it again"
_NAMED = 4  # tensors that an error names before it says "and so on"


@dataclass(frozen=True)
class Metadata:
    """What is known of a loaded model.

    ``config`` has ``_target_`` and the arguments; ``extra`` is what the writer added (step, lambda, recipe, ...).
    """

    path: Path
    config: dict[str, Any]
    extra: dict[str, Any]
    fingerprint: bytes

    @property
    def training(self) -> dict[str, Any]:
        """The single values of ``extra`` and of the run's configuration in it: step, val_loss, lambda, seed, ..."""
        both = {**self.extra.get("run_config", {}), **self.extra}
        return {name: value for name, value in both.items() if not isinstance(value, dict | list)}


def fingerprint(model: Codec, config: Mapping[str, Any]) -> bytes:
    """8 bytes of SHA-256 over the configuration and all tensors, by name, with dtype and shape.

    The quantiles are left out: ``update()`` solves them anew from the other parameters, to the machine's last digit.
    """
    solved = {id(parameter) for parameter in model.aux_parameters()}
    skip = {name for name, parameter in model.named_parameters() if id(parameter) in solved}
    digest = hashlib.sha256(json.dumps(dict(config), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name not in skip:
            digest.update(f"{name} {_describe(tensor)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.digest()[:8]


def save_model(path: Path, model: Codec, config: Mapping[str, Any], extra: Mapping[str, Any]) -> bytes:
    """Write weights, configuration and ``extra`` as safetensors, all or nothing. Returns the fingerprint.

    Args:
        path: an older file is replaced only when the new one is complete.
        model: in any mode, on any device.
        config: plain values that `lic_train.models.base.build` takes.
        extra: plain values about the training: step, val_loss, run_config, ...

    Raises:
        TypeError: config or extra holds something that JSON has no word for.
        CheckpointError: the disk is full or the directory is not writable.
    """
    identity = fingerprint(model, config)
    record = {"format": FORMAT, "config": dict(config), "extra": dict(extra), "fingerprint": identity.hex()}
    header = {_KEY: json.dumps(record)}
    # Clones, as safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    try:
        atomic.replace(path, lambda temporary: save_file(tensors, temporary, metadata=header))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} could not be written.\nexpected: a writable directory with room for it\ngot: {error}\n"
            "what to do: make room, mend the permissions or give another place; what was there is whole"
        ) from error
    return identity


def read_metadata(path: Path) -> Metadata:
    """Read the header of a safetensors file and nothing of its weights.

    Raises:
        CheckpointError: no such file, cut short, or not written by `save_model`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}. {_ADVICE}") from error
    try:
        record = json.loads(header[_KEY])
        version, config, extra = record["format"], dict(record["config"]), dict(record["extra"])
        identity = bytes.fromhex(record["fingerprint"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"expected a model that lic_train exported, got {path}, which does not carry its configuration ({error!r})"
        ) from error
    if version != FORMAT:
        raise CheckpointError(
            f"expected format {FORMAT} in {path}, got {version!r}; load it with the release that wrote it"
        )
    return Metadata(path, config, extra, identity)


def load_model(path: Path) -> tuple[Codec, Metadata]:
    """Build the model that a safetensors file describes, ready to code (eval mode, tables built), on the CPU.

    Raises:
        CheckpointError: cut short, foreign, damaged, or its tensors do not fit its configuration.
    """
    metadata = read_metadata(path)
    model = _build(metadata.config, load_tensors(path.read_bytes()), path)
    if (found := fingerprint(model, metadata.config)) != metadata.fingerprint:
        raise CheckpointError(
            f"{path} is damaged: expected fingerprint {metadata.fingerprint.hex()}, its weights give {found.hex()}; "
            "copy or export it again"
        )
    return model, metadata


def load_checkpoint(path: Path) -> tuple[Codec, Metadata]:
    """The same from a training checkpoint (``.ckpt``): the averaged weights if the run keeps an average.

    Raises:
        CheckpointError: cut short, foreign, or its tensors do not fit its configuration.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        config, step = dict(content["model_config"]), int(content["global_step"])
        weights = {**content["state_dict"], **content.get(_AVERAGE, {})}
        names = {name: name.replace("_orig_mod.", "") for name in weights}  # of torch.compile
        tensors = {plain[6:]: weights[name].clone() for name, plain in names.items() if plain.startswith("model.")}
    # torch.load raises many types on a file that is cut short or foreign.
    except Exception as error:
        raise CheckpointError(f"cannot read {path}: {reason(error)}. {_ADVICE}") from error
    model = _build(config, tensors, path)
    extra = {"step": step, "run_config": content.get("run_config", {})}
    return model, Metadata(path, config, extra, fingerprint(model, config))


def load_file(path: Path) -> tuple[Codec, Metadata]:
    """`load_model` or `load_checkpoint`, by the file's ending."""
    return load_checkpoint(path) if path.suffix == ".ckpt" else load_model(path)


def move(model: Codec, device: str) -> Codec:
    """Bring a model to a device.

    Raises:
        ConfigError: this machine has no such device.
    """
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device: expected one of this machine, got {device!r}: {reason}") from error


def _build(config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Codec:
    try:
        model = build(config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"the configuration inside {path} builds no model: {error}") from error
    return fill(model, config, tensors, path)


def fill(model: Codec, config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> Codec:
    """Give a model, as ``config`` builds it, all of its tensors, which come from ``path``; it is ready to code then.

    Raises:
        CheckpointError: the tensors are another model's.
    """
    if problems := _mismatches(model.state_dict(), tensors):
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise CheckpointError(
            f"the tensors in {path} do not fit its configuration {dict(config)}: "
            + "; ".join(problems[:_NAMED])
            + more
            + ". It is of another model or another version"
        )
    model.load_state_dict(tensors)
    model.eval()
    model.update()
    return model


def _mismatches(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in got]
    unknown = [f"{name} is unknown" for name in got if name not in expected]
    wrong = [
        f"{name}: expected {_describe(tensor)}, got {_describe(got[name])}"
        for name, tensor in expected.items()
        if name in got and _describe(tensor) != _describe(got[name])
    ]
    return wrong + missing + unknown


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
