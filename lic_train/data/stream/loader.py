"""Training as one endless stream of samples, cut into batches independently of epochs, workers and restarts.

`lic_train.data.stream.draws` defines the photograph of sample number k = 0, 1, 2, ...; batch number b of B samples
consists of k = b*B ... (b+1)*B - 1, across the boundaries of epochs. Rank r of W gets every W-th sample of a batch,
beginning with the r-th.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lic_train.data.decode.images import Picture, UnreadableImage
from lic_train.data.sets.splits import Source
from lic_train.data.stream.crops import (
    Bounds,
    Sample,
    Window,
    centre_window,
    cut,
    random_window,
    replacement,
    rows_needed,
)
from lic_train.data.stream.draws import Draws
from lic_train.data.stream.workers import (
    MIB,
    ended,
    prefetch_that_fits,
    settle,
    too_many_files,
    watch_children,
    worker_ended,
)
from lic_train.errors import DataError

MAX_ATTEMPTS = 32  # training stops after this number of unusable photographs in a row
SMALL = ("reflect", "skip")
LOOKED_AT = 32  # batches of which the largest determines the shared memory that is needed
PATIENCE = 1.0  # seconds until a worker whose connection is lost has ended


class Batch(TypedDict):
    """Output of the loaders: crops, and the failures that occurred."""

    x: Tensor  # uint8 (B, 3, crop, crop) in channels_last memory format, as decoded
    flip: Tensor  # bool (B,), crops to be mirrored left to right by `lic_train.data.stream.on_device`
    failures: list[tuple[str, str]]  # (file, reason) of each unreadable photograph
    small: int  # number of photographs smaller than the crop, reflected or skipped


class WindowRule(Protocol):
    """Places the window of one sample: `random_window` with a fixed seed, or `centre_window`."""

    def __call__(self, size: tuple[int, int], crop: int, sample: Sample, attempt: int) -> Window:  # noqa: D102
        ...


class StreamSampler(Sampler[list[Sample]]):
    """One rank's part of the endless stream of batches, beginning with batch number ``start``. It has no length.

    Args:
        draws: the stream of samples.
        batch_size: samples of one batch over all ranks, a multiple of ``world``.
        start: number of the first batch.
        rank: rank of this process.
        world: number of processes.
    """

    def __init__(self, draws: Draws, batch_size: int, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.draws, self.batch_size, self.start, self.rank, self.world = draws, batch_size, start, rank, world

    def __iter__(self) -> Iterator[list[Sample]]:
        return map(self.batch, itertools.count(self.start))

    def batch(self, number: int) -> list[Sample]:
        """Return this rank's samples of batch ``number``."""
        first = number * self.batch_size
        return [self.draws(k) for k in range(first + self.rank, first + self.batch_size, self.world)]


class Crops(Dataset[Batch]):
    """Dataset of crops, indexed by `Sample`; the replacement of an unusable photograph depends only on the sample.

    Args:
        source: the photographs.
        crop: side of the crops in pixels.
        seed: seed of the run.
        small: treatment of photographs smaller than the crop: "reflect" or "skip".
        window: places the crops.
    """

    def __init__(self, source: Source, crop: int, seed: int, small: str, window: WindowRule) -> None:
        self.source, self.crop, self.seed, self.small, self.window = source, crop, seed, small, window

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, samples: Sequence[Sample]) -> Batch | DataError:
        """Return one batch, or an error: an exception raised in a worker would arrive with a long traceback.

        Consecutive samples of one photograph share its decoding.
        """
        try:
            batch = empty_batch(len(samples), self.crop)
            for _, crops in itertools.groupby(range(len(samples)), lambda row: samples[row][:2]):
                self._fill(list(crops), samples, batch)
        except DataError as error:
            return error
        except MemoryError:
            return _no_memory(len(samples), self.crop)
        return batch

    def _fill(self, rows: Sequence[int], samples: Sequence[Sample], batch: Batch) -> None:
        """Fill the rows of one photograph or of its first usable replacement, and record the skipped ones."""
        for attempt in range(MAX_ATTEMPTS):
            index = replacement(samples[rows[0]], attempt, len(self.source), self.seed)
            try:
                picture = Picture(self._read(index))
                is_small = min(picture.size) < self.crop
                if not (is_small and self.small == "skip"):
                    windows = [self.window(picture.size, self.crop, samples[row], attempt) for row in rows]
                    self._place(picture, windows, rows, batch)
            except UnreadableImage as error:
                batch["failures"].append((self.source.name(index), str(error)))
                continue
            batch["small"] += is_small * len(rows)
            if not (is_small and self.small == "skip"):
                return
        raise self._nothing_usable(batch)

    def _place(self, picture: Picture, windows: Sequence[Window], rows: Sequence[int], batch: Batch) -> None:
        """Cut the windows out of the image into rows of the batch. Raises UnreadableImage before any row is filled."""
        x, flip = batch["x"].numpy(), batch["flip"].numpy()  # torch operations would use a thread pool
        image = picture.rgb(max(rows_needed(picture.size[0], window, self.crop) for window in windows))
        for window, row in zip(windows, rows, strict=True):
            x[row], flip[row] = cut(image, window, self.crop), window.flip

    def _read(self, index: int) -> bytes:
        try:
            return self.source.read(index)
        except OSError as error:
            raise UnreadableImage(error.strerror or str(error)) from error

    def _nothing_usable(self, batch: Batch) -> DataError:
        named = dict(batch["failures"])
        counts = f"{len(named)} unreadable files, {batch['small']} small photographs"
        lines = [f"{name}: {reason}" for name, reason in itertools.islice(named.items(), 5)]
        return DataError(
            f"{MAX_ATTEMPTS} photographs in a row are unreadable or smaller than the crop of {self.crop}.",
            got="\n".join([counts, *lines]),
            to_do="check data.root; for small photographs use a smaller crop, or data.small=reflect",
        )


