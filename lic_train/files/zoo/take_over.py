"""Other projects' weights in a model of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lic_train.errors import CheckpointError
from lic_train.files.checkpoint import fill
from lic_train.files.zoo.network import OPTIONAL, Recognised, bias_table
from lic_train.files.zoo.reading import read_weights
from lic_train.files.zoo.recognition import recognise, renamed
from lic_train.models.base import Codec, build


def take_over(sources: Sequence[Path], config: Mapping[str, Any] | None = None) -> tuple[Codec, Recognised]:
    """Return a model with the weights of the authors' files, in eval mode, and what was recognised.

    Masked convolutions are multiplied by the masks that the files contain. The medians of z are those of the files; a
    network without stored quantiles gets solved ones.

    Args:
        sources: see `lic_train.files.zoo.reading.read_weights`.
        config: accepted by `lic_train.models.base.build`; None recognises model and widths from the tensors.

    Raises:
        ConfigError: ``config`` is not valid.
        CheckpointError: a file cannot be read, its tensors are those of another or unknown network, or they are not
            finite.
    """
    weights = _masked(read_weights(sources))
    found = recognise(weights) if config is None else renamed(config, weights)
    _check_finite(found)
    model = build(found.config)
    here = model.state_dict()
    optional = {name: tensor for name, tensor in here.items() if OPTIONAL.search(name)}
    taken = {name: _as_here(tensor, here[name]) for name, tensor in found.weights.items()}
    fill(model, found.config, {**optional, **taken}, sources[0])
    model.update(keep_medians=any(name.endswith(".quantiles") for name in taken))
    return model, found


def _masked(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply weights by the masks beside them: the authors' code applies a mask only when it calls the layer."""
    masks = {name.removesuffix("mask") + "weight": mask for name, mask in weights.items() if name.endswith(".mask")}
    return {
        name: tensor * masks[name] if name in masks and masks[name].shape == tensor.shape else tensor
        for name, tensor in weights.items()
    }


def _check_finite(found: Recognised) -> None:
    if broken := [name for name, tensor in found.weights.items() if not bool(torch.isfinite(tensor).all())]:
        raise CheckpointError(
            "The weights are not finite.",
            expected="finite weights",
            got=f"NaN or infinity in {found.label(broken[0])}",
            to_do="copy the file again",
        )


def _as_here(tensor: Tensor, here: Tensor) -> Tensor:
    """Return a tensor in the shape and precision of this package."""
    if bias_table(tuple(tensor.shape), tuple(here.shape)):
        tensor = tensor.flatten(1).T
    same_kind = tensor.is_floating_point() == here.is_floating_point()
    return tensor.reshape(here.shape).to(here.dtype if same_kind else tensor.dtype)
