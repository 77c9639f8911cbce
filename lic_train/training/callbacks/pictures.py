"""After every validation: original and reconstruction of one whole photograph, as a PNG and in the loggers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from lic_train.evaluate.pictures import panel
from lic_train.files.bitstream import estimate
from lic_train.models.base import Codec
from lic_train.rd import metrics
from lic_train.system.screen import reason, say

KEY = "val/picture"


class Pictures(Callback):
    """Draws original, reconstruction, error and bits map of one photograph to ``directory/step_%08d.png``.

    Must precede `WeightAveraging` in the trainer's list, so that it draws with the averaged weights.

    Args:
        directory: folder of the PNGs.
        images: returns (name, uint8 (3, H, W)) pairs, of which the first is drawn; called once.
    """

    def __init__(self, directory: Path, images: Callable[[], list[tuple[str, Tensor]]]) -> None:
        self.directory = Path(directory)
        self.images = images
        self._image: tuple[str, Tensor] | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw in the first process; if the PNG cannot be written, print a message and continue training."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        self._image = self._image or next(iter(self.images()), None)
        if self._image is None:
            return
        path = self.directory / f"step_{trainer.global_step:08d}.png"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            _draw(path, pl_module.model, *self._image, pl_module.device)  # type: ignore[arg-type]
        except OSError as error:
            say(f"The picture {path} could not be written: {reason(error)}", style="yellow")
            return
        log_picture(trainer, KEY, path)


@torch.no_grad()
def _draw(path: Path, model: Codec, name: str, image: Tensor, device: torch.device) -> None:
    """Run ``image`` through the model with the bitstream's quantiser, in fp32, without a file, and draw the panel."""
    x = image.to(device).float() / 255
    with model.ready_to_code(), torch.autocast(device.type, enabled=False):
        found = estimate(model, x)
    ms_ssim = metrics.ms_ssim(x, found.x_hat)
    panel(
        path,
        x,
        found.x_hat,
        found.bits_map(),
        title=name,
        bpp=found.bits / (x.shape[1] * x.shape[2]),
        psnr=float(metrics.psnr(x, found.x_hat)),
        ms_ssim=None if ms_ssim is None else float(ms_ssim),
    )


def log_picture(trainer: Trainer, key: str, path: Path) -> None:
    """Log a PNG to the loggers that support images."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [str(path)], step=step)
        elif isinstance(logger, TensorBoardLogger):
            with Image.open(path) as picture:
                logger.experiment.add_image(key, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
