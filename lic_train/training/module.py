"""The LightningModule around a codec: training step, validation and logged metrics, independent of the model."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Adam
from torchmetrics import MeanMetric, MetricCollection

from lic_train.data.stream.on_device import to_floats
from lic_train.entropy import noise
from lic_train.entropy.noise import part_of_batch
from lic_train.errors import TrainingError
from lic_train.files import bitstream
from lic_train.files.checkpoint import add_tables
from lic_train.models.base import Codec
from lic_train.rd import metrics
from lic_train.recipes.recipe import Recipe
from lic_train.runs.metric_names import (
    BPP_ESTIMATE,
    BPP_FILE,
    BPP_GAP,
    FILE_POINT,
    GRAD_NORM,
    LEARNING_RATE,
    MS_SSIM_DB_FILE,
    MS_SSIM_FILE,
    PSNR_FILE,
    SECONDS_PER_IMAGE,
    STAGE,
    TRAIN,
    VAL,
    of_level,
)
from lic_train.training.callbacks.position import step_ended
from lic_train.training.compilation import compiled
from lic_train.training.levels import by_level, levels_of
from lic_train.training.optim import clip_net, gradient_norms, make_optimizer, set_learning_rate

Batch = dict[str, Any]


def noise_seed(*key: int) -> int:
    """Return a 63-bit seed that is a pure function of ``key``, so a resumed step draws the same noise."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def mean_metrics(names: Iterable[str]) -> MetricCollection:
    """Return one mean over images for each name, which `compute` synchronises over processes.

    The states are not persistent: checkpoints do not contain them. A NaN makes its mean NaN. Update with one value per
    image: ``nan_strategy="disable"``, which avoids a synchronisation with the device, ignores weights.
    """
    return MetricCollection({name: MeanMetric(nan_strategy="disable") for name in names}, compute_groups=False)


def reset_to_float64(means: MetricCollection) -> None:
    """Reset the means and set the dtype of inputs and sums; `Module.to` sets that of the inputs to float32."""
    means.reset()
    means.set_dtype(torch.float64)


