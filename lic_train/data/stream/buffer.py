"""Several crops of each decoded photograph: crops wait in the main process until the batch that uses them.

`lic_train.data.stream.draws.Spread` alone determines the content of a batch. This file only decides when a photograph
is decoded: once, for the first batch that contains a crop of it, for any number of workers, ranks or micro-batches.
There is no state to save: a resumed run decodes again the photographs whose crops are still needed.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import Sampler

from lic_train.data.stream.crops import Sample
from lic_train.data.stream.loader import Batch, CropLoader, Crops, StreamSampler, empty_batch


class FirstUses(Sampler[list[Sample]]):
    """For each batch of a stream, all remaining crops of the photographs that it is the first to use.

    Args:
        stream: batches in which the crops of a photograph appear in the order of their numbers.
        crops: number of crops of each photograph.
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
    """The batches of ``stream``, with each photograph decoded once.

    The main process stores about 16 * (crops - 1) crops for every sample of a batch (see `APART` of `draws`), outside
    of shared memory.

    Args:
        crops: the dataset.
        stream: the batches.
        count: number of crops of each photograph.
        num_workers: decoding processes.
        pin_memory: return batches in pinned memory.
        loaders: number of such loaders on this machine.
    """

    def __init__(
        self,
        crops: Crops,
        stream: StreamSampler,
        count: int,
        num_workers: int,
        pin_memory: bool,
        loaders: int = 1,
    ) -> None:
        self.stream, self.uses = stream, FirstUses(stream, count)
        super().__init__(crops, self.uses, num_workers, pin_memory=False, loaders=loaders)
        self._crop, self._pinned = crops.crop, pin_memory

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        waiting: dict[Sample, tuple[Tensor, Tensor]] = {}
        for decoded, samples, wanted in zip(super().__iter__(), self.uses, self.stream, strict=False):
            for sample, x, flip in zip(samples, decoded["x"], decoded["flip"], strict=True):
                waiting[sample] = x.clone(), flip.clone()  # releases the memory shared with the worker
            batch = empty_batch(len(wanted), self._crop, self._pinned)
            batch["failures"], batch["small"] = decoded["failures"], decoded["small"]
            for row, sample in enumerate(wanted):
                batch["x"][row], batch["flip"][row] = waiting.pop(sample)
            yield batch
