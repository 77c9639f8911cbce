"""Model files: safetensors with the configuration of the model inside, and the training checkpoints of a run.

Both contain the coding tables of the factorised densities, computed once when the file is written: a machine that
computed them again could get other integers in the last digit. Files of release 0.1 have none; their tables are
computed when they are loaded, and are guaranteed to be equal only on one machine. Exporting such a file adds them.

``lic export RUN [OUT.safetensors] [--checkpoint last]`` writes such a file.
"""

from __future__ import annotations

import copy
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

from lic_train.config import networks
from lic_train.errors import CheckpointError, ConfigError
from lic_train.files.limits import at_most_parameters, check_stored, checked_config, read_zip
from lic_train.models.base import Codec, build
from lic_train.system import atomic
from lic_train.system.reading import Unreadable, parse_json, plain, require_file
from lic_train.system.screen import reason

FORMAT, WITHOUT_TABLES = 2, 1
_KEY = "lic_train"
_AVERAGE = "weight_averaging"  # key of the moving average of the parameters in a training checkpoint
_TABLES = "coding_tables"  # prefix of the tables in a safetensors file, and their key in a training checkpoint
_COPY_AGAIN = "copy or export the file again"
# Constructors create more parameters than they keep: those of CompressAI's networks also build entropy models.
_BUILT_PARAMETERS = 2
_NAMED = 4  # tensors that an error lists before it counts the others


@dataclass(frozen=True)
class Metadata:
    """Facts about a loaded model.

    ``config`` has ``_target_`` and the constructor's arguments; ``extra`` has what the writer added (step, lambda,
    recipe, ...).
    """

    path: Path
    config: dict[str, Any]
    extra: dict[str, Any]
    fingerprint: bytes

    @property
    def training(self) -> dict[str, Any]:
        """Scalar values of ``extra`` and of the run's configuration inside it: step, val_loss, lambda, seed, ..."""
        run_config = self.extra.get("run_config")
        both = {**(run_config if isinstance(run_config, dict) else {}), **self.extra}
        return {name: value for name, value in both.items() if not isinstance(value, dict | list)}


def fingerprint(model: Codec, config: Mapping[str, Any]) -> bytes:
    """Return 8 bytes of SHA-256 over the configuration, all tensors and the coding tables: everything a decoder needs.

    Of every tensor name, dtype, shape and values are included. The trained quantiles are excluded, because the tables
    contain the solved ones.
    """
    return _digest(config, {**_weights(model), **model.coding_tables()})


def _weights(model: Codec) -> dict[str, Tensor]:
    """Return all tensors of the model except the quantiles."""
    solved = {id(parameter) for parameter in model.aux_parameters()}
    skip = {name for name, parameter in model.named_parameters() if id(parameter) in solved}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in skip}


