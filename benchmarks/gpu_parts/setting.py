"""Device, sizes and pictures of one run of benchmarks/gpu.py."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lic_train.config.compose import compose
from lic_train.config.run import RunConfig, checked
from lic_train.data.decode.images import save_png
from lic_train.evaluate.sets import FolderImages
from tests.conftest import SMALL, shipped_config
from tests.tiny import picture

ROOT = Path(__file__).resolve().parents[2]
# Models of a quick run: each kind of entropy model except the slow serial ones.
QUICK = ("mbt2018_mean", "elic2022", "qres_vae")
Result = dict[str, Any]


def shared(*names: str) -> Path | None:
    """Return a folder of ../shared/data, or of shared/data in the repository; None if there is neither."""
    places = [base.joinpath("shared", "data", *names) for base in (ROOT.parent, ROOT)]
    return next((place for place in places if place.is_dir()), None)


@dataclass(frozen=True)
class Setting:
    """What every part of the benchmark needs.

    Attributes:
        device: "cuda" or "cpu".
        quick: tiny networks, crops and numbers of steps, to test the benchmark itself.
        folder: for runs and generated pictures.
        photographs: training photographs; None generates some.
        kodak: pictures to code; None generates some.
    """

    device: str
    quick: bool
    folder: Path
    photographs: Path | None
    kodak: Path | None

    @property
    def batch(self) -> int:
        return 2 if self.quick else 32

    @property
    def crop(self) -> int:
        return 64 if self.quick else 256

    @property
    def warm_up(self) -> int:
        return 1 if self.quick else 5

    @property
    def steps(self) -> int:
        """Timed steps, after the warm-up."""
        return 2 if self.quick else 20

    def some(self, names: Iterable[str]) -> list[str]:
        """Return the names of models, or the quick ones of them."""
        return [name for name in names if not self.quick or name in QUICK]

    def widths(self, name: str) -> Mapping[str, object]:
        return SMALL[name] if self.quick else {}

    def model(self, name: str) -> dict[str, object]:
        return {**shipped_config(name), **self.widths(name)}

    def run(self, name: str, steps: int, folder: Path, *overrides: str) -> RunConfig:
        """Return the configuration of ``train.py model=<name>`` on the photographs."""
        accelerator = "cpu" if self.device == "cpu" else "gpu"
        command = [
            f"model={name}", *(f"++model.{key}={value}" for key, value in self.widths(name).items()),
            f"steps={steps}", f"batch_size={self.batch}", f"crop={self.crop}", "logger=csv",
            "data=folder", f"data.root={self.training_folder()}", f"output={folder}",
            f"trainer.accelerator={accelerator}", "checkpoint.every=1000000", "validate.bitstreams=0", *overrides,
        ]  # fmt: skip
        return checked(compose(command))

    def training_folder(self) -> Path:
        """Return the photographs; generated ones are written once."""
        if self.photographs is not None:
            return self.photographs
        folder = self.folder / "photographs"
        for number in range(0 if folder.exists() else 16):
            save_png(folder / "train" / f"{number}.png", picture(288, 288, number) / 255)
        return folder

    def pictures(self, most: int = 24) -> list[Tensor]:
        """Return uint8 (3, H, W): Kodak, or generated ones of its size."""
        if self.quick or self.kodak is None:
            size = (70, 90) if self.quick else (512, 768)
            return [picture(*size, number) for number in range(2 if self.quick else most)]
        return [image for _, image in FolderImages([self.kodak], most)]

    def wait(self) -> float:
        """Wait for the device and return the time."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()
