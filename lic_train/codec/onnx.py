"""Export of a codec as ONNX networks, integer tables and a description, for decoders without PyTorch.

docs/onnx.md describes the folder. Networks that select a probability or a reconstruction point are exported in
float64, with the operators that onnxruntime has; see `lic_train.codec.onnx_operators`.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from lic_train.entropy import mixture_tables
from lic_train.entropy.close_calls import TOLERANCE
from lic_train.entropy.coder import WEIGHT_BITS, Table
from lic_train.entropy.gaussian import GaussianConditional, gaussian_tables
from lic_train.entropy.mixture import GaussianMixture
from lic_train.entropy.quantize import MAX_MEAN, STEPS_PER_UNIT
from lic_train.errors import BitstreamError, CheckpointError, ConfigError
from lic_train.files import container
from lic_train.files.checkpoint import Metadata
from lic_train.models.base import Codec, HyperpriorCodec
from lic_train.system import atomic
from lic_train.system.screen import reason

FORMAT = 1
OPSET = 18
TABLES, DESCRIPTION = "tables.safetensors", "codec.json"
# Height and width, in units of the downsampling factor, for which networks are traced. Exported networks take any size.
_TRACED = (2, 3)


class _Network(nn.Module):
    """A step of a codec as a module: ``step(codec, x)``."""

    def __init__(self, codec: Codec, step: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.codec, self.step = codec, step

    def forward(self, x: Tensor) -> Any:
        """Return the tensors of the step."""
        return self.step(self.codec, x)


class _Parameters(nn.Module):
    """Replacement of a density: decoding returns the parameters that the context passes to it."""

    def decompress(self, string: bytes, *parameters: Tensor) -> tuple[Tensor, ...]:
        """Return the parameters."""
        return parameters


def write_onnx(codec: Codec, metadata: Metadata, out: Path) -> list[str]:
    """Write the folder ``out`` and return the names of the parts of the codec that it lacks.

    Args:
        codec: in eval mode, with coding tables, on the CPU; it does not change.
        metadata: of ``codec``.
        out: receives one ONNX file for each network, the tables and, at last, the description.

    Raises:
        CheckpointError: ``out`` is not writable.
        ConfigError: onnx or onnxscript is not installed, or the codec has a variable rate.
    """
    _require_onnx()
    if codec.ladder is not None:
        raise ConfigError(
            "A model with a variable rate cannot be exported to ONNX.",
            expected="a model with one rate",
            got=f"{len(codec.ladder)} levels",
        )
    with torch.no_grad(), _quiet():
        networks, parameters = _hyperprior(codec) if isinstance(codec, HyperpriorCodec) else _plain(codec)
    missing = {name: model for name, model in networks.items() if isinstance(model, str)}
    if parameters is None:
        missing |= dict.fromkeys(_other_networks(codec), "its steps alternate with entropy coding")
    written = {name: model for name, model in networks.items() if name not in missing}
    description = {
        "format": FORMAT,
        "lic_version": container.VERSION,
        "model": metadata.config,
        "fingerprint": metadata.fingerprint.hex(),
        "downsampling_factor": codec.downsampling_factor,
        "networks": list(written),
        "missing": missing,
        "weight_bits": WEIGHT_BITS,
        "close_call_tolerance": TOLERANCE,
        "sections": _sections(codec, parameters),
    }
    files = {f"{name}.onnx": model.SerializeToString() for name, model in written.items()}
    files[TABLES] = save({**codec.coding_tables(), **_shared_tables(codec)})
    files[DESCRIPTION] = json.dumps(description, indent=2).encode()
    try:
        for name, content in files.items():
            atomic.replace_bytes(out / name, content)
    except OSError as error:
        raise CheckpointError(
            f"{out} could not be written.", expected="a writable folder with enough free space", got=reason(error)
        ) from error
    return list(missing)


def _require_onnx() -> None:
    absent = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"lic export --onnx needs {' and '.join(absent)}, which cannot be found.",
            expected="the packages of the extra onnx",
            to_do="pip install 'lic-train[onnx]'",
        )


# Networks by name, a reason where tracing failed; and the parameters of y by name, None if a context predicts them.
Traced = tuple[dict[str, Any], tuple[str, ...] | None]


def _hyperprior(codec: HyperpriorCodec) -> Traced:
    """Trace g_a, h_a, h_s and g_s."""
    factor = codec.downsampling_factor
    x = torch.zeros(1, 3, *(factor * side for side in _TRACED))
    y, z = codec._analyse(x)
    predict, outputs = _prediction(codec, z)
    whole = _trace(codec, lambda codec, x: codec._analyse(x), ("x", x), ("y", "z"))
    networks = {
        "g_a": _part(whole, "x", "y"),
        "h_a": _part(whole, "y", "z"),
        "h_s": _trace(predict, _predicted, ("z_hat", torch.zeros_like(z).double()), outputs),
        "g_s": _trace(codec, lambda codec, y: codec._synthesise(y), ("y_hat", torch.zeros_like(y)), ("x_hat",)),
    }
    return networks, None if outputs == ("psi",) else outputs


def _plain(codec: Codec) -> Traced:
    """Trace g_a and g_s of a codec without hyperprior, as modules."""
    factor = codec.downsampling_factor
    x = torch.zeros(1, 3, *(factor * side for side in _TRACED))
    seen: list[Tensor] = []
    handle = codec.get_submodule("g_s").register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    codec(x)
    handle.remove()
    networks = {
        "g_a": _trace(codec, lambda codec, x: codec.g_a(x), ("x", x), ("y",)),
        "g_s": _trace(codec, lambda codec, y: codec.g_s(y), ("y_hat", torch.zeros_like(seen[0])), ("x_hat",)),
    }
    return networks, None if _other_networks(codec) else ()


def _other_networks(codec: Codec) -> list[str]:
    """Return the networks that decode, besides those that are traced and factorised densities."""
    if isinstance(codec, HyperpriorCodec):
        return ["context"]
    known = {"g_a", "g_s", *codec.named_bottlenecks()}
    return [name for name, child in codec.named_children() if name not in known and list(child.parameters())]


def _prediction(codec: HyperpriorCodec, z: Tensor) -> tuple[Any, tuple[str, ...]]:
    """Return a float64 copy of the codec for `_predicted`, and the names of the values that this returns."""
    predict: Any = copy.deepcopy(codec).double()
    density = _density(predict)
    for module in list(predict.modules()):
        for name, child in module.named_children():
            if child is density:
                setattr(module, name, _Parameters())
    try:
        parameters = predict.context.decompress(b"", predict._psi(torch.zeros_like(z).double()))
    except BitstreamError:  # a context of several steps expects a string
        predict.context = _Parameters()
        return predict, ("psi",)
    names = ("weights", "means", "scales") if isinstance(density, GaussianMixture) else ("scales", "means")
    return predict, names[: len(parameters)]


def _predicted(codec: HyperpriorCodec, z_hat: Tensor) -> tuple[Tensor, ...]:
    """Return the parameters of y, or psi if its context has several steps."""
    return tuple(codec.context.decompress(b"", codec._psi(z_hat)))


def _density(codec: HyperpriorCodec) -> GaussianConditional | GaussianMixture:
    """Return the density of y."""
    assert isinstance(codec.context, nn.Module)
    kinds = (GaussianConditional, GaussianMixture)
    return next(module for module in codec.context.modules() if isinstance(module, kinds))


def _trace(codec: Codec, step: Callable[[Any, Tensor], Any], given: tuple[str, Tensor], outputs: Sequence[str]) -> Any:
    """Return the ONNX model of a step of the codec, for maps of any size, or the reason why there is none."""
    from lic_train.codec.onnx_operators import FLOAT64  # imports onnxscript, which is optional

    name, x = given
    scale = [side // traced for side, traced in zip(x.shape[2:], _TRACED, strict=True)]
    sizes = {2: scale[0] * torch.export.Dim("rows"), 3: scale[1] * torch.export.Dim("columns")}
    try:
        program = torch.export.export(_Network(codec, step), (x,), dynamic_shapes=(sizes,), strict=False)
        traced: Any = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[name],
            output_names=list(outputs),
            opset_version=OPSET,
            custom_translation_table=FLOAT64 if x.dtype == torch.float64 else None,
            verbose=False,
        )
    except Exception as error:  # the tracers raise errors of many types
        return reason(error)
    assert traced is not None, "with dynamo=True a program is returned"
    return traced.model_proto


def _part(model: Any, given: str, output: str) -> Any:
    """Return the part of an ONNX model between two of its values, or the reason why there is none."""
    if isinstance(model, str):
        return model
    from onnx.utils import Extractor

    part = Extractor(model).extract_model([given], [output])
    known = {given, "", *(tensor.name for tensor in part.graph.initializer)}
    known |= {name for node in part.graph.node for name in node.output}
    outside = {name for node in part.graph.node for name in node.input} - known
    return f"it also depends on {', '.join(sorted(outside))}" if outside else part


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without the progress messages and warnings of the exporters."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _sections(codec: Codec, parameters: tuple[str, ...] | None) -> list[dict[str, Any]]:
    """Return the description of the sections of a file, in their order."""
    factorized = [{"density": "factorized", "tables": name} for name in codec.named_bottlenecks()]
    if not isinstance(codec, HyperpriorCodec):
        return [] if parameters is None else [{"latent": "y", **factorized[0]}]
    return [{"latent": "y", **_conditional(codec, parameters)}, {"latent": "z", **factorized[0]}]


def _conditional(codec: HyperpriorCodec, parameters: tuple[str, ...] | None) -> dict[str, Any]:
    """Return the description of the density of y: its parameters, which h_s computes, and their grids."""
    density = _density(codec)
    if isinstance(density, GaussianConditional):
        kind = {"density": "gaussian", "scale_range": density.table_range, "steps_per_unit": STEPS_PER_UNIT}
    else:
        kind = {
            "density": "mixture",
            "scale_min": float(density.lower_bound_scale.bound),
            "scale_unit": mixture_tables.SCALE_UNIT,
            "levels_per_octave": mixture_tables.LEVELS_PER_OCTAVE,
            "levels": [mixture_tables.LOWEST_LEVEL, mixture_tables.HIGHEST_LEVEL],
            "weight_bits": mixture_tables.WEIGHT_BITS,
            "total": mixture_tables.TOTAL,
            "max_width": mixture_tables.MAX_WIDTH,
            "chunk_cells": mixture_tables.CHUNK_CELLS,
        }
    return {**kind, "max_mean": MAX_MEAN, "parameters": parameters}


def _shared_tables(codec: Codec) -> dict[str, Tensor]:
    """Return the integers of the density of y, which are the same for all models."""
    if not isinstance(codec, HyperpriorCodec):
        return {}
    density = _density(codec)
    if isinstance(density, GaussianConditional):
        return _packed("gaussian", gaussian_tables(*density.table_range))
    tables = mixture_tables.normal_tables()
    parts = {"bits": tables.bits, "radius": tables.radius, "values": tables.values}
    return {f"mixture.{name}": torch.from_numpy(part).int() for name, part in parts.items()}


def _packed(name: str, tables: Sequence[Table]) -> dict[str, Tensor]:
    """Return tables in the layout of `EntropyBottleneck.coding_tables`."""
    return {
        f"{name}.minimum": torch.tensor([table.minimum for table in tables], dtype=torch.int32),
        f"{name}.size": torch.tensor([table.size for table in tables], dtype=torch.int32),
        f"{name}.weights": torch.cat([torch.from_numpy(table.weights) for table in tables]),
    }
