"""What ``${...}`` in conf/ may compute: widths by rate, and words for directories."""

from __future__ import annotations

import math

from omegaconf import OmegaConf

# The rungs q1 .. q8 that the field's networks choose their widths by (CompressAI documentation).
LADDERS = {
    "mse": (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800),
    "ms_ssim": (2.40, 4.58, 8.73, 16.64, 31.73, 60.50, 115.37, 220.00),
}


def quality(lmbda: float, distortion: str) -> int:
    """The rung 1 .. 8 nearest to ``lmbda`` in the logarithm."""
    ladder = LADDERS[distortion]
    return 1 + min(range(len(ladder)), key=lambda rung: abs(math.log(lmbda / ladder[rung])))


def by_quality(lmbda: float, distortion: str, widths: dict[int, int]) -> int:
    """The width of the first entry whose quality is not exceeded; beyond the last, the last."""
    rung = quality(lmbda, distortion)
    return next((width for last, width in sorted(widths.items()) if rung <= last), widths[max(widths)])


def register_resolvers() -> None:
    """Make ``${by_quality:...}``, ``${highest:...}``, ``${number:...}``, ... known to OmegaConf; idempotent."""
    OmegaConf.register_new_resolver("by_quality", by_quality, replace=True)
    OmegaConf.register_new_resolver("highest", max, replace=True)
    # 220 and 220.0 are one lambda and one directory.
    OmegaConf.register_new_resolver("number", lambda value: str(float(value)).removesuffix(".0"), replace=True)
    OmegaConf.register_new_resolver("short", lambda value: f"{float(value):.4g}", replace=True)
    OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("suffix", lambda name: f"_{name}" if name else "", replace=True)
