"""Weights that CompressAI published or its example script trained, as a model of this package.

``python -m lic_train.files.zoo FILE.pth.tar OUT.safetensors model=mbt2018_mean lambda=0.0067``; what it writes can be
evaluated, coded with, and trained on (``init_from=``). The quantiles are solved anew: where training
had not brought CompressAI's own to their end, z is rounded around slightly other medians here.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat
from rich.console import Console
from rich.text import Text
from torch import Tensor

from lic_train.config.compose import Section, read_section
from lic_train.errors import CheckpointError, ConfigError
from lic_train.files.checkpoint import fill, save_model
from lic_train.models.base import Codec, build
from lic_train.system.screen import errors_without_traceback, reason

# Tables that are built anew from the other tensors, and constants.
_MADE_HERE = re.compile(
    r"(^|\.)(_offset|_quantized_cdf|_cdf_length|scale_table|scale_bound|target|mask|bound|pedestal)$"
)
# What older releases of CompressAI called a tensor, and its present name.
_OLD_NAMES = (
    (re.compile(r"^module\."), ""),  # of DataParallel
    (re.compile(r"\.downsample\."), ".skip."),
    (re.compile(r"\._matri(?:x|ces\.)(\d)$"), r".matrices.\1"),
    (re.compile(r"\._bias(?:es\.)?(\d)$"), r".biases.\1"),
    (re.compile(r"\._factor(?:s\.)?(\d)$"), r".factors.\1"),
)


class Options(Section):
    """conf/zoo.yaml, checked."""

    model: dict[str, Any]
    lmbda: Annotated[PositiveFloat, Field(alias="lambda")]
    distortion: str


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of CompressAI's, by the names of its present release. Runs no code found in the file.

    Args:
        path: a state_dict, or a checkpoint of the example script, which holds one.

    Raises:
        CheckpointError: missing, cut short, or something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # strange bytes can raise anything inside an unpickler
        raise _foreign(path, reason(error)) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not (isinstance(content, Mapping) and content and all(isinstance(t, Tensor) for t in content.values())):
        raise _foreign(path, f"a file that holds {type(content).__name__} without weights")
    return {_present_name(str(name)): tensor for name, tensor in content.items()}


def take_over(path: Path, config: Mapping[str, Any]) -> Codec:
    """The model that ``config`` describes with the weights of ``path``, ready to code.

    Args:
        path: see `read_weights`.
        config: what `lic_train.models.base.build` takes, of a model whose networks are CompressAI's.

    Raises:
        ConfigError: the model is none of CompressAI's.
        CheckpointError: the weights are those of another model or width, or not finite.
    """
    try:
        model = build(config)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    if model.compressai_names is None:
        raise ConfigError(
            f"model: expected one whose networks are CompressAI's, got {config['_target_']}; train it here instead"
        )
    weights = {_renamed(name, model.compressai_names): tensor for name, tensor in read_weights(path).items()}
    taken = {name: tensor for name, tensor in weights.items() if not _MADE_HERE.search(name)}
    if broken := [name for name, tensor in taken.items() if not bool(torch.isfinite(tensor).all())]:
        raise CheckpointError(f"expected finite weights in {path}, got NaN or infinity in {broken[0]}")
    constants = {name: tensor for name, tensor in model.state_dict().items() if _MADE_HERE.search(name)}
    try:
        return fill(model, config, {**constants, **taken}, path)
    except CheckpointError as error:
        advice = "what to do: name its model and its widths (by lambda=, or model.N= and model.M=)"
        raise CheckpointError(f"{error}\n{advice}") from error


def _foreign(path: Path, got: str) -> CheckpointError:
    return CheckpointError(
        f"expected weights of a CompressAI model in {path}, got {got}\n"
        "what to do: give a .pth.tar of its zoo, or a checkpoint that its example script wrote"
    )


def _present_name(name: str) -> str:
    for old, new in _OLD_NAMES:
        name = old.sub(new, name)
    return name


def _renamed(name: str, beginnings: Sequence[tuple[str, str]]) -> str:
    """The name here of a tensor there: the first beginning that fits is replaced."""
    there, here = next((pair for pair in beginnings if name.startswith(pair[0])), ("", ""))
    return here + name.removeprefix(there)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 2 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m lic_train.files.zoo",
        description="Turn weights of CompressAI's models into a model of this package.",
        epilog="Overrides: model=mbt2018_mean lambda=0.0067 distortion=mse model.N=128 model.M=192",
    )
    parser.add_argument("source", type=Path, metavar="FILE.pth.tar")
    parser.add_argument("target", type=Path, metavar="OUT.safetensors")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in conf/zoo.yaml")
    arguments = parser.parse_args(argv)
    with errors_without_traceback():
        options = read_section(Options, arguments.overrides, "zoo")
        model = take_over(arguments.source, options.model)
        extra = {"lambda": options.lmbda, "distortion": options.distortion, "source": arguments.source.name}
        identity = save_model(arguments.target, model, options.model, extra)
        told = f"{arguments.source} -> {arguments.target}, fingerprint {identity.hex()}"
        Console().print(Text(told), soft_wrap=True)


if __name__ == "__main__":
    main()
