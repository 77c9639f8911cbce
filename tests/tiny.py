"""Tiny codecs, runs and pictures for the tests of files and evaluation; also imported by their child processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lic_train.files.checkpoint import save_model
from lic_train.models.base import Codec, build

FACTORIZED = {"_target_": "lic_train.models.bmshj2018_factorized.FactorizedPrior", "N": 8, "M": 8}
HYPERPRIOR = {"_target_": "lic_train.models.bmshj2018_hyperprior.ScaleHyperprior", "N": 8, "M": 8}
SERIAL = {"_target_": "lic_train.models.mbt2018.JointAutoregressive", "N": 8, "M": 8}


def make_codec(config: dict[str, Any] = FACTORIZED, seed: int = 0) -> Codec:
    """Return a codec with random weights and varied latents, ready to code."""
    torch.manual_seed(seed)
    codec = build(config)
    with torch.no_grad():
        codec.g_a[-1].weight.mul_(100)
    codec.eval()
    codec.update()
    return codec


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Return uint8 (3, H, W): smooth coarse noise plus fine noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    noisy = smooth * 230 + torch.rand(3, height, width, generator=generator) * 25
    return noisy.to(torch.uint8)


def make_run(run: Path, seed: int = 0, config: dict[str, Any] = FACTORIZED) -> Codec:
    """Write a run directory that contains only its best model."""
    codec = make_codec(config, seed)
    save_model(run / "checkpoints" / "best.safetensors", codec, config, {"step": 7, "run_config": {"lambda": 0.0067}})
    return codec


def save_checkpoint(path: Path, codec: Codec, config: dict[str, Any], step: int, **more: Any) -> None:
    """Write a training checkpoint with the keys that these tests need."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": tensor for name, tensor in codec.state_dict().items()}
    torch.save({"state_dict": weights, "model_config": config, "global_step": step, **more}, path)
