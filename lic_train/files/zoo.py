"""Import of weights that CompressAI published or that its example script trained.

``lic zoo FILE.pth.tar OUT.safetensors model=mbt2018_mean lambda=0.0067`` writes a model file for evaluation, coding and
further training (``init_from=``). The quantiles are solved again: where CompressAI's own were not fully trained, z is
rounded around slightly different medians here.
"""

from __future__ import annotations

import re
import sys
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
from lic_train.files.arguments import zoo_parser
from lic_train.files.checkpoint import fill, save_model
from lic_train.models.base import Codec, build
from lic_train.system.command import command
from lic_train.system.screen import reason

# Constants, and tables that are rebuilt from the other tensors.
_MADE_HERE = re.compile(
    r"(^|\.)(_offset|_quantized_cdf|_cdf_length|scale_table|scale_bound|target|mask|bound|pedestal)$"
)
# (name in older releases of CompressAI, present name)
_OLD_NAMES = (
    (re.compile(r"^module\."), ""),  # DataParallel
    (re.compile(r"\.downsample\."), ".skip."),
    (re.compile(r"\._matri(?:x|ces\.)(\d)$"), r".matrices.\1"),
    (re.compile(r"\._bias(?:es\.)?(\d)$"), r".biases.\1"),
    (re.compile(r"\._factor(?:s\.)?(\d)$"), r".factors.\1"),
)


class Options(Section):
    """Validated conf/zoo.yaml."""

    model: dict[str, Any]
    lmbda: Annotated[PositiveFloat, Field(alias="lambda")]
    distortion: str


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a CompressAI file, under the names of its present release. Runs no code from the file.

    Args:
        path: a state_dict, or a checkpoint of the example script, which contains one.

    Raises:
        CheckpointError: the file is missing, cut short, or of another kind.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # invalid bytes can raise anything in an unpickler
        raise _foreign(path, reason(error)) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not (isinstance(content, Mapping) and content and all(isinstance(t, Tensor) for t in content.values())):
        raise _foreign(path, f"a file that contains {type(content).__name__} without weights")
    return {_present_name(str(name)): tensor for name, tensor in content.items()}


def take_over(path: Path, config: Mapping[str, Any]) -> Codec:
    """Return the model that ``config`` describes with the weights of ``path``, ready to code.

    Args:
        path: see `read_weights`.
        config: accepted by `lic_train.models.base.build`, of a model whose networks are CompressAI's.

    Raises:
        ConfigError: the model does not exist in CompressAI.
        CheckpointError: the weights have another model or width, or are not finite.
    """
    try:
        model = build(config)
    except ValueError as error:
        raise ConfigError("The configuration of the model is not valid.", got=str(error)) from error
    if model.compressai_names is None:
        raise ConfigError(
            f"Weights cannot be imported for {config['_target_']}.",
            expected="a model whose networks are CompressAI's",
            to_do="train it here",
        )
    weights = {_renamed(name, model.compressai_names): tensor for name, tensor in read_weights(path).items()}
    taken = {name: tensor for name, tensor in weights.items() if not _MADE_HERE.search(name)}
    if broken := [name for name, tensor in taken.items() if not bool(torch.isfinite(tensor).all())]:
        raise CheckpointError(
            f"{path} has weights that are not finite.", expected="finite weights", got=f"NaN or infinity in {broken[0]}"
        )
    constants = {name: tensor for name, tensor in model.state_dict().items() if _MADE_HERE.search(name)}
    try:
        fill(model, config, {**constants, **taken}, path)
    except CheckpointError as error:
        advice = "select the file's model and widths: model=, and lambda= or model.N= and model.M="
        raise CheckpointError(error.what, expected=error.expected, got=error.got, to_do=advice) from error
    model.update()
    return model


def _foreign(path: Path, got: str) -> CheckpointError:
    return CheckpointError(
        f"{path} does not contain weights of a CompressAI model.",
        expected="a .pth.tar file of its zoo, or a checkpoint of its example script",
        got=got,
    )


def _present_name(name: str) -> str:
    for old, new in _OLD_NAMES:
        name = old.sub(new, name)
    return name


def _renamed(name: str, beginnings: Sequence[tuple[str, str]]) -> str:
    """Replace the first matching prefix of a tensor's name."""
    there, here = next((pair for pair in beginnings if name.startswith(pair[0])), ("", ""))
    return here + name.removeprefix(there)


@command()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    arguments = zoo_parser().parse_intermixed_args(argv)
    options = read_section(Options, arguments.overrides, "zoo")
    model = take_over(arguments.source, options.model)
    extra = {"lambda": options.lmbda, "distortion": options.distortion, "source": arguments.source.name}
    identity = save_model(arguments.target, model, options.model, extra)
    written = f"{arguments.source} -> {arguments.target}, fingerprint {identity.hex()}"
    Console().print(Text(written), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