class LitCodec(L.LightningModule):
    """Trains ``model`` under ``recipe``.

    Args:
        model: the codec.
        recipe: loss and learning rate as functions of the step.
        model_config: arguments of `lic_train.models.base.build` for the model; saved in every checkpoint.
        seed: seed of the quantisation noise.
        compile: compile the training forward; falls back to eager mode with a message if that fails.
        channels_last: use the channels_last memory format for images and weights.
        bitstreams: number of whole validation images that every validation codes to a file.
    """

    def __init__(
        self,
        model: Codec,
        recipe: Recipe,
        *,
        model_config: dict[str, Any],
        seed: int = 0,
        compile: bool = False,
        channels_last: bool = False,
        bitstreams: int = 0,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)
        self.recipe, self.model_config, self.seed = recipe, model_config, seed
        self.network = compiled(self.model) if compile else self.model.__call__
        self.bitstreams = bitstreams
        self.step_metrics: dict[str, Tensor | float] = {}  # of the current step, logged by `Rows`
        ladder = model.ladder.lambdas if model.ladder else ()
        self.levels = range(len(ladder))
        self.lambdas: Tensor
        if ladder:
            self.register_buffer("lambdas", torch.tensor(ladder), persistent=False)
        self.crop_means = mean_metrics(
            [
                *(VAL + name for name in [*recipe.terms, "loss", "psnr"]),
                *(of_level(VAL + name, level) for name in ("loss", "bpp", "psnr") for level in self.levels),
            ]
        )
        names = [BPP_FILE, BPP_ESTIMATE, PSNR_FILE, MS_SSIM_FILE, SECONDS_PER_IMAGE]
        per_level = [of_level(name, level) for name in FILE_POINT for level in self.levels]
        self.file_means = mean_metrics([*names, *per_level])
        self.gradient_norms = torch.empty(0)  # of the current step so far, one for each parameter of the optimizer
        self._terms: list[Tensor] = []  # one for each micro-batch of the current step
        self._whole_images: list[tuple[str, Tensor]] | None = None
        self._coding = contextlib.ExitStack()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss, with the auxiliary loss of the quantiles."""
        x, step = batch["x"], self.global_step
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        noise.seed(noise_seed(self.seed, step), self.device)
        place = step, len(x) * self._parts(), len(self.levels)
        levels = levels_of(self._positions(micro_batch, len(x)), *place) if self.levels else None
        with self._part_of_batch(micro_batch, len(x)), self.model.at_level(levels):
            out = self.network(x)
        terms = self.recipe(out, x, step, None if levels is None else self.lambdas[levels])
        aux = self.model.aux_loss()
        per_level = {} if levels is None else by_level(out, x, levels, *place)
        self._note_step(micro_batch, {**terms, "aux": aux, **per_level})
        return terms["loss"] + aux

    def _part_of_batch(self, micro_batch: int, images: int) -> AbstractContextManager[None]:
        """Set the positions of this process's images in the batch of the step, in the loader's order.

        The order is that of `lic_train.data.stream.loader`.
        """
        parts = self._parts()
        if parts == 1:
            return contextlib.nullcontext()
        return part_of_batch(self._positions(micro_batch, images), images * parts)

    def _parts(self) -> int:
        """Return the number of parts into which processes and micro-batches divide the batch of a step."""
        return self.trainer.world_size * self.trainer.accumulate_grad_batches

    def _positions(self, micro_batch: int, images: int) -> Tensor:
        """Return the places (int64) of this process's images in the batch of the step."""
        world = self.trainer.world_size
        first = micro_batch * images * world + self.global_rank
        return first + world * torch.arange(images, device=self.device)

    def _note_step(self, micro_batch: int, terms: dict[str, Tensor]) -> None:
        """Store the means over the micro-batches of the step so far, and at its end over all processes."""
        self._terms = [*self._terms[:micro_batch], torch.stack([term.detach() for term in terms.values()])]
        means = torch.stack(self._terms).mean(0) if micro_batch else self._terms[0]
        if self.trainer.world_size > 1 and step_ended(self.trainer):
            dist.all_reduce(means)  # Lightning's `reduce` waits for the device
            means /= self.trainer.world_size
        values: dict[str, Tensor | float] = {TRAIN + n: mean for n, mean in zip(terms, means, strict=True)}
        squared = {name: value for name, value in values.items() if name.startswith("train/mse")}
        values |= {name.replace("mse", "psnr"): -10 * value.log10() for name, value in squared.items()}  # type: ignore[union-attr]
        step = self.global_step
        stage = self.recipe.stage(step)
        values |= {LEARNING_RATE: stage.lr, STAGE: self.recipe.stages.index(stage)}
        values |= {f"{TRAIN}{name}_weight": w for name, w in self.recipe.extra_weights(step).items()}
        self.step_metrics = values

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Copy the tensors of a batch without waiting; Lightning's own walk over all its values takes longer."""
        return {**batch, **{name: batch[name].to(device, non_blocking=True) for name in ("x", "flip")}}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Flip the images and convert 8-bit pixels to [0, 1], on the device."""
        return {**batch, "x": to_floats(batch["x"], batch["flip"], self.memory_format)}

    def configure_optimizers(self) -> Adam:
        """See `make_optimizer`."""
        return make_optimizer(self.model, self.recipe)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set learning rate and quantiser, pure functions of the step, and schedule a validation of the last step."""
        step = self.global_step
        set_learning_rate(self._adam(), self.recipe, step)
        self.model.use_quantizer(self.recipe.stage(step).quantizer)
        accumulate = self.trainer.accumulate_grad_batches
        if step + 1 == self.trainer.max_steps and (batch_idx + 1) % accumulate == 0:
            self.trainer.val_check_batch = 1

    def backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        """Compute the gradients and their norms, which the clip, `NonFiniteGuard` and the log use."""
        loss.backward()
        self.gradient_norms = gradient_norms(self._adam())

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip the net group only: a norm over the quantiles would change the network's step."""
        self.step_metrics[GRAD_NORM] = clip_net(self._adam(), self.gradient_norms, self.recipe.clip_norm)

    def _adam(self) -> Adam:
        return self.trainer.optimizers[0]  # type: ignore[return-value]

    def on_validation_epoch_start(self) -> None:
        """Solve the quantiles and build the tables; `on_validation_epoch_end` restores the training state.

        Raises:
            TrainingError: the processes have different weights.
        """
        self._check_equal_weights()
        reset_to_float64(self.crop_means)
        reset_to_float64(self.file_means)
        self._coding.enter_context(self.model.ready_to_code())

    def _check_equal_weights(self) -> None:
        """Compare the weights of all processes bit by bit: distributed training assumes that they are equal."""
        bits = [parameter.detach().view(torch.int32).sum() for parameter in self.model.parameters()]
        checksum = torch.stack(bits).sum()  # int64, which wraps
        checksums = self.all_gather(checksum).flatten().tolist()  # type: ignore[union-attr]
        if len(set(checksums)) > 1:
            raise TrainingError(
                "The processes of this run have different weights.",
                expected="equal weights on all devices",
                got=f"checksums {', '.join(f'{number:x}' for number in checksums)}",
                to_do="delete the newest checkpoint to continue from an older one; a device may be faulty",
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the means over centre crops: terms of the recipe and PSNR with the bitstream's quantiser, in float32.

        The batch is empty in a process that has fewer images than the others.
        """
        x = batch["x"]
        if len(x) == 0:
            return
        for level in self.levels or [None]:
            with torch.autocast(self.device.type, enabled=False), self.model.at_level(level):
                out = self.model(x)
                terms = self.recipe(out, x, self.global_step, None if level is None else self.lambdas[level])
            terms["psnr"] = metrics.psnr(x, out["x_hat"])
            self._add(self.crop_means, {VAL + name: value for name, value in terms.items()}, level, len(x))

    def _add(self, means: MetricCollection, values: Mapping[str, Any], level: int | None, images: int = 1) -> None:
        """Add ``values`` of a number of images to the means over all levels, and to those of their level."""
        for name, value in values.items():
            for key in (name, *([] if level is None else [of_level(name, level)])):
                if key in means:
                    means[key].update(torch.as_tensor(value).expand(images))

    def on_validation_epoch_end(self) -> None:
        """Code the whole images, restore the training state and log the means over all images of all processes."""
        try:
            coded = self._code_whole_images()
        finally:
            self._coding.close()
        cropped = {name: float(mean) for name, mean in self.crop_means.compute().items()}
        self.log_dict({**cropped, **coded, "step": float(self.global_step)})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the coding tables of the weights that are used after training; runs after the callbacks' hooks."""
        add_tables(checkpoint, self.model)

    def restore_training_state(self) -> None:
        """End a validation that an error interrupted, which restores the trained quantiles."""
        self._coding.close()

    def _code_whole_images(self) -> dict[str, float]:
        """Code this process's share of the whole images; return the means over all of them, or {} without images.

        MS-SSIM is included if every image has it.
        """
        if self._whole_images is None:
            self._whole_images = self.trainer.datamodule.whole_images(self.bitstreams)  # type: ignore[attr-defined]
        if not self._whole_images:
            return {}
        for _, image in self._whole_images[self.global_rank :: self.trainer.world_size]:
            for level in self.levels or [None]:
                self._add(self.file_means, self._code_image(image.to(self.device).float() / 255, level), level)
        means = {name: float(mean) for name, mean in self.file_means.compute().items()}
        means[BPP_GAP] = means[BPP_FILE] / means[BPP_ESTIMATE] - 1
        for name in [name for name in means if name.startswith(MS_SSIM_FILE)]:
            if math.isnan(means[name]):
                del means[name]
            else:
                decibel = float(metrics.ms_ssim_db(torch.tensor(means[name])))
                means[name.replace(MS_SSIM_FILE, MS_SSIM_DB_FILE)] = decibel
        return means

    def _code_image(self, x: Tensor, level: float | None) -> dict[str, float]:
        """Rate, quality and time of the file of one image (3, H, W); MS-SSIM is NaN for sides below 161 pixels."""
        started = time.perf_counter()
        with torch.autocast(self.device.type, enabled=False):
            data = bitstream.encode(self.model, x, fingerprint=bytes(8), level=level)
            estimate = bitstream.estimate(self.model, x, level=level)
            x_hat = bitstream.decode(self.model, data, fingerprint=bytes(8))
        seconds = time.perf_counter() - started
        pixels = x.shape[1] * x.shape[2]
        ms_ssim = metrics.ms_ssim(x, x_hat)
        return {
            BPP_FILE: 8 * len(data) / pixels,
            BPP_ESTIMATE: estimate.bits / pixels,
            PSNR_FILE: float(metrics.psnr(x, x_hat)),
            MS_SSIM_FILE: math.nan if ms_ssim is None else float(ms_ssim),
            SECONDS_PER_IMAGE: seconds,
        }
