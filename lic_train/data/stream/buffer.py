"""Several crops of one decode: each waits in the main process until the batch that it belongs to.

The content of a batch is decided by `lic_train.data.stream.draws.Spread` alone. This file only decides when a
photograph is decoded: once, for the first batch that has a crop of it, whatever the number of workers, ranks or
micro-batches. So there is no
state to be saved: a run that goes on decodes the photographs again of which crops are still to come.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import Sampler

from lic_train.data.stream.crops import Sample
from lic_train.data.stream.loader import Batch, CropLoader, Crops, StreamSampler, empty_batch


class FirstUses(Sampler[list[Sample]]):
    """For each batch of a stream, the photographs that it is the first to use: all of their crops still to come.

    Args:
        stream: batches in which the crops of a photograph come in the order of their numbers.
        crops: of each photograph.
    """

    def __init__(self, stream: StreamSampler, crops: int) -> None:
        self.stream, self.crops = stream, crops

    def __iter__(self) -> Iterator[list[Sample]]:
        begun: set[tuple[int, int]] = set()
        for batch in self.stream:
            decoded: list[Sample] = []
            for sample in batch:
                photograph = (sample.epoch, sample.item)
                if photograph not in begun:
                    begun.add(photograph)
                    decoded += [sample._replace(crop=crop) for crop in range(sample.crop, self.crops)]
                if sample.crop == self.crops - 1:
                    begun.remove(photograph)
            yield decoded


class BufferedLoader(CropLoader):
    """The batches of ``stream``, each photograph decoded once.

    Holds about 16 * (crops - 1) crops for every sample of a batch (see `APART` of `draws`), in the main process
    and not in shared memory.

    Args:
        crops: the dataset.
        stream: the batches.
        count: crops of each photograph.
        num_workers: processes that decode.
        pin_memory: give batches that a GPU can fetch by itself.
    """

    def __init__(self, crops: Crops, stream: StreamSampler, count: int, num_workers: int, pin_memory: bool) -> None:
        self.stream, self.uses = stream, FirstUses(stream, count)
        super().__init__(crops, self.uses, num_workers, pin_memory=False)
        self._crop, self._pinned = crops.crop, pin_memory

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        waiting: dict[Sample, tuple[Tensor, Tensor]] = {}
        for decoded, samples, wanted in zip(super().__iter__(), self.uses, self.stream, strict=False):
            for sample, x, flip in zip(samples, decoded["x"], decoded["flip"], strict=True):
                waiting[sample] = x.clone(), flip.clone()  # out of the memory shared with the worker
            batch = empty_batch(len(wanted), self._crop, self._pinned)
            batch["failures"], batch["small"] = decoded["failures"], decoded["small"]
            for row, sample in enumerate(wanted):
                batch["x"][row], batch["flip"][row] = waiting.pop(sample)
            yield batch
