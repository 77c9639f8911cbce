"""Loss terms: pure functions (out, x) -> scalar, which a recipe selects and weights; some also for each image.

``out`` is the output of a codec's ``forward``; ``x`` is (B, 3, H, W) in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pytorch_msssim import ms_ssim as _ms_ssim
from torch import Tensor

# Structurally the `CodecOutput` of lic_train.models.base, which recipes do not import.
Out = Mapping[str, Any]
Term = Callable[[Out, Tensor], Tensor]


def bpp(out: Out, x: Tensor) -> Tensor:
    """Return the estimated bits per pixel: -log2 of all likelihoods over B * H * W pixels. Scalar."""
    num_pixels = x.shape[0] * x.shape[2] * x.shape[3]
    nats = torch.stack([-likelihoods.log().sum() for likelihoods in out["likelihoods"].values()]).sum()
    return nats / math.log(2) / num_pixels


def mse(out: Out, x: Tensor) -> Tensor:
    """Return the mean squared error over pixels and colours, images in [0, 1]. Scalar."""
    return torch.nn.functional.mse_loss(out["x_hat"].float(), x)


def ms_ssim(out: Out, x: Tensor) -> Tensor:
    """Return 1 - MS-SSIM (five scales, 11-tap window, data range 1). Scalar. Sides must exceed 160 pixels."""
    with torch.autocast(x.device.type, enabled=False):
        return 1 - _ms_ssim(out["x_hat"].float(), x, data_range=1.0)


def feature_enhancement(out: Out, x: Tensor) -> Tensor:
    """Return the mean squared difference of enhanced and refined features (IB-LIC's L_en). Scalar.

    It is 0 for codecs without these features. The refined feature is a target without gradient: nothing else fixes its
    scale, so the encoder could reduce the term by shrinking it.
    """
    if "features" not in out:
        return x.new_zeros(())
    refined, enhanced = out["features"]["refined"], out["features"]["enhanced"]
    return torch.nn.functional.mse_loss(enhanced.float(), refined.detach().float())


def bpp_per_image(out: Out, x: Tensor) -> Tensor:
    """Return `bpp` of each image, (B,)."""
    nats = [-likelihoods.log().flatten(1).sum(1) for likelihoods in out["likelihoods"].values()]
    return torch.stack(nats).sum(0) / math.log(2) / (x.shape[2] * x.shape[3])


def mse_per_image(out: Out, x: Tensor) -> Tensor:
    """Return `mse` of each image, (B,)."""
    return (out["x_hat"].float() - x).square().flatten(1).mean(1)


def ms_ssim_per_image(out: Out, x: Tensor) -> Tensor:
    """Return `ms_ssim` of each image, (B,)."""
    with torch.autocast(x.device.type, enabled=False):
        return 1 - _ms_ssim(out["x_hat"].float(), x, data_range=1.0, size_average=False)


# Distortions of each image, for a loss in which every image has its own lambda.
PER_IMAGE: dict[str, Term] = {"mse": mse_per_image, "ms_ssim": ms_ssim_per_image}

TERMS: dict[str, Term] = {"bpp": bpp, "mse": mse, "ms_ssim": ms_ssim, "feature_enhancement": feature_enhancement}

# Factor between lambda and the distortion: 255^2 for MSE (lambda per squared 8-bit level), 1 for 1 - MS-SSIM.
DISTORTION_SCALE = {"mse": 255.0**2, "ms_ssim": 1.0}
