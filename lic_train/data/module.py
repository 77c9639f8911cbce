"""LightningDataModule: turns a source into loaders that start at the current step of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning
from torch import Tensor

from lic_train.data.damage import DataReport
from lic_train.data.decode.images import UnreadableImage, decode
from lic_train.data.sets.manifest import Manifest, manifest_of
from lic_train.data.sets.splits import Source, Split
from lic_train.data.stream.buffer import BufferedLoader
from lic_train.data.stream.dali import DaliLoader, require_dali
from lic_train.data.stream.draws import APART, Draws, Spread, draws_of
from lic_train.data.stream.loader import (
    SMALL,
    CropLoader,
    Sample,
    StreamSampler,
    available_cores,
    bytes_of,
    training_crops,
    validation_crops,
)
from lic_train.data.stream.workers import SHARED_MEMORY, batches_that_fit
from lic_train.errors import ConfigError
from lic_train.system.screen import say

MAX_AUTO_WORKERS = 4
DECODERS = ("pillow", "dali")


class Photographs(lightning.LightningDataModule):
    """Random crops of photographs for training, centre crops and whole images for validation.

    The loaders yield `lic_train.data.stream.loader.Batch`. The Trainer needs ``use_distributed_sampler=False`` and
    ``max_steps``, as the training loader is endless.

    Args:
        source: turns ``root`` into a `Split`; one of the functions of `lic_train.data.sets.sources`.
        root: path or address of the data set, or a list of these; None for sets in installed packages.
        crop: side of the crops in pixels.
        batch_size: samples of one optimiser step, over all devices and accumulated micro-batches.
        accumulate: micro-batches of one optimiser step.
        seed: seed of the run.
        num_workers: decoding processes per device, or "auto".
        crops_per_image: training crops of each decoded photograph, about 32 batches apart; for large photographs. They
            take the memory of about 16 * (crops_per_image - 1) batches in each process.
        decoder: decoder of the training photographs: "pillow", or "dali" (see `lic_train.data.stream.dali`).
        flip: mirror half of the training crops left to right.
        downscale: smallest and largest factor, for example (0.6, 1.0): each training crop is cut out of a photograph
            scaled down by a random factor, uniform between these. None: photographs are not scaled.
        small: photographs smaller than the crop: "reflect" pads them by reflection, "skip" replaces them by others.
        val_crops: number of validation photographs to use, over all devices.
        val_batch: centre crops of one validation batch.
    """

    def __init__(
        self,
        source: Callable[[str | list[str] | None], Split],
        *,
        root: str | Sequence[str] | None,
        crop: int,
        batch_size: int,
        accumulate: int = 1,
        seed: int = 0,
        num_workers: int | str = "auto",
        crops_per_image: int = 1,
        decoder: str = "pillow",
        flip: bool = True,
        downscale: Sequence[float] | None = None,
        small: str = "reflect",
        val_crops: int = 64,
        val_batch: int = 8,
    ) -> None:
        super().__init__()
        self.source, self.crop, self.seed = source, crop, seed
        self.root = root if root is None or isinstance(root, str) else list(root)
        self.batch_size, self.accumulate, self.num_workers = batch_size, accumulate, num_workers
        self.crops_per_image, self.decoder = crops_per_image, decoder
        self.downscale = downscale
        self.flip, self.small, self.val_crops, self.val_batch = flip, small, val_crops, val_batch
        self._split: Split | None = None

    def setup(self, stage: str | None = None) -> None:
        """Check the options and list the photographs; a second call does nothing.

        Raises:
            ConfigError: an option is invalid.
            DataError: the data set is missing or invalid.
        """
        if self._split is not None:
            return
        self._check()
        self._split = self.source(self.root)
        if self._split.note:
            say(self._split.note, style="yellow")

    @property
    def place(self) -> str:
        """Human-readable root."""
        return "the installed packages" if not self.root else ", ".join(self._roots())

    def manifest(self) -> Manifest:
        """Return the manifest of the data set, which is compared when the run is resumed."""
        return manifest_of(self._ready(), self.place)

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """Labels and texts about the parts of the data set and what is left out, for a table."""
        return self._ready().rows

    @property
    def train(self) -> Source:
        """The training photographs."""
        return self._ready().train

    @property
    def val(self) -> Source:
        """The validation photographs."""
        return self._ready().val

    def train_dataloader(self) -> CropLoader:
        """Return the stream from the current step of the Trainer on, which makes resumed runs exact."""
        trainer = self.trainer
        if trainer is None:
            return self.stream()
        return self.stream(trainer.global_step * self.accumulate, trainer.global_rank, trainer.world_size)

    def stream(self, start: int = 0, rank: int = 0, world: int = 1) -> CropLoader:
        """Return the endless training batches of one rank, beginning with micro-batch number ``start``.

        Raises:
            ConfigError: ``batch_size`` is not divisible by the number of micro-batches and ranks.
        """
        parts = self.accumulate * world
        if self.batch_size % parts:
            below = self.batch_size // parts * parts
            legal = f"{below} or {below + parts}" if below else f"{parts}"
            raise ConfigError(
                "batch_size cannot be divided over micro-batches and devices.",
                expected=f"a multiple of {parts} (accumulate={self.accumulate} x {world} devices)",
                got=str(self.batch_size),
                to_do=f"set batch_size to {legal}",
            )
        size = self.batch_size // self.accumulate
        draws: Draws = draws_of(self.train, self.seed)
        low_high = None if self.downscale is None else (self.downscale[0], self.downscale[1])
        crops = training_crops(self.train, self.crop, self.seed, self.small, self.flip, low_high)
        many, pin = self.crops_per_image, self._on_gpu()
        if many > 1:
            draws = Spread(draws, self.batch_size, many, self.seed)
        sampler = StreamSampler(draws, size, start, rank, world)
        loaders = self._devices()
        if self.decoder == "dali":
            return DaliLoader(crops, sampler, self.workers(), pin, self._gpu(), loaders)
        if many > 1:
            return BufferedLoader(crops, sampler, many, self.workers(), pin, loaders)
        return CropLoader(crops, sampler, self.workers(), pin, loaders)

    def val_dataloader(self) -> CropLoader:
        """Return centre crops of the first ``val_crops`` validation photographs, distributed over the ranks."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        count = min(self.val_crops, len(self.val))
        mine = [Sample(0, item) for item in range(rank, count, world)]
        longest = math.ceil(count / world)  # the same number of batches on every rank; the last one may be empty
        batches = [mine[i : i + self.val_batch] for i in range(0, longest, self.val_batch)]
        crops = validation_crops(self.val, self.crop, self.seed, self.small)
        return CropLoader(crops, batches, 0, self._on_gpu())

    def whole_images(self, count: int) -> list[tuple[str, Tensor]]:
        """Return name and uint8 (3, H, W) of the first ``count`` readable validation photographs, or of all."""
        found: list[tuple[str, Tensor]] = []
        for index in range(len(self.val)):
            if len(found) == count:
                break
            try:
                found.append((self.val.name(index), decode(self.val.read(index))))
            except (OSError, UnreadableImage):  # reported by the validation crops
                continue
        return found

    def report(self, output: Path) -> DataReport:
        """Return the record of damaged files of a run; every rank writes its own file."""
        rank = self.trainer.global_rank if self.trainer is not None else 0
        path = output / (f"data_report_rank{rank}.json" if rank else "data_report.json")
        problems = () if rank else self._ready().problems
        return DataReport(path, self.place, len(self.train) + len(self.val), problems=problems)

    def workers(self) -> int:
        """Return the number of worker processes of this device's training loader."""
        if self.num_workers != "auto":
            return int(self.num_workers)
        cores = available_cores() // self._devices()
        if cores <= 2 and not self._on_gpu():  # measured: workers slow the training down on one or two cores
            return 0
        wanted = max(min(cores, MAX_AUTO_WORKERS), 1)
        world = self.trainer.world_size if self.trainer is not None else 1
        batch = self.batch_size // (self.accumulate * world) * bytes_of(self.crop)
        room = batches_that_fit(max(batch, 1), self._devices())
        if room < wanted:
            wanted = max(int(room), 0)
            say(f"{SHARED_MEMORY} has room for the batches of {wanted} decoding processes only.", style="yellow")
        return wanted

    def _roots(self) -> list[str]:
        return [self.root] if isinstance(self.root, str) else self.root or []

    def _check(self) -> None:
        _require(callable(self.source), "data.source", "a data source, for example data=folder", self.source)
        _require(self.small in SMALL, "data.small", f"one of {', '.join(SMALL)}", self.small)
        _require(isinstance(self.flip, bool), "data.flip", "true or false", self.flip)
        bounds = "two factors in ascending order, above 0 and at most 1, for example [0.6, 1.0], or null"
        _require(self.downscale is None or _are_bounds(self.downscale), "data.downscale", bounds, self.downscale)
        workers = self.num_workers == "auto" or _is_count(self.num_workers, 0)
        _require(workers, "data.num_workers", "auto or >= 0", self.num_workers)
        many = _is_count(self.crops_per_image, 1, APART)
        _require(many, "data.crops_per_image", f"1 to {APART}", self.crops_per_image)
        _require(self.decoder in DECODERS, "data.decoder", f"one of {', '.join(DECODERS)}", self.decoder)
        if self.decoder == "dali":
            require_dali()
            alone = "1 with data.decoder=dali, which decodes single crops"
            _require(self.crops_per_image == 1, "data.crops_per_image", alone, self.crops_per_image)
            whole = "null with data.decoder=dali, which decodes the pixels of the crop only"
            _require(self.downscale is None, "data.downscale", whole, self.downscale)
        for key in ("crop", "batch_size", "accumulate"):
            _require(_is_count(getattr(self, key), 1), key, "at least 1", getattr(self, key))
        for key in ("val_crops", "val_batch"):
            _require(_is_count(getattr(self, key), 1), f"data.{key}", "at least 1", getattr(self, key))

    def _ready(self) -> Split:
        self.setup()
        assert self._split is not None
        return self._split

    def _devices(self) -> int:
        """Return the number of training processes on this machine."""
        return self.trainer.num_devices if self.trainer is not None else 1

    def _gpu(self) -> int | None:
        """Return the index of the GPU that trains, None on the CPU."""
        return self.trainer.strategy.root_device.index if self.trainer is not None and self._on_gpu() else None

    def _on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"


def _is_count(value: object, least: int, most: float = math.inf) -> bool:
    return isinstance(value, int) and least <= value <= most


def _are_bounds(value: Sequence[object]) -> bool:
    """Return whether these are two factors 0 < low <= high <= 1."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        return False
    low, high = value
    return isinstance(low, int | float) and isinstance(high, int | float) and 0 < low <= high <= 1


def _require(is_valid: bool, key: str, expected: str, got: object) -> None:
    if not is_valid:
        raise ConfigError(f"Invalid value of {key}.", expected=expected, got=repr(got))
