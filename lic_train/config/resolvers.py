"""OmegaConf resolvers for ``${...}`` in conf/: widths by rate, and parts of directory names."""

from __future__ import annotations

import math

from omegaconf import OmegaConf

# Lambdas of the quality levels q1 .. q8 of CompressAI's documentation, which select the published widths.
LADDERS = {
    "mse": (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800),
    "ms_ssim": (2.40, 4.58, 8.73, 16.64, 31.73, 60.50, 115.37, 220.00),
}


def quality(lmbda: float, distortion: str) -> int:
    """Return the rung 1 .. 8 whose lambda is nearest on a logarithmic scale."""
    ladder = LADDERS[distortion]
    return 1 + min(range(len(ladder)), key=lambda rung: abs(math.log(lmbda / ladder[rung])))


def by_quality(lmbda: float, distortion: str, widths: dict[int, int]) -> int:
    """Return the width of the first entry whose key is at least the quality, or the last width."""
    rung = quality(lmbda, distortion)
    return next((width for last, width in sorted(widths.items()) if rung <= last), widths[max(widths)])


def register_resolvers() -> None:
    """Register ``${by_quality:...}``, ``${highest:...}``, ``${number:...}``, ... in OmegaConf; idempotent."""
    OmegaConf.register_new_resolver("by_quality", by_quality, replace=True)
    OmegaConf.register_new_resolver("highest", max, replace=True)
    # 220 and 220.0 are one lambda and one directory.
    OmegaConf.register_new_resolver("number", lambda value: str(float(value)).removesuffix(".0"), replace=True)
    # 10000 is 1e04: a name contains no "+".
    OmegaConf.register_new_resolver("short", lambda value: f"{float(value):.4g}".replace("+", ""), replace=True)
    OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("suffix", lambda name: f"_{name}" if name else "", replace=True)
