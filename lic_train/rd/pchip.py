"""Integrals of monotone cubic interpolants (PCHIP; Fritsch and Butland, SIAM J. Sci. Stat. Comput. 5, 1984).

Arrays have the shape (..., points), with x and y increasing along the last dimension.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray


def mean_between(x: ndarray, y: ndarray, low: ndarray, high: ndarray) -> ndarray:
    """Return the mean of the interpolant over [low, high].

    Args:
        x: positions (..., points).
        y: values (..., points).
        low: lower ends (...), not below the first position.
        high: upper ends (...), not above the last position.

    Returns:
        Means (...).
    """
    step, slope = np.diff(x), _slopes(x, y)
    pieces = (y[..., :-1], y[..., 1:], step * slope[..., :-1], step * slope[..., 1:])
    ends = (np.clip((end[..., None] - x[..., :-1]) / step, 0, 1) for end in (low, high))
    from_low, to_high = (_primitive(t, *pieces) for t in ends)
    return ((to_high - from_low) * step).sum(axis=-1) / (high - low)


def _primitive(t: ndarray, y0: ndarray, y1: ndarray, d0: ndarray, d1: ndarray) -> ndarray:
    """Return the integral over [0, t] of the Hermite cubic with these values and derivatives at 0 and 1."""
    return (
        y0 * (t - t**3 + t**4 / 2)
        + y1 * (t**3 - t**4 / 2)
        + d0 * (t**2 / 2 - 2 * t**3 / 3 + t**4 / 4)
        + d1 * (t**4 / 4 - t**3 / 3)
    )


def _slopes(x: ndarray, y: ndarray) -> ndarray:
    """Return the derivatives: weighted harmonic means inside, three-point formulas clamped to 0 at the ends."""
    step = np.diff(x)
    chord = np.diff(y) / step
    before, after = 2 * step[..., 1:] + step[..., :-1], step[..., 1:] + 2 * step[..., :-1]
    inside = (before + after) / (before / chord[..., :-1] + after / chord[..., 1:])
    ends = (_end(step[..., i], step[..., j], chord[..., i], chord[..., j]) for i, j in ((0, 1), (-1, -2)))
    first, last = ends
    return np.concatenate([first[..., None], inside, last[..., None]], axis=-1)


def _end(step: ndarray, next_step: ndarray, chord: ndarray, next_chord: ndarray) -> ndarray:
    return np.maximum(((2 * step + next_step) * chord - step * next_chord) / (step + next_step), 0)
