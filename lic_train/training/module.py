"""The LightningModule around a codec: one step, one validation, nothing that knows a model or a paper by name."""

from __future__ import annotations

import contextlib
import hashlib
import time
from contextlib import AbstractContextManager
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Adam

from lic_train.data.stream.on_device import to_floats
from lic_train.entropy.noise import part_of_batch
from lic_train.files import bitstream
from lic_train.models.base import Codec
from lic_train.rd import metrics
from lic_train.recipes.recipe import Recipe
from lic_train.training.compilation import compiled
from lic_train.training.optim import clip_net, make_optimizer, set_learning_rate
from lic_train.training.ranks import check_equal_weights, everyones

Batch = dict[str, Any]


def noise_seed(*key: int) -> int:
    """A 63-bit seed that is a pure function of its key, so a resumed step draws the noise it would have drawn."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class LitCodec(L.LightningModule):
    """Trains ``model`` under ``recipe``.

    Args:
        model: the codec.
        recipe: what is minimised at every step.
        model_config: what `lic_train.models.base.build` made the model from; travels in every checkpoint.
        seed: of the quantisation noise.
        compile: compile the training forward; falls back, announced, where that fails.
        channels_last: memory format of images and weights.
        bitstreams: whole validation photographs that are coded for real at every validation.
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
        self._whole_images: list[tuple[str, Tensor]] | None = None
        self.step_metrics: dict[str, Tensor | float] = {}  # of the running step; `Rows` writes them
        self._terms: list[Tensor] = []  # of the micro-batches of this step
        self._validated: list[tuple[int, dict[str, float]]] = []  # images, and their mean terms
        self._coding = contextlib.ExitStack()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Forward, loss, and the auxiliary loss of the quantiles."""
        x = batch["x"]
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        torch.manual_seed(noise_seed(self.seed, self.global_step))
        with self._part_of_batch(micro_batch, len(x)):
            out = self.network(x)
        terms = self.recipe(out, x, self.global_step)
        aux = self.model.aux_loss()
        self._note_step(micro_batch, {**terms, "aux": aux})
        return {**{name: term.detach() for name, term in terms.items()}, "loss": terms["loss"] + aux}

    def _part_of_batch(self, micro_batch: int, images: int) -> AbstractContextManager[None]:
        """Place this process's images in the batch of the step, as `lic_train.data.stream.loader` deals them out."""
        world = self.trainer.world_size
        parts = world * self.trainer.accumulate_grad_batches
        if parts == 1:
            return contextlib.nullcontext()
        first = micro_batch * images * world + self.global_rank
        positions = first + world * torch.arange(images, device=self.device)
        return part_of_batch(positions, images * parts)

    def _note_step(self, micro_batch: int, terms: dict[str, Tensor]) -> None:
        """Note the means over all processes and over the micro-batches of the step so far."""
        self._terms = [*self._terms[:micro_batch], torch.stack([term.detach() for term in terms.values()])]
        means = self.trainer.strategy.reduce(torch.stack(self._terms).mean(0), reduce_op="mean")
        values: dict[str, Tensor | float] = {f"train/{n}": mean for n, mean in zip(terms, means, strict=True)}
        if "train/mse" in values:
            values["train/psnr"] = -10 * values["train/mse"].log10()  # type: ignore[union-attr]
        stage = self.recipe.stage(self.global_step)
        values |= {"train/lr": stage.lr, "train/stage": self.recipe.stages.index(stage)}
        values |= {f"train/{name}_weight": w for name, w in self.recipe.extra_weights(self.global_step).items()}
        self.step_metrics = values

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Flips, and 8-bit pixels to [0, 1], on the device."""
        return {**batch, "x": to_floats(batch["x"], batch["flip"], self.memory_format)}

    def configure_optimizers(self) -> Adam:
        """See `make_optimizer`."""
        return make_optimizer(self.model, self.recipe)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Learning rate and quantiser are pure functions of the step, without a state. The last step is validated."""
        set_learning_rate(self._adam(), self.recipe, self.global_step)
        self.model.use_quantizer(self.recipe.stage(self.global_step).quantizer)
        accumulate = self.trainer.accumulate_grad_batches
        if self.global_step + 1 == self.trainer.max_steps and (batch_idx + 1) % accumulate == 0:
            self.trainer.val_check_batch = 1

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip the net group alone: a norm over the quantiles would change the network's step."""
        self.step_metrics["train/grad_norm"] = clip_net(self.model, self.recipe.clip_norm)

    def _adam(self) -> Adam:
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        return optimizer  # type: ignore[return-value]

    def on_validation_epoch_start(self) -> None:
        """Solve the quantiles and build the tables; `on_validation_epoch_end` puts the training state back.

        Raises:
            TrainingError: the processes hold different weights.
        """
        check_equal_weights(self.model)
        self._validated = []
        self._coding.enter_context(self.model.ready_to_code())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The recipe's terms with the bitstream's quantiser, in float32, on centre crops; a batch may be empty."""
        x = batch["x"]
        if len(x) == 0:  # of a process with fewer images than others
            return
        with torch.autocast(self.device.type, enabled=False):
            out = self.model(x)
            terms = self.recipe(out, x, self.global_step)
        terms["psnr"] = torch.stack([metrics.psnr(a, b) for a, b in zip(x, out["x_hat"], strict=True)]).mean()
        self._validated.append((len(x), {name: float(term) for name, term in terms.items()}))

    def on_validation_epoch_end(self) -> None:
        """Code a few whole images for real, then restore the training state; log the means over all processes."""
        try:
            coded = self._code_whole_images()
        finally:
            self._coding.close()
        batches = [batch for part in everyones(self._validated) for batch in part]
        count = sum(images for images, _ in batches)
        names = batches[0][1]
        means = {name: sum(images * terms[name] for images, terms in batches) / count for name in names}
        values = means | coded | {"step": float(self.global_step)}
        self.log_dict({name if name == "step" else f"val/{name}": value for name, value in values.items()})

    def _code_whole_images(self) -> dict[str, float]:
        """Means over the whole images, of which every process codes some; nothing if there are none.

        Their names, beside those of the centre crops, end in "_file" where a crop has the like.
        """
        if self._whole_images is None:
            self._whole_images = self.trainer.datamodule.whole_images(self.bitstreams)  # type: ignore[attr-defined]
        rank, world = self.global_rank, self.trainer.world_size
        rows = [self._code_image(image.to(self.device).float() / 255) for _, image in self._whole_images[rank::world]]
        rows = [row for part in everyones(rows) for row in part]
        if not rows:
            return {}
        means = {
            name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if all(name in row for row in rows)
        }
        means["bpp_gap"] = means["bpp_file"] / means["bpp_estimate"] - 1
        if "ms_ssim_file" in means:
            means["ms_ssim_db_file"] = float(metrics.ms_ssim_db(torch.tensor(means["ms_ssim_file"])))
        return means

    def _code_image(self, x: Tensor) -> dict[str, float]:
        """What the file of one image (3, H, W) costs and gives; MS-SSIM needs sides of 161 pixels."""
        started = time.perf_counter()
        with torch.autocast(self.device.type, enabled=False):
            data = bitstream.encode(self.model, x, fingerprint=bytes(8))
            estimate = bitstream.estimate(self.model, x)
            x_hat = bitstream.decode(self.model, data, fingerprint=bytes(8))
        seconds = time.perf_counter() - started
        pixels = x.shape[1] * x.shape[2]
        ms_ssim = metrics.ms_ssim(x, x_hat)
        return {
            "bpp_file": 8 * len(data) / pixels,
            "bpp_estimate": estimate.bits / pixels,
            "psnr_file": float(metrics.psnr(x, x_hat)),
            **({} if ms_ssim is None else {"ms_ssim_file": float(ms_ssim)}),
            "seconds_per_image": seconds,
        }