class CropLoader(DataLoader[Batch]):
    """DataLoader that raises a DataError in the main process if a worker returned one, ended, or cannot send.

    Args:
        crops: the dataset.
        batches: samples of each batch; can be iterated several times.
        num_workers: decoding processes; 0 decodes in this process.
        pin_memory: return batches in pinned memory.
        loaders: number of such loaders on this machine, which share its shared memory.

    Raises:
        ConfigError: the shared memory is too small for the workers.
    """

    def __init__(
        self,
        crops: Crops,
        batches: Iterable[list[Sample]],
        num_workers: int,
        pin_memory: bool,
        loaders: int = 1,
    ) -> None:
        context = get_context("fork") if num_workers else None  # the source is shared, not pickled
        self._reasons = context.SimpleQueue() if context else None
        self._waiting = False
        super().__init__(
            crops,
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            worker_init_fn=partial(settle, self._reasons) if num_workers else None,
            multiprocessing_context=context,
            persistent_workers=num_workers > 0,
            prefetch_factor=prefetch_that_fits(num_workers, largest(batches, crops.crop), loaders) if context else None,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # only iteration is used
        batches = super().__iter__()
        if self.num_workers:
            loader = weakref.ref(self)  # a handler that referred to the loader would keep its workers alive
            watch_children(lambda: _raise_if_waiting(loader()))
        while (batch := self._next(batches)) is not None:
            if isinstance(batch, DataError):
                self.close()
                raise batch
            yield batch

    def _next(self, batches: Iterator[Batch | DataError]) -> Batch | DataError | None:
        """Return the next batch, None at the end.

        Raises:
            DataError: a worker ended.
        """
        try:
            self._waiting = True
            return next(batches, None)
        except (RuntimeError, OSError, EOFError) as error:
            self._waiting = False
            raise self._failure(error) from None
        finally:
            self._waiting = False

    def _failure(self, error: BaseException) -> BaseException:
        """Return the error to raise for an exception of PyTorch; all workers are stopped."""
        if not self.num_workers or self._iterator is None:
            return error
        workers = self._iterator._workers  # type: ignore[attr-defined]
        if ended(workers, PATIENCE):
            failure: BaseException = worker_ended(workers, self._reasons)
        else:
            failure = too_many_files(error) if "open files" in str(error) else error
        for worker in workers:
            worker.kill()
        # A thread that pins memory may wait for ever for the rest of a message.
        vars(self._iterator).pop("_pin_memory_thread", None)
        self.close()
        return failure

    def close(self) -> None:
        """Stop the workers; if the garbage collector does it, a loader in a reference cycle waits 5 s per worker."""
        if self.num_workers and self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]  # Lightning does the same
            self._iterator = None


class WorkerEnded(RuntimeError):
    """A worker ended while the loader waited for a batch."""


def _raise_if_waiting(loader: CropLoader | None) -> None:
    if loader is None or not loader._waiting or loader._iterator is None:
        return
    if ended(loader._iterator._workers):  # type: ignore[attr-defined]
        raise WorkerEnded


def largest(batches: Iterable[list[Sample]], crop: int) -> int:
    """Return the bytes of the largest of the first batches."""
    return max(map(len, itertools.islice(batches, LOOKED_AT)), default=0) * bytes_of(crop)


def bytes_of(crop: int) -> int:
    """Return the bytes of one crop in a batch."""
    return 3 * crop * crop + 1


def training_crops(
    source: Source, crop: int, seed: int, small: str = "reflect", flip: bool = True, downscale: Bounds | None = None
) -> Crops:
    """Return random crops with keys (seed, epoch, index)."""
    return Crops(source, crop, seed, small, partial(random_window, seed=seed, flip=flip, downscale=downscale))


def validation_crops(source: Source, crop: int, seed: int, small: str = "reflect") -> Crops:
    """Return centre crops."""
    return Crops(source, crop, seed, small, centre_window)


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def empty_batch(count: int, crop: int, pinned: bool = False) -> Batch:
    """Return a batch with memory for ``count`` crops."""
    try:
        x = torch.empty(count, crop, crop, 3, dtype=torch.uint8, pin_memory=pinned).permute(0, 3, 1, 2)
    except RuntimeError as error:  # of PyTorch's allocator
        raise _no_memory(count, crop) from error
    return Batch(x=x, flip=torch.zeros(count, dtype=torch.bool, pin_memory=pinned), failures=[], small=0)


def _no_memory(count: int, crop: int) -> DataError:
    return DataError(
        "Not enough memory for a batch.",
        expected=f"{count * 3 * crop * crop / MIB:,.0f} MiB for {count} crops of {crop} x {crop}",
        to_do="use a smaller batch_size, crop or data.num_workers",
    )


def _as_it_is(batch: Any) -> Any:
    return batch
