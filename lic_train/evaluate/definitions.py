"""Definitions of the numbers in a result file, which every result file contains."""

from __future__ import annotations

from lic_train.files.tiles import MAX_TILE_PIXELS, OVERLAP, TILE
from lic_train.rd.metrics import MS_SSIM_MIN_SIDE

# Two samples in [0, 1] this close, 1/40 of an 8-bit step, may be rounded to different 8-bit values.
FLOAT_ORDER = 1e-4
DEFINITIONS = {
    "bpp_file": "8 * bytes of the .lic file / (width * height); includes header and checksum; pixels without padding",
    "bpp": "estimate: sum of -log2 of all likelihoods of the padded image / (width * height)",
    "psnr": "dB; clamped RGB rounded to 8 bits; mean squared error over all pixels and channels of an image; null if "
    "the images are equal",
    "ms_ssim": f"pytorch-msssim; 5 scales; RGB rounded to 8 bits; null if a side is below {MS_SSIM_MIN_SIDE} pixels",
    "ms_ssim_db": "-10 log10(1 - ms_ssim); in the mean, computed from the mean ms_ssim",
    "encode_seconds": "image in memory to bytes, padding included. All times are medians of environment.repeats calls, "
    "after a forward pass of the same image as warm-up; environment.jobs processes with environment.threads threads "
    "each ran in parallel",
    "decode_seconds": "bytes to image in host memory",
    "encode_coding_seconds": "time in the entropy coder: mixture tables, and symbols to bytes",
    "decode_coding_seconds": "time in the entropy coder: mixture tables, and bytes to symbols",
    "encode_model_seconds": "the rest of encode_seconds: the networks",
    "decode_model_seconds": "the rest of decode_seconds: the networks",
    "io_seconds": "writing the file, flushing it to the disk and reading it",
    "equal": "whether the image that a second model decodes from the file equals the encoder's reconstruction (forward "
    f"in eval mode) in 8 bits; samples that differ by at most {FLOAT_ORDER:g} of [0, 1] and are rounded to different "
    "values count as equal",
    "max_difference": "largest absolute difference of the same two images, as floats in [0, 1]",
    "mean": "arithmetic mean over the images of each number; null if it is null for one image",
    "median": "median over the images of each time",
    "padding": "replicate, bottom and right, to multiples of the model's downsampling factor",
    "tile": f"pictures of more than {MAX_TILE_PIXELS} pixels (padded) are coded in tiles of {TILE}, which overlap by "
    f"{OVERLAP} pixels; estimates are those of the same tiles",
    "image_list_sha256": "hash over name, height, width and RGB bytes of every image, in order",
    "level": "level of a variable rate with which the image was coded; the file contains it",
    "lambda": "lambda of the level, interpolated geometrically between those of training",
    "levels": "means over the images at each level; mean contains all levels",
    "fingerprint": "first 8 bytes of SHA-256 over the model's configuration and weights; every .lic file contains it",
}
