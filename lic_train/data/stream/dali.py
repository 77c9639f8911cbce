"""Decoding by NVIDIA DALI (``data.decoder=dali``): only the blocks of each JPEG that the crop needs.

The crops are the same as with Pillow, as their positions have the same keys. Workers read the files, place the crops,
and decode everything that is not a plain, upright JPEG. DALI decodes the rest in the main process: on the CPU, where
the pixels equal those of Pillow (same library), or on the GPU, whose decoder rounds differently.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lic_train.data.decode.images import Picture
from lic_train.data.stream.crops import Sample, Window
from lic_train.data.stream.loader import Batch, CropLoader, Crops
from lic_train.errors import ConfigError, DataError
from lic_train.system.ahead import one_ahead


class File(NamedTuple):
    """An encoded photograph, the upper left corner of its crop, and the row of the batch for the crop."""

    data: bytes
    top: int
    left: int
    row: int


class HalfBatch(Batch):
    """A batch in which some crops are not decoded yet."""

    files: list[File]
    samples: list[Sample]


class Undecoded(Crops):
    """Crops in which plain JPEGs are left encoded."""

    def __getitems__(self, samples: Sequence[Sample]) -> Batch | DataError:
        """Return one batch; the rows listed in its ``files`` are not filled."""
        self._files: list[File] = []
        batch = super().__getitems__(samples)
        return batch if isinstance(batch, DataError) else HalfBatch(**batch, files=self._files, samples=list(samples))

    def _place(self, picture: Picture, windows: Sequence[Window], rows: Sequence[int], batch: Batch) -> None:
        if not picture.is_plain_jpeg or min(picture.size) < self.crop:
            super()._place(picture, windows, rows, batch)
            return
        for window, row in zip(windows, rows, strict=True):
            batch["flip"].numpy()[row] = window.flip
            self._files.append(File(picture.data, window.top, window.left, row))


class DaliLoader(CropLoader):
    """The batches of a stream, decoded by DALI.

    If DALI fails on a damaged file, Pillow decodes the batch again and replaces the file by the usual rule.

    On a GPU a thread decodes the next batch on a CUDA stream of its own while the present one is used. DALI's own
    prefetching is off, because a run must decode exactly the files that were fed before it. The thread and the stream
    have been tested with stand-ins for CUDA only, and not measured.

    Args:
        crops: the dataset for decoding with Pillow.
        batches: samples of each batch.
        num_workers: processes that read, and threads that decode.
        pin_memory: return batches in pinned memory.
        gpu: index of the GPU that decodes; None for the CPU.
        loaders: number of such loaders on this machine.
    """

    def __init__(
        self,
        crops: Crops,
        batches: Iterable[list[Sample]],
        num_workers: int,
        pin_memory: bool,
        gpu: int | None = None,
        loaders: int = 1,
    ) -> None:
        require_dali()
        undecoded = Undecoded(crops.source, crops.crop, crops.seed, crops.small, crops.window)
        super().__init__(undecoded, batches, num_workers, pin_memory, loaders)
        self._crops, self._threads, self._gpu = crops, max(num_workers, 1), gpu
        self._pipeline: Any = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        halves = super().__iter__()
        yield from map(self._whole, halves) if self._gpu is None else self._decoded_ahead(halves)  # type: ignore[arg-type]

    def _decoded_ahead(self, halves: Iterator[HalfBatch]) -> Iterator[Batch]:
        """Yield the batches, each decoded on a side stream; the present stream waits for its decoding."""
        side = torch.cuda.Stream(self._gpu)

        def decode(half: HalfBatch) -> tuple[Batch, torch.cuda.Event]:
            with torch.cuda.stream(side):
                return self._whole(half), side.record_event()

        for batch, done in one_ahead(partial(decode, half) for half in halves):
            present = torch.cuda.current_stream(self._gpu)
            present.wait_event(done)
            if batch["x"].is_cuda:
                batch["x"].record_stream(present)  # its memory was allocated on the side stream
            yield batch

    def _whole(self, half: HalfBatch) -> Batch:
        files, samples, x = half["files"], half["samples"], half["x"]
        try:
            decoded = self._decode(files, len(samples)) if files else x[:0].permute(0, 2, 3, 1)
        except RuntimeError:  # DALI does not report which file failed, and its pipeline is unusable afterwards
            self._pipeline = None
            batch = self._crops.__getitems__(samples)
            if isinstance(batch, DataError):
                raise batch from None
            return batch
        x = x.to(decoded.device)
        x[torch.tensor([file.row for file in files], dtype=torch.long, device=x.device)] = decoded.permute(0, 3, 1, 2)
        return Batch(x=x, flip=half["flip"], failures=half["failures"], small=half["small"])

    def _decode(self, files: Sequence[File], most: int) -> Tensor:
        """Return (n, crop, crop, 3). The pipeline has threads, so it is created after the workers are forked."""
        self._pipeline = self._pipeline or _pipeline(most, self._crops.crop, self._threads, self._gpu)
        self._pipeline.feed_input("files", [np.frombuffer(file.data, np.uint8) for file in files])
        self._pipeline.feed_input("start", [np.array([file.top, file.left], np.int32) for file in files])
        return torch.from_dlpack(self._pipeline.run()[0].as_tensor()).clone()  # DALI reuses its memory


def require_dali() -> None:
    """Raise ConfigError if DALI is not installed."""
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        raise ConfigError(
            "data.decoder=dali needs NVIDIA DALI, which is not installed.",
            to_do="pip install 'lic-train[dali]' (600 MB), or use data.decoder=pillow",
        )


def _pipeline(most: int, crop: int, threads: int, gpu: int | None) -> Any:
    """Return a pipeline that decodes crops of up to ``most`` files at a time."""
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(
        most, threads, gpu, prefetch_queue_depth=1, exec_async=False, exec_pipelined=False
    )  # each run decodes exactly the files that were fed before it
    with pipeline:
        files = fn.external_source(name="files", dtype=types.UINT8, ndim=1)
        start = fn.external_source(name="start", dtype=types.INT32, ndim=1)
        device = "cpu" if gpu is None else "mixed"
        pipeline.set_outputs(
            fn.decoders.image_slice(
                files, device=device, start=start, shape=(crop, crop), axes=(0, 1), output_type=types.RGB
            )
        )
    pipeline.build()
    return pipeline
