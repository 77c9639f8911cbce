"""Images per second of train.py and of CompressAI's documented loop, in alternating steps.

Both train mbt2018_mean (N=128, M=192, batch 8, 256-pixel crops) on the same photographs. The documented loop is that of
CompressAI's example script: Pillow ImageFolder with RandomCrop and ToTensor, two Adams, two backward passes, a clip,
fp32. Ours is the Trainer of train.py with all callbacks and loggers. Absolute speeds vary with the load of the machine;
compare the ratio, which is the median over pairs of consecutive steps.

    python benchmarks/train_step.py [--photographs FOLDER] [--steps 12] [--crop 256] [OVERRIDE ...]
    python benchmarks/train_step.py [--photographs FOLDER] --parity 300 --crop 64

``--parity`` compares losses instead of speeds: ours and two seeds of the documented loop, on the same batches.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import compressai.models
import lightning as L
import torch
from compressai.datasets import ImageFolder
from compressai.losses import RateDistortionLoss
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from lic_train.config.compose import compose
from lic_train.config.run import RunConfig, checked
from lic_train.data.stream.on_device import to_floats
from lic_train.runs.claim import ResumeState
from lic_train.runs.metric_names import TRAIN
from lic_train.training import setup
from lic_train.training.module import LitCodec, noise_seed

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet_sample"
WARM_UP = 2
N, M, LAMBDA = 128, 192, 0.0067


class DocumentedLoop:
    """One step of CompressAI's example script: two optimisers, two backward passes, fp32."""

    def __init__(
        self,
        weights: dict[str, Tensor] | None = None,
        width: tuple[int, int] = (N, M),
        network: nn.Module | None = None,
    ) -> None:
        self.model = (network or compressai.models.MeanScaleHyperprior(*width)).train()
        if weights is not None:
            # CompressAI's own loader requires coding tables.
            missing = nn.Module.load_state_dict(self.model, weights, strict=False).missing_keys
            assert not set(missing) & dict(self.model.named_parameters()).keys()
        aux = [p for name, p in self.model.named_parameters() if name.endswith(".quantiles")]
        ids = {id(p) for p in aux}
        self.net = [p for p in self.model.parameters() if id(p) not in ids]
        self.optimizer, self.aux_optimizer = torch.optim.Adam(self.net, lr=1e-4), torch.optim.Adam(aux, lr=1e-3)
        self.criterion = RateDistortionLoss(lmbda=LAMBDA)

    def step(self, x: Tensor) -> float:
        self.optimizer.zero_grad()
        self.aux_optimizer.zero_grad()
        loss = self.criterion(self.model(x), x)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        aux_loss = self.model.aux_loss()
        aux_loss.backward()
        self.aux_optimizer.step()
        return loss.item()


def documented_batches(photographs: Path, batch: int, crop: int, workers: int = 0) -> Iterator[Tensor]:
    """Yield batches of the example's loader, endlessly."""
    pipeline = transforms.Compose([transforms.RandomCrop(crop, pad_if_needed=True), transforms.ToTensor()])
    with tempfile.TemporaryDirectory() as folder:
        # CompressAI requires a flat root/train.
        flat = Path(folder) / "train"
        flat.mkdir()
        for path in sorted(photographs.rglob("*.JPEG")) or sorted(photographs.rglob("*.*g")):
            (flat / path.name).symlink_to(path.resolve())
        images = ImageFolder(folder, split="train", transform=pipeline)
        pin = torch.cuda.is_available()
        loader = DataLoader(images, batch, shuffle=True, drop_last=True, num_workers=workers, pin_memory=pin)
        while True:
            yield from loader


class Alternation(L.Callback):
    """Runs a step of the documented loop after each step of ours, so that other load on the machine slows both equally.

    Our time is from the end of the documented step to the end of our step, so it includes data, logs and callbacks.
    """

    def __init__(self, documented_step: Callable[[], float] | None = None) -> None:
        self.documented_step = documented_step
        self.losses: list[float] = []
        self.ours: list[float] = []
        self.documented: list[float] = []
        self._began = math.nan

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: LitCodec, *_: object) -> None:
        self.losses.append(float(pl_module.step_metrics[TRAIN + "loss"]))
        ended = time.perf_counter()
        self.ours.append(ended - self._began)
        if self.documented_step is not None:
            self.documented_step()
        self._began = time.perf_counter()
        self.documented.append(self._began - ended)


def run_ours(config: RunConfig, folder: str, clock: Alternation) -> dict[str, Tensor]:
    """Train like train.py; return the weights before the first step."""
    data, model = setup.make_data(config), setup.make_model(config)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    run = ResumeState(Path(folder), "new")
    with setup.loggers(config, run) as loggers:
        trainer = setup.make_trainer(config, run, loggers, data)
        trainer.callbacks.append(clock)
        trainer.limit_val_batches = 0
        trainer.fit(setup.make_module(config, model), data)
    return start


