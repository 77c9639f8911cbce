"""Weights that follow from the names of the tensors, for comparison with outputs of the authors' networks.

Every tensor is drawn from a generator that its name seeds, and scaled by the kind of the tensor. tests/golden/keys.json
has the names and shapes of the authors' tensors, tests/golden/outputs.json what their networks then compute.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"

# By table of names: power of the weights by the beginning of the name; the first that fits counts.
GAIN: dict[str, list[tuple[str, float]]] = {
    "dcae": [("", 1.5)],
    "cwam_n128": [("h_", 6), ("entropy_parameters", 4), ("", 2.97)],
    "tinylic": [(r"([gh]_a|g_s)\d\.weight", 0.5), ("cc_|sc_|entropy_parameters", 4), ("", 1.52)],
    "gaacnn_net_m192": [("decoder", 0.8), ("", 1.23)],
    "gaacnn_context_m192": [("", 3)],
    "stf": [("h_|cc_|lrp_", 5), ("", 1.42)],
    "wacnn": [("h_", 6), ("cc_|lrp_", 5), ("g_s", 2.5), ("", 3.92)],
    "tcm_n64": [("cc_|lrp_", 6), ("", 1.5)],
    "tcm_n128": [("cc_|lrp_", 6), ("", 1.52)],
    "invcompress_n128": [("h_", 6), ("entropy_parameters", 3), ("", 1.5)],
    "qres34m": [(r"decoder\.dec_blocks\.\d+\.posterior", 4), (r"decoder\.dec_blocks\.16", 0.06), ("", 2.86)],
}
# Biases that predict scales and are therefore raised by 1.
RAISED: dict[str, str] = {
    "dcae": r"cc_scale_transforms\.\d\.4\.bias",
    "cwam_n128": r"entropy_parameters\.4\.bias",
    "tinylic": r"entropy_parameters_\d\.4\.bias",
    "gaacnn_context_m192": r"conv2\.4\.bias",
    "stf": r"cc_scale_transforms\.\d+\.8\.bias",
    "wacnn": r"cc_scale_transforms\.\d+\.8\.bias",
    "tcm_n64": r"cc_scale_transforms\.\d\.4\.bias",
    "tcm_n128": r"cc_scale_transforms\.\d\.4\.bias",
    "invcompress_n128": r"entropy_parameters\.4\.bias",
}
# GAACNN saves the last tensor of three lists under a second name.
REPEATED = {"matrix": "_matrices.3", "bias": "_bias.3", "factor": "_factor.2"}
TABLE_OF_BIASES = ("relative_position_params", "relative_position_bias_table", "rpb")


def key_table(name: str) -> dict[str, tuple[int, ...]]:
    """Return shapes by name from keys.json, whose keys contain alternatives: ``h_a.0 2.weight bias``."""
    tree = json.loads((GOLDEN / "keys.json").read_text())[name]
    return {key: tuple(int(side) for side in shape.split("x")) for key, shape in _leaves(tree)}


def _leaves(tree: dict[str, Any] | str, before: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    if isinstance(tree, str):
        yield ".".join(before), tree
        return
    for key, below in tree.items():
        for parts in itertools.product(*(part.split(" ") for part in key.split("."))):
            yield from _leaves(below, (*before, *parts))


def filled(table: str) -> dict[str, Tensor]:
    """Return the float32 weights of a table."""
    return {key: torch.from_numpy(_weight(table, key, shape)) for key, shape in key_table(table).items()}


def _weight(table: str, key: str, shape: tuple[int, ...]) -> np.ndarray:
    begin, _, last = key.rpartition(".")
    if begin == "factorized_entropy_func" and last in REPEATED:
        key = f"{begin}.{REPEATED[last]}"
    seed = zlib.crc32(key.encode())
    u = np.random.RandomState(seed).uniform(-1, 1, math.prod(shape)).reshape(shape)
    return _scaled(table, key, last, u).astype(np.float32)


def _scaled(table: str, key: str, last: str, u: np.ndarray) -> np.ndarray:
    if key == "dt":
        return u
    if last == "quantiles":
        return np.array([0.0, 0.3, 0.0]) * u + np.array([-10.0, 0.0, 10.0])
    if key.startswith(("entropy_bottleneck.", "factorized_entropy_func.")):
        return 0.5 * u - 0.5 * ("_matri" in key)
    if last.removesuffix("_x").removesuffix("_y") in TABLE_OF_BIASES:
        return 0.5 * u
    if last == "gamma" and u.ndim == 2:
        return 0.3 * np.eye(len(u)) + math.sqrt(0.075 / len(u)) * (1 + u)
    if last in ("bias", "running_mean") or (last == "beta" and u.ndim > 1):
        return 0.1 * u + _raise(table, key, len(u)).reshape(-1, *[1] * (u.ndim - 1))
    if u.ndim == 1 or last in ("gamma", "scale"):
        return 1 + 0.1 * u
    if key.startswith("inv.operations.") and u.ndim == 2:
        return np.eye(len(u)) + 0.3 * math.sqrt(3 / len(u)) * u
    gain = 1.5 / len(u) if last == "a" else _gain(table, key) * len(u) / u.size
    return math.sqrt(gain) * u


def _gain(table: str, key: str) -> float:
    return next(gain for begin, gain in GAIN[table] if re.match(begin, key))


def _raise(table: str, key: str, n: int) -> np.ndarray:
    """Return what is added to a bias of n entries: 1 where it is a scale."""
    added = np.zeros(n)
    if table in RAISED and re.fullmatch(RAISED[table], key):
        if table == "gaacnn_context_m192":
            added[2::3] = 1  # weight, mean and scale of three components
        else:
            added[: n if key.startswith("cc_scale") else n // 2] = 1  # scales before means
    return added
