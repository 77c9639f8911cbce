"""Names, units and colours that every table, figure and page of rate-distortion results shares.

The colours follow Paul Tol's schemes "vibrant" (models), "muted" (anchors and cited curves) and an ordered scale after
viridis (trainings), darkened or lightened until their contrast with the background is at least 3 (WCAG 2.2). Markers
and dashes also distinguish the curves, so that no figure depends on colour alone.
"""

from __future__ import annotations

from typing import Literal

Background = Literal["light", "dark"]
Family = Literal["model", "anchor", "training"]

RATE_LABEL = "bits per pixel"
METRIC_NAMES = {"psnr": "PSNR", "ms_ssim_db": "MS-SSIM"}
METRIC_LABELS = {metric: f"{name} [dB]" for metric, name in METRIC_NAMES.items()}
METRIC_OF = {"mse": "psnr", "ms_ssim": "ms_ssim_db"}  # the metric that reports a training loss's distortion

# Eight colours of each family; cited curves share those of the anchors, trainings of one model are ordered by lambda.
PALETTE: dict[Background, dict[Family, tuple[str, ...]]] = {
    "light": {
        "model": ("#0067ab", "#d1570c", "#00796d", "#d4246a", "#7a3ba8", "#8a6d00", "#0e86a8", "#b3260f"),
        "anchor": ("#44505c", "#a3414f", "#2e7d5b", "#4b4aa3", "#8f7a1e", "#86447f", "#2f7f92", "#7d5a3c"),
        "training": ("#440154", "#443a83", "#31688e", "#21908c", "#35a060", "#618c10", "#917b00", "#b56a00"),
    },
    "dark": {
        "model": ("#4aa8ee", "#f58a4b", "#2fc4b2", "#f76a9f", "#b98be8", "#d9b840", "#5fd0ee", "#f0705c"),
        "anchor": ("#b4bec9", "#e08c98", "#7cc4a2", "#9f9df0", "#cdb965", "#d092c8", "#7fc3d3", "#c9a383"),
        "training": ("#b58cd9", "#8f8fe0", "#6aa9d6", "#45bdb6", "#5fcb86", "#a5d150", "#dcc53c", "#f0a94a"),
    },
}


def lambda_label(lmbda: float) -> str:
    """Return the label of a rate that was chosen by lambda, ``λ 0.0067``."""
    return f"λ {lmbda:g}"


def training_colour(number: int, count: int) -> int:
    """Return the index into the training colours of line ``number`` of ``count``, spread over the ordered scale."""
    last = len(PALETTE["light"]["training"]) - 1
    return round(number * last / (count - 1)) if count > 1 else 2