def our_config(arguments: argparse.Namespace, steps: int, folder: str) -> RunConfig:
    command = [
        "model=mbt2018_mean", f"model.N={N}", f"model.M={M}", f"lambda={LAMBDA}", "recipe=common", "data=folder",
        f"data.root={arguments.photographs}", f"steps={steps}", f"batch_size={arguments.batch}",
        f"crop={arguments.crop}", "recipe.stages=[{name: main, share: 1, lr: 1.0e-4}]",
        "logger=csv", f"output={folder}", "checkpoint.every=1000000", "validate.bitstreams=0", *arguments.overrides,
    ]  # fmt: skip
    return checked(compose(command))


class DocumentedProcess:
    """The documented loop in a separate process, with the default allocator; one step per call."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_serve_steps, args=(far_end, arguments), daemon=True)
        self.process.start()
        self.pipe.recv()

    def step(self) -> float:
        self.pipe.send(None)
        return self.pipe.recv()


def _serve_steps(pipe: Connection, arguments: argparse.Namespace) -> None:
    batches, loop = documented_batches(arguments.photographs, arguments.batch, arguments.crop), DocumentedLoop()
    pipe.send(None)
    while True:
        pipe.recv()
        pipe.send(loop.step(next(batches)))


def measure_speed(arguments: argparse.Namespace, console: Console) -> dict[str, object]:
    clock = Alternation(DocumentedProcess(arguments).step)
    with tempfile.TemporaryDirectory() as folder:
        run_ours(our_config(arguments, arguments.steps + WARM_UP, folder), folder, clock)
    seconds = {"documented": clock.documented[WARM_UP:], "ours": clock.ours[WARM_UP:]}
    rates = {name: arguments.batch / statistics.median(times) for name, times in seconds.items()}
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    table = Table("path", "images/s (median)", "fastest step", "ratio (median of pairs)")
    for name, times in seconds.items():
        ratio = statistics.median(ratios) if name == "ours" else 1
        table.add_row(name, f"{rates[name]:.2f}", f"{arguments.batch / min(times):.2f}", f"{ratio:.2f}")
    console.print(table)
    return {"images_per_second": rates, "ratio": statistics.median(ratios), "pairs": len(ratios)}


def smooth(losses: list[float], window: int = 20) -> Tensor:
    return torch.tensor(losses, dtype=torch.float64).unfold(0, window, 1).mean(1)


def measure_parity(arguments: argparse.Namespace, console: Console) -> dict[str, object]:
    """Compare loss curves with equal weights and batches: ours, and the documented loop with two seeds of the noise."""
    steps = arguments.parity
    with tempfile.TemporaryDirectory() as folder:
        config = our_config(arguments, steps, folder)
        clock = Alternation()
        start = run_ours(config, folder, clock)
        stream = setup.make_data(config).stream()
    curves = {"ours": clock.losses}
    for seed in (config.seed, config.seed + 1):
        loop, losses = DocumentedLoop(start), []
        for step, batch in zip(track(range(steps), f"documented loop, seed {seed}"), stream, strict=False):
            torch.manual_seed(noise_seed(seed, step))
            losses.append(loop.step(to_floats(batch["x"], batch["flip"])))
        curves[f"documented, seed {seed}"] = losses
    first, second = (smooth(losses) for name, losses in curves.items() if name != "ours")
    between_seeds = ((first - second).abs() / first).max().item()
    to_ours = ((smooth(curves["ours"]) - first).abs() / first).max().item()
    pairs = zip(curves["ours"][:20], curves[f"documented, seed {config.seed}"][:20], strict=True)
    early = max(abs(a / b - 1) for a, b in pairs)
    table = Table("largest relative difference", "value")
    table.add_row("ours - documented, smoothed over 20 steps", f"{to_ours:.4f}")
    table.add_row("documented, two seeds, smoothed equally", f"{between_seeds:.4f}")
    table.add_row("ours - documented, first 20 losses", f"{early:.2e}")
    console.print(table)
    last = {name: losses[-1] for name, losses in curves.items()}
    return {"to_ours": to_ours, "between_seeds": between_seeds, "first_20": early, "last_losses": last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, default=SHARED / "train")
    parser.add_argument("overrides", nargs="*", default=[], help="overrides, such as compile=true precision=32")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--parity", type=int, default=0, metavar="STEPS")
    arguments = parser.parse_args()
    console = Console()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    console.print(f"torch {torch.__version__}, {device}, {' '.join(arguments.overrides) or 'default options'}")
    result = (measure_parity if arguments.parity else measure_speed)(arguments, console)
    console.print_json(json.dumps(result))


if __name__ == "__main__":
    main()
