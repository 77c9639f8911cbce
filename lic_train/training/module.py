"""The LightningModule around a codec: one step, one validation, nothing that knows a model or a paper by name."""

from __future__ import annotations

import contextlib
import hashlib
import time
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Adam

from lic_train import bitstream, metrics
from lic_train.models.base import Codec
from lic_train.recipes.recipe import Recipe
from lic_train.training.compilation import compiled
from lic_train.training.optim import clip_net, make_optimizer, set_learning_rate

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
        self._coding = contextlib.ExitStack()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Forward, loss, and the auxiliary loss of the quantiles."""
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        torch.manual_seed(noise_seed(self.seed, self.global_step, micro_batch, self.global_rank))
        x = batch["x"]
        out = self.network(x)
        terms = self.recipe(out, x, self.global_step)
        aux = self.model.aux_loss()
        self._log_step(terms, aux)
        return {**{name: term.detach() for name, term in terms.items()}, "loss": terms["loss"] + aux}

    def _log_step(self, terms: dict[str, Tensor], aux: Tensor) -> None:
        values: dict[str, Tensor | float] = {f"train/{name}": term.detach() for name, term in terms.items()}
        if "mse" in terms:
            values["train/psnr"] = -10 * terms["mse"].detach().log10()
        stage = self.recipe.stage(self.global_step)
        values |= {"train/aux": aux.detach(), "train/lr": stage.lr, "train/stage": self.recipe.stages.index(stage)}
        values |= {f"train/{name}_weight": w for name, w in self.recipe.extra_weights(self.global_step).items()}
        # The step after this one: Lightning would count rows from 0.
        self.log_dict({**values, "step": float(self.global_step + 1)})

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """8-bit pixels to [0, 1], on the device."""
        x = batch["x"].to(memory_format=self.memory_format).float() / 255
        return {**batch, "x": x}

    def configure_optimizers(self) -> Adam:
        """See `make_optimizer`."""
        return make_optimizer(self.model, self.recipe)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """The learning rate is a pure function of the step; there is no scheduler state. The last step is validated."""
        set_learning_rate(self._adam(), self.recipe, self.global_step)
        accumulate = self.trainer.accumulate_grad_batches
        if self.global_step + 1 == self.trainer.max_steps and (batch_idx + 1) % accumulate == 0:
            self.trainer.val_check_batch = 1

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip the net group alone: a norm over the quantiles would change the network's step."""
        self.log("train/grad_norm", clip_net(self.model, self.recipe.clip_norm))

    def _adam(self) -> Adam:
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        return optimizer  # type: ignore[return-value]

    def on_validation_epoch_start(self) -> None:
        """Solve the quantiles and build the tables; `on_validation_epoch_end` puts the training state back."""
        self._coding.enter_context(self.model.ready_to_code())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The recipe's terms with the bitstream's quantiser, in float32, on centre crops."""
        x = batch["x"]
        with torch.autocast(self.device.type, enabled=False):
            out = self.model(x)
            terms = self.recipe(out, x, self.global_step)
        psnr = torch.stack([metrics.psnr(a, b) for a, b in zip(x, out["x_hat"], strict=True)]).mean()
        values = {f"val/{name}": term for name, term in terms.items()} | {"val/psnr": psnr}
        self.log_dict(values, batch_size=len(x), on_epoch=True, sync_dist=True)
        self.log("step", float(self.global_step), batch_size=len(x))

    def on_validation_epoch_end(self) -> None:
        """Code a few whole images for real, then restore the training state."""
        try:
            self._validate_bitstreams()
        finally:
            self._coding.close()

    def _validate_bitstreams(self) -> None:
        if self._whole_images is None:
            self._whole_images = self.trainer.datamodule.whole_images(self.bitstreams)  # type: ignore[attr-defined]
        if not self._whole_images:
            return
        started = time.perf_counter()
        rows = [self._code_image(image.to(self.device).float() / 255) for _, image in self._whole_images]
        bpp_file, bpp, psnr = (sum(column) / len(rows) for column in zip(*rows, strict=True))
        seconds = (time.perf_counter() - started) / len(rows)
        names = ("val/bpp_file", "val/bpp_gap", "val/psnr_file", "val/seconds_per_image")
        self.log_dict(dict(zip(names, (bpp_file, bpp_file / bpp - 1, psnr, seconds), strict=True)), sync_dist=True)

    def _code_image(self, x: Tensor) -> tuple[float, float, float]:
        """(bpp_file, estimated bpp, PSNR) of one image (3, H, W), through the bytes of its file."""
        with torch.autocast(self.device.type, enabled=False):
            data = bitstream.encode(self.model, x, fingerprint=bytes(8))
            estimate = bitstream.estimate(self.model, x)
            x_hat = bitstream.decode(self.model, data, fingerprint=bytes(8))
        pixels = x.shape[1] * x.shape[2]
        return 8 * len(data) / pixels, estimate.bits / pixels, float(metrics.psnr(x, x_hat))
