"""Full-reference image metrics of torchmetrics, requested with ``metrics=lpips,dists,...``.

Every metric compares the decoded image with the original, RGB rounded to 8 bits and divided by 255, as PSNR and MS-SSIM
do. Not offered are torchmetrics' PSNR-B, which accepts one channel only, its RASE, which divides twice by the number of
pixels of a window (release 1.9), and its spectral and spatial distortion indices for pan-sharpened satellite images.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lic_train.errors import ConfigError
from lic_train.evaluate.results import finite
from lic_train.rd.metrics import to_8bit
from lic_train.system.screen import reason

Compare = Callable[[Tensor, Tensor], Tensor]  # decoded and original, (1, 3, H, W) in [0, 1] -> scalar


@dataclass(frozen=True)
class ImageMetric:
    """One metric.

    Attributes:
        make: builds the function that compares two images; loads the weights of a network.
        about: definition without direction and smallest size.
        better: whether "higher" or "lower" values mean more similar images.
        min_side: smallest height and width in pixels; the value of a smaller image is None.
        weights: torchvision's name of the pretrained weights that are downloaded on first use.
    """

    make: Callable[[], Compare]
    about: str
    better: Literal["higher", "lower"]
    min_side: int = 1
    weights: str | None = None

    @property
    def definition(self) -> str:
        """Definition for the result file."""
        small = f"a side is below {self.min_side} pixels or " if self.min_side > 1 else ""
        return f"torchmetrics: {self.about}; {self.better} is better; null if {small}the value is not finite"


# Imported on use: torchmetrics takes seconds to import, and most evaluations need none of its metrics.
def _torchmetrics(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"torchmetrics.{module}"), name)


def _function(name: str, scale: float = 1.0, **arguments: Any) -> Callable[[], Compare]:
    """Return a maker of a function of ``torchmetrics.functional.image``, called with images in [0, scale]."""

    def make() -> Compare:
        function = _torchmetrics("functional.image", name)
        return lambda decoded, original: function(scale * decoded, scale * original, **arguments)

    return make


def _lpips(net: str) -> Compare:
    lpips: Compare = _torchmetrics("image", "LearnedPerceptualImagePatchSimilarity")(net_type=net, normalize=True)
    return lpips


def _dists() -> Compare:
    # torchmetrics' metric and function would load the network again for every image.
    dists: Compare = _torchmetrics("functional.image.dists", "DISTSNetwork")()
    return dists


METRICS = {
    "lpips": ImageMetric(
        partial(_lpips, "alex"),
        "LPIPS v0.1 with AlexNet (Zhang et al. 2018)",
        "lower",
        min_side=31,
        weights="AlexNet_Weights.DEFAULT",
    ),
    "lpips_vgg": ImageMetric(
        partial(_lpips, "vgg"),
        "LPIPS v0.1 with VGG-16 (Zhang et al. 2018)",
        "lower",
        min_side=16,
        weights="VGG16_Weights.DEFAULT",
    ),
    "dists": ImageMetric(
        _dists,
        "DISTS with VGG-16 (Ding et al. 2020)",
        "lower",
        weights="VGG16_Weights.DEFAULT",
    ),
    "ssim": ImageMetric(
        _function("structural_similarity_index_measure", data_range=1.0),
        "SSIM (Wang et al. 2004), Gaussian window of 11 pixels, mean of R, G and B",
        "higher",
        min_side=11,
    ),
    "vif": ImageMetric(
        _function("visual_information_fidelity", scale=255.0),
        "pixel-domain VIF (Sheikh and Bovik 2006) of values in [0, 255], noise variance 2, mean of R, G and B",
        "higher",
        min_side=41,
    ),
    "uqi": ImageMetric(
        _function("universal_image_quality_index"),
        "universal image quality index (Wang and Bovik 2002), Gaussian window of 11 pixels",
        "higher",
        min_side=11,
    ),
    "scc": ImageMetric(
        _function("spatial_correlation_coefficient"),
        "spatial correlation coefficient (Zhou et al. 1998) after a Laplacian filter, windows of 8 pixels",
        "higher",
        min_side=8,
    ),
    "sam": ImageMetric(
        _function("spectral_angle_mapper"),
        "mean angle between the RGB vectors of a pixel in radians; not defined for black pixels",
        "lower",
    ),
    "ergas": ImageMetric(
        _function("error_relative_global_dimensionless_synthesis"),
        "ERGAS (Wald 2000), ratio 4: 100 / 4 * sqrt(mean over R, G and B of (RMSE / mean)^2)",
        "lower",
    ),
    "rmse_sw": ImageMetric(
        _function("root_mean_squared_error_using_sliding_window"),
        "root mean squared error of values in [0, 1], mean over windows of 8 pixels",
        "lower",
        min_side=9,
    ),
}


def check_names(names: Sequence[str]) -> Sequence[str]:
    """Return ``names`` if all of them are in `METRICS` and different.

    Raises:
        ConfigError: an unknown metric, with the nearest names, or one that is named twice.
    """
    for name in names:
        if name not in METRICS:
            raise _unknown(name)
    if len(set(names)) < len(names):
        raise ConfigError("metrics: a metric is named twice.", expected="different names", got=", ".join(names))
    return names


def _unknown(name: str) -> ConfigError:
    nearest = " or ".join(difflib.get_close_matches(name, METRICS, n=2, cutoff=0.4))
    return ConfigError(
        "metrics: a metric is not known.",
        expected=f"any of {', '.join(METRICS)}; PSNR and MS-SSIM are always measured",
        got=repr(name),
        to_do=f"did you mean {nearest}?" if nearest else "",
    )


def definitions(names: Iterable[str]) -> dict[str, str]:
    """Return the definitions of these metrics for the result file."""
    return {name: METRICS[name].definition for name in names}


def prepare(names: Sequence[str]) -> None:
    """Load the weights of these metrics, from torchvision's download cache or from the network.

    Raises:
        ConfigError: an unknown metric, or weights that cannot be loaded.
    """
    for name in check_names(names):
        _loaded(name)


def compare(names: Sequence[str], x: Tensor, x_hat: Tensor, device: torch.device) -> dict[str, float | None]:
    """Compute the metrics of one image.

    Args:
        names: metrics in `METRICS`.
        x: original (3, H, W), RGB in [0, 1].
        x_hat: decoded image, likewise.
        device: on which the metrics are computed.

    Returns:
        Value by name; None where the image is too small for the metric or the value is not finite.
    """
    decoded, original = (to_8bit(image[None]).to(device) / 255 for image in (x_hat, x))
    return {name: _value(name, decoded, original) for name in names}


@torch.no_grad()
def _value(name: str, decoded: Tensor, original: Tensor) -> float | None:
    if min(original.shape[-2:]) < METRICS[name].min_side:
        return None
    function = _loaded(name)
    if isinstance(function, nn.Module):
        function.to(original.device)
    return finite(float(function(decoded, original)))


@cache
def _loaded(name: str) -> Compare:
    metric = METRICS[name]
    if metric.weights is None:
        return metric.make()
    try:
        return metric.make()
    # torchvision and torch.load raise many types without a network, without disk space or on a damaged file.
    except Exception as error:
        raise _no_weights(name, metric.weights, error) from error


def _no_weights(name: str, weights: str, error: Exception) -> ConfigError:
    url = importlib.import_module("torchvision").models.get_weight(weights).url
    file, folder = url.rpartition("/")[2], Path(torch.hub.get_dir()) / "checkpoints"
    return ConfigError(
        f"metrics: the weights of {name} cannot be loaded.",
        expected=f"{file} in {folder}, or network access to download it on first use",
        got=reason(error),
        to_do=f"download {url} on another machine and copy it to that folder, where it replaces a damaged file; "
        "or leave out this metric",
    )
