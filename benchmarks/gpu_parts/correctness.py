"""Correctness on the device: losses against those of the CPU, and files that cross between the two."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from benchmarks.gpu_parts.setting import Result, Setting
from lic_train.data.stream.on_device import to_floats
from lic_train.entropy import noise
from lic_train.files.bitstream import decode, encode
from lic_train.models.base import Codec, build
from lic_train.recipes.recipe import Recipe
from lic_train.training.optim import make_optimizer
from tests.conftest import SMALL, make_varied_codec
from tests.tiny import picture

STEPS = 3
# Largest relative difference of a loss from that of the CPU in float32.
TOLERANCE = {"32": 1e-3, "bf16": 5e-2}
FINGERPRINT = bytes(8)


@contextmanager
def noise_of_the_cpu() -> Iterator[None]:
    """Context in which models draw their noise on the CPU; the generators of the devices differ."""
    uniform = noise.uniform

    def drawn(like: Tensor, low: float = 0.0, high: float = 1.0, dim: int = 0) -> Tensor:
        return uniform(torch.empty(like.shape), low, high, dim).to(like.device)

    with ExitStack() as patches:
        for module in list(sys.modules.values()):
            if module.__name__.startswith("lic_train.") and vars(module).get("uniform") is uniform:
                patches.enter_context(mock.patch.object(module, "uniform", drawn))
        yield


@contextmanager
def exact_float32() -> Iterator[None]:
    """Context in which float32 convolutions do not use TF32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def losses(model: Codec, recipe: Recipe, batch: Tensor, bf16: bool) -> list[float]:
    """Return the losses of the first steps of a training on one batch, uint8 (B, 3, H, W)."""
    x = to_floats(batch, torch.zeros(len(batch), dtype=torch.bool, device=batch.device))
    optimizer, found = make_optimizer(model.train(), recipe), []
    for step in range(STEPS):
        torch.manual_seed(step)
        with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=bf16):
            loss = recipe(model(x), x, step)["loss"]
        optimizer.zero_grad()
        (loss + model.aux_loss()).backward()
        clip_grad_norm_(model.net_parameters(), recipe.clip_norm)
        optimizer.step()
        found.append(loss.item())
    return found


def check_losses(setting: Setting, seconds: float) -> Result:
    """Compare the losses of every model in fp32 and bf16 with those of the CPU in fp32."""
    side = 64 if setting.quick else 128
    batch = torch.stack([picture(side, side, seed) for seed in range(2)])

    def check(name: str) -> Result:
        torch.manual_seed(0)
        model = build(setting.model(name))
        recipe = setting.run(name, 1000, setting.folder).make_recipe()
        found = {"cpu": losses(copy.deepcopy(model), recipe, batch, bf16=False)}
        for precision in TOLERANCE:
            there = copy.deepcopy(model).to(setting.device)
            found[precision] = losses(there, recipe, batch.to(setting.device), bf16=precision == "bf16")
        apart = {p: largest_difference(found[p], found["cpu"]) for p in TOLERANCE}
        far = [f"{name} in {p}: {apart[p]:.2g}" for p, limit in TOLERANCE.items() if not apart[p] <= limit]
        return {"losses": found, "difference": apart, "failed": far}

    with noise_of_the_cpu(), exact_float32():
        return each_model(setting.some(SMALL), check, seconds)


def each_model(names: Sequence[str], check: Callable[[str], Result], seconds: float) -> Result:
    """Check one model after another until the time is over; an error fails the check of its model only."""
    end, rows = time.monotonic() + seconds, {}
    for name in names:
        if time.monotonic() > end:
            rows[name] = {"skipped": "no time left"}
            continue
        try:
            rows[name] = check(name)
        except Exception as error:
            rows[name] = {"failed": [f"{name}: {type(error).__name__}: {error}"]}
    return {"rows": rows, "failed": [problem for row in rows.values() for problem in row.get("failed", [])]}


def largest_difference(found: list[float], expected: list[float]) -> float:
    """Return the largest relative difference; NaN if a loss is NaN."""
    return float((torch.tensor(found).div(torch.tensor(expected)) - 1).abs().max())


def check_files(setting: Setting, seconds: float) -> Result:
    """Code on the device and decode on the CPU, and the reverse: all pictures with the first model, one with others."""
    pictures = setting.pictures()
    first, *_ = names = sorted(setting.some(SMALL), key=lambda name: name != "mbt2018_mean")

    def check(name: str) -> Result:
        on_cpu = make_varied_codec(name, dict(setting.widths(name)))
        there = copy.deepcopy(on_cpu).to(setting.device)
        images = pictures if name == first else [pictures[0][:, :128, :128]]
        apart = [crossed(on_cpu, there, image, setting.device) for image in images]
        return {"pictures": len(images), "largest_difference": max(apart)}

    with exact_float32():
        return each_model(names, check, seconds)


def crossed(on_cpu: Codec, there: Codec, image: Tensor, device: str) -> float:
    """Code one picture on each side and decode it on the other; return the largest difference of both decoders.

    Raises:
        BitstreamError: a file cannot be decoded.
    """
    apart = 0.0
    for data in (encode(there, image.to(device), FINGERPRINT), encode(on_cpu, image, FINGERPRINT)):
        here, far = decode(on_cpu, data, FINGERPRINT), decode(there, data, FINGERPRINT)
        apart = max(apart, float((here - far.cpu()).abs().max()))
    return apart
