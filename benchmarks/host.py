"""Processor time of a training step apart from its network: the Trainer of train.py against a bare loop.

The bare step is zero_grad, forward, loss, backward and the optimizer's step of an equal network, in a plain loop. A
step of the Trainer adds the conversion of the batch, the clip, callbacks, loggers and checks of train.py, and
Lightning. Both train mbt2018_mean with 8 channels on one 64-pixel crop that is already in memory, alternating within
one process and on one thread, so other load on the machine changes both. Compare the difference: on a GPU it is the
time in which the processor launches no kernels of the network.

    python benchmarks/host.py [--steps 200] [--profile FILE] [OVERRIDE ...]
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, IterableDataset

from lic_train.config.compose import compose
from lic_train.config.run import RunConfig, checked
from lic_train.data.stream.on_device import to_floats
from lic_train.runs.claim import ResumeState
from lic_train.training import setup
from lic_train.training.module import LitCodec
from lic_train.training.optim import make_optimizer

WARM_UP = 20


class OneBatch(IterableDataset):
    """The same batch in every step."""

    def __init__(self, batch: dict[str, object]) -> None:
        self.batch = batch

    def __iter__(self) -> itertools.repeat:
        return itertools.repeat(self.batch)


def bare_step(config: RunConfig, batch: dict[str, object]) -> Callable[[], None]:
    """Return a function that trains a network of its own for one step, without Lightning."""
    model, recipe = setup.make_model(config), config.make_recipe()
    optimizer, x = make_optimizer(model, recipe), to_floats(batch["x"], batch["flip"])  # type: ignore[arg-type]

    def step() -> None:
        optimizer.zero_grad()
        loss = recipe(model(x), x, 0)["loss"] + model.aux_loss()
        loss.backward()
        optimizer.step()

    return step


class Alternation(L.Callback):
    """Runs a bare step after each step of the Trainer and measures the processor time of both."""

    def __init__(self, step: Callable[[], None], profile: cProfile.Profile | None) -> None:
        self.step, self.profile = step, profile
        self.seconds: dict[str, list[float]] = {"bare": [], "trainer": []}
        self._began = time.process_time()

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if self.profile:
            self.profile.disable()
        ended = time.process_time()
        self.seconds["trainer"].append(ended - self._began)
        self.step()
        self._began = time.process_time()
        self.seconds["bare"].append(self._began - ended)
        if self.profile and trainer.global_step > WARM_UP:
            self.profile.enable()


def configuration(folder: Path, steps: int, overrides: list[str]) -> RunConfig:
    """Return the configuration of a run of the small network on one made-up photograph."""
    (folder / "photographs").mkdir()
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (80, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photographs" / f"{index}.png")
    command = [
        "model=mbt2018_mean", "model.N=8", "model.M=8", "lambda=0.0067", "recipe=common", "data=folder",
        f"data.root={folder / 'photographs'}", "data.source.val_ratio=0.5", "data.source.cache=null",
        "data.num_workers=0", f"steps={steps}", "batch_size=1", "crop=64", "precision=32", "logger=csv",
        "recipe.stages=[{name: main, share: 1, lr: 1.0e-4}]", f"output={folder}", "checkpoint.every=1000000",
        "validate.bitstreams=0", "trainer.accelerator=cpu", *overrides,
    ]  # fmt: skip
    return checked(compose(command))


def measure(steps: int, overrides: list[str], profile: cProfile.Profile | None) -> dict[str, list[float]]:
    """Return the processor seconds of every step after the warm-up, of the bare loop and of the Trainer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = configuration(folder, steps + WARM_UP, overrides)
        data, model = setup.make_data(config), setup.make_model(config)
        batch = next(iter(data.stream()))
        data.train_dataloader = lambda: DataLoader(OneBatch(batch), batch_size=None)  # type: ignore[method-assign]
        run, clock = ResumeState(folder, "new"), Alternation(bare_step(config, batch), profile)
        with setup.loggers(config, run) as loggers:
            trainer = setup.make_trainer(config, run, loggers, data)
            trainer.callbacks.append(clock)  # type: ignore[attr-defined]
            trainer.limit_val_batches = 0
            module: LitCodec = setup.make_module(config, model)
            trainer.fit(module, data)
    return {name: seconds[WARM_UP:] for name, seconds in clock.seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--profile", type=Path, help="write a cProfile of the Trainer's steps to this file")
    parser.add_argument("overrides", nargs="*", default=[], help="overrides, such as ema=0.999 or model=elic2022")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    profile = cProfile.Profile() if arguments.profile else None
    seconds = measure(arguments.steps, arguments.overrides, profile)
    if profile:
        profile.dump_stats(arguments.profile)
    beyond = [1e3 * (ours - bare) for ours, bare in zip(seconds["trainer"], seconds["bare"], strict=True)]
    milliseconds = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    milliseconds["trainer - bare"] = statistics.median(beyond)
    table = Table("step", "processor time in ms (median)")
    for name, value in milliseconds.items():
        table.add_row(name, f"{value:.2f}")
    console = Console()
    console.print(f"torch {torch.__version__}, {' '.join(arguments.overrides) or 'default options'}")
    console.print(table)
    console.print_json(json.dumps({"milliseconds": milliseconds, "pairs": len(beyond)}))


if __name__ == "__main__":
    main()
