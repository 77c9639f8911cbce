"""Names of the metrics that a run logs: the columns of metrics.csv and the keys in W&B and TensorBoard.

Each term of the recipe is logged as train/<term> and, over centre crops, as val/<term>.
"""

from __future__ import annotations

TRAIN, VAL = "train/", "val/"
TRAIN_LOSS, TRAIN_BPP, TRAIN_PSNR = "train/loss", "train/bpp", "train/psnr"
LEARNING_RATE, STAGE, GRAD_NORM = "train/lr", "train/stage", "train/grad_norm"
IMAGES_PER_SECOND, WAITING_SHARE = "train/images_per_second", "train/waiting_share"
HOURS = {"gpu": "train/gpu_hours", "cpu": "train/cpu_hours"}  # by kind of device
VAL_LOSS = "val/loss"
# Over whole validation images that are coded to a file; "_file" where a crop has a metric of the same name.
BPP_FILE, BPP_ESTIMATE, BPP_GAP = "val/bpp_file", "val/bpp_estimate", "val/bpp_gap"
PSNR_FILE, MS_SSIM_FILE, MS_SSIM_DB_FILE = "val/psnr_file", "val/ms_ssim_file", "val/ms_ssim_db_file"
FILE_POINT = (BPP_FILE, PSNR_FILE, MS_SSIM_FILE)  # of the levels of a variable rate too
SECONDS_PER_IMAGE = "val/seconds_per_image"


def of_level(name: str, level: int) -> str:
    """Return the name of a metric at one level of a variable rate."""
    return f"{name}_level_{level}"