def _digest(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    digest = hashlib.sha256(json.dumps(dict(config), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {_describe(tensor)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.digest()[:8]


def save_model(
    path: Path, model: Codec, config: Mapping[str, Any], extra: Mapping[str, Any], half: bool = False
) -> bytes:
    """Write weights, coding tables, configuration and ``extra`` to a safetensors file atomically.

    Returns the fingerprint. Tables of a model that is ready to code are written as they are.

    Args:
        path: an existing file is replaced only when the new one is complete.
        model: in any mode, on any device.
        config: plain values that `lic_train.models.base.build` accepts.
        extra: plain values about the training: step, val_loss, run_config, ...
        half: round the weights to float16, which halves the file. The rounded model is another one, with tables and a
            fingerprint of its own. Loading converts the weights to float32.

    Raises:
        TypeError: config or extra contains a value that JSON cannot represent.
        CheckpointError: the disk is full or the directory is not writable, or a weight is too large for float16.
    """
    model = _rounded(model) if half else model
    tables = model.coding_tables()
    identity = _digest(config, {**_weights(model), **tables})
    record = {"format": FORMAT, "config": dict(config), "extra": dict(extra), "fingerprint": identity.hex()}
    header = {_KEY: json.dumps(record)}
    # Clones, because safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    if half:
        tensors |= {name: tensors[name].half() for name, _ in model.named_parameters()}
    tensors |= {f"{_TABLES}.{name}": table for name, table in tables.items()}
    try:
        atomic.replace(path, lambda temporary: save_file(tensors, temporary, metadata=header))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} could not be written.",
            expected="a writable directory with enough free space",
            got=str(error),
            to_do="free space, correct the permissions or choose another path; an earlier file there is unchanged",
        ) from error
    return identity


@torch.no_grad()
def _rounded(model: Codec) -> Codec:
    """Return a copy with float16 values in its parameters. Buffers, such as the bounds of GDN, can be too small."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.copy_(parameter.half())
    model.update()
    return model


def read_metadata(path: Path) -> Metadata:
    """Read the header of a safetensors file without its weights.

    Raises:
        CheckpointError: missing, cut short, or not written by `save_model`.
    """
    try:
        require_file(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError, Unreadable) as error:
        raise _unreadable(path, str(error)) from error
    try:
        record = parse_json(header[_KEY])
        version, config, extra = record["format"], checked_config(record["config"]), dict(record["extra"])
        identity = bytes.fromhex(record["fingerprint"])
    except (KeyError, TypeError, ValueError, Unreadable) as error:
        raise CheckpointError(
            f"{path} is not a model that lic_train exported.",
            expected="a safetensors file with the configuration of the model in its header",
            got=f"a header without it ({error!r})",
        ) from error
    if version not in (FORMAT, WITHOUT_TABLES):
        raise CheckpointError(
            f"{path} has an unknown format.",
            expected=f"format {WITHOUT_TABLES} or {FORMAT}",
            got=f"format {version!r}",
            to_do="load it with the release that wrote it",
        )
    return Metadata(path, config, extra, identity)


def load_model(path: Path) -> tuple[Codec, Metadata]:
    """Build the model of a safetensors file on the CPU, ready to code: in eval mode, with its stored coding tables.

    Raises:
        CheckpointError: cut short, foreign, damaged, or its tensors do not fit its configuration.
    """
    metadata = read_metadata(path)
    stored = {name: _widened(tensor) for name, tensor in load_tensors(path.read_bytes()).items()}
    prefix = f"{_TABLES}."
    tables = {name.removeprefix(prefix): stored.pop(name) for name in list(stored) if name.startswith(prefix)}
    model = _build(metadata.config, stored, tables, path)
    # Files without tables were identified without them.
    found = _digest(metadata.config, {**_weights(model), **tables})
    if found != metadata.fingerprint:
        raise CheckpointError(
            f"{path} is damaged.",
            expected=f"fingerprint {metadata.fingerprint.hex()}",
            got=f"fingerprint {found.hex()} of its weights and tables",
            to_do=_COPY_AGAIN,
        )
    return model, metadata


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def load_checkpoint(path: Path) -> tuple[Codec, Metadata]:
    """Build the model of a training checkpoint (``.ckpt``); see `load_model`. Averaged weights have priority.

    Raises:
        CheckpointError: cut short, foreign, or its tensors do not fit its configuration.
    """
    try:
        content = read_zip(path, mmap=True)
        config, step = checked_config(content["model_config"]), int(content["global_step"])
        run_config = plain(content.get("run_config", {}))
        views, table_views = _preferred(content), dict(content.get(_TABLES, {}))
        check_stored({**views, **table_views}, path)
        tensors, tables = ({name: view.clone() for name, view in group.items()} for group in (views, table_views))
    # torch.load raises many types of errors for a file that is cut short or foreign.
    except Exception as error:
        raise _unreadable(path, reason(error)) from error
    model = _build(config, tensors, tables, path)
    extra = {"step": step, "run_config": run_config}
    return model, Metadata(path, config, extra, fingerprint(model, config))


def add_tables(content: dict[str, Any], model: Codec) -> None:
    """Add the coding tables of the weights that `load_checkpoint` prefers to the content of a training checkpoint.

    ``model`` is the model in training; it does not change.
    """
    tensors = _preferred(content)
    tables: dict[str, Tensor] = {}
    for name, bottleneck in model.named_bottlenecks().items():
        scratch, prefix = copy.deepcopy(bottleneck), f"{name}."
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        scratch.load_state_dict(own)
        tables |= {f"{prefix}{table}": values for table, values in scratch.coding_tables().items()}
    content[_TABLES] = tables


def _preferred(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the model in a training checkpoint, averaged ones first."""
    weights = {**content["state_dict"], **content.get(_AVERAGE, {})}
    names = {name: name.replace("_orig_mod.", "") for name in weights}  # torch.compile adds this prefix
    return {short[6:]: weights[name] for name, short in names.items() if short.startswith("model.")}


def load_file(path: Path) -> tuple[Codec, Metadata]:
    """Call `load_model` or `load_checkpoint`, depending on the file's suffix."""
    return load_checkpoint(path) if path.suffix == ".ckpt" else load_model(path)


def move(model: Codec, device: str) -> Codec:
    """Move a model to a device.

    Raises:
        ConfigError: this machine does not have the device.
    """
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"The device {device!r} is not available.", expected="a device of this machine", got=reason
        ) from error


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read.", expected="a complete model file", got=reason, to_do=_COPY_AGAIN)


def _build(config: Mapping[str, Any], tensors: Mapping[str, Tensor], tables: Mapping[str, Tensor], path: Path) -> Codec:
    """Return the model ready to code, with ``tables`` unless there are none.

    Shapes are compared before the model takes memory: a file of 1 kB that declares N=M=3000 would cost 13 GB.
    """
    try:
        with at_most_parameters(_BUILT_PARAMETERS * len(tensors) + 64):
            shapes = networks.tensors(config)
    except (ValueError, TypeError, Unreadable) as error:
        raise CheckpointError(
            f"{path} has a configuration from which no model can be built.", expected="a known model", got=reason(error)
        ) from error
    _check_shapes(shapes, config, tensors, path)
    model = build(config)
    fill(model, config, tensors, path)
    if tables:
        model.use_tables(tables)
    else:
        model.update()
    return model


def fill(model: Codec, config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load all tensors into a model that ``config`` built, and set it to eval mode. ``path`` is their origin.

    Raises:
        CheckpointError: the tensors belong to another model.
    """
    _check_shapes(model.state_dict(), config, tensors, path)
    model.load_state_dict(tensors)
    model.eval()


def _check_shapes(
    expected: Mapping[str, Tensor], config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> None:
    if problems := _mismatches(expected, tensors):
        more = f"and {len(problems) - _NAMED} more"
        raise CheckpointError(
            f"{path} has tensors that do not fit its configuration: it is from another model or another version.",
            expected=f"the tensors of {dict(config)}",
            got="\n".join(problems[:_NAMED] + [more] * (len(problems) > _NAMED)),
        )


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
