"""The authors' networks with weights that follow from the names of their tensors: same outputs after ``lic zoo``.

The numbers in tests/golden/outputs.json were computed by the authors' code, in float32 on a CPU and in evaluation mode.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lic_train.files.zoo.recognition import known_networks
from lic_train.files.zoo.take_over import take_over
from lic_train.models.base import Codec
from tests.conftest import SHARED
from tests.golden_fill import GOLDEN, filled, key_table

OUTPUTS = json.loads((GOLDEN / "outputs.json").read_text())
SPECIFIED = SHARED.parent / "specs" / "keys"
MODELS = [
    name
    for name in OUTPUTS
    if name.partition("_")[0] in {network.name.partition("_")[0] for network in known_networks()}
]
PLACES = {"(0, 0)": (0, 0), "(9, 6)": (9, 6), "(2, 1)": (2, 1), "(100, 200)": (100, 200)}


def test_all_golden_models_are_here_or_still_missing() -> None:
    assert {"cwam", "tinylic", "gaacnn"} <= set(MODELS)


@pytest.mark.parametrize("table", sorted(json.loads((GOLDEN / "keys.json").read_text())))
def test_names_are_those_of_the_key_tables(table: str) -> None:
    path = SPECIFIED / f"{table}.tsv"
    if not path.is_file():
        pytest.skip("the key tables are not next to the repository")
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    kept = [row for row in rows if row[3] == "0" or row[0].endswith((".running_mean", ".running_var"))]
    assert key_table(table) == {key: tuple(map(int, shape.split("x"))) for key, shape, *_ in kept}


@functools.cache
def picture() -> Tensor:
    return torch.from_numpy(np.random.RandomState(1).uniform(0, 1, (1, 3, 256, 256)).astype(np.float32))


def imported(name: str, folder: Path) -> Codec:
    """Import the files of a golden model, each checked against the sum of its bytes."""
    paths = []
    for table, expected in OUTPUTS[name]["crc32"].items():
        weights = filled(table)
        crc = functools.reduce(lambda crc, key: zlib.crc32(weights[key].numpy().data, crc), sorted(weights), 0)
        assert f"{crc:08x}" == expected
        counters = {
            key.replace("running_mean", "num_batches_tracked") for key in weights if key.endswith("running_mean")
        }
        paths.append(folder / f"{table}.pth.tar")
        torch.save({"state_dict": weights | dict.fromkeys(counters, torch.tensor(0))}, paths[-1])
    return take_over(paths)[0]


class Recorder:
    """Maps of one forward pass in eval mode, by the names of outputs.json."""

    def __init__(self, codec: Codec, x: Tensor) -> None:
        self.maps: dict[str, Tensor] = {}
        with self._recording(codec), torch.no_grad():
            out = codec(x)
            self.maps["x_hat"] = out["x_hat"]
            if hasattr(codec.context, "context_prediction") and hasattr(codec.context, "gaussian_conditional"):
                self.maps["context of y_hat"] = codec.context.context_prediction(self.maps["y_hat"])
        self.likelihoods, self.x = out["likelihoods"], x

    @contextmanager
    def _recording(self, codec: Codec) -> Iterator[None]:
        outputs = {"z": codec.h_a, "psi": getattr(codec, "p_net", codec.h_s)}
        outputs |= {f"{kind} map": getattr(codec.h_s, kind) for kind in ("scale", "mean") if hasattr(codec.h_s, kind)}
        handles = [codec.h_a.register_forward_pre_hook(lambda _, inputs: self._keep("y", inputs[0]))]
        handles += [codec.g_s.register_forward_pre_hook(lambda _, inputs: self._keep("y_hat", inputs[0]))]
        for name, module in outputs.items():
            handles.append(module.register_forward_hook(lambda _, __, value, name=name: self._keep(name, value)))
        gaussian: Any = getattr(codec.context, "gaussian_conditional", None)
        if gaussian is not None:
            likelihood = gaussian.likelihood
            gaussian.likelihood = lambda *values: (self._gaussian(*values), likelihood(*values))[1]
        yield
        for handle in handles:
            handle.remove()
        if gaussian is not None:
            del gaussian.likelihood

    def _gaussian(self, values: Tensor, scales: Tensor, means: Tensor) -> None:
        self._keep("scales of y", scales)
        self._keep("means of y", means)

    def _keep(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self.maps[name] = value.detach().float()

    def values(self, quantity: str) -> list[float]:
        """Return the values of a quantity of outputs.json."""
        if quantity == "std of y, z":
            return [float(self.maps[name].std()) for name in ("y", "z")]
        if quantity.startswith("bits of "):
            return [-float(self.likelihoods[quantity[8]].double().log2().sum())]
        if quantity == "MSE":
            return [float((self.maps["x_hat"] - self.x).square().mean())]
        name, _, place = quantity.partition(" at ")
        row, column = PLACES[place]
        found = self.maps[name][0]
        channels = len(found)
        picked = [k * channels // 5 for k in range(5)] if name != "x_hat" else range(3)
        return found[list(picked), row, column].tolist()


def gaacnn_values(codec: Any, recorder: Recorder, quantity: str) -> list[float]:
    """Quantities that only GAACNN has. Its first 25 channels of y are zero everywhere in the sampled places."""
    if quantity.startswith("9 outputs"):
        channel, (row, column) = (0, (0, 0)) if "channel 0" in quantity else (96, (9, 6))
        with torch.no_grad():
            raw = codec.context.predict(recorder.maps["y_hat"], recorder.maps["psi"])
        return raw[channel, :, row, column].tolist()
    if quantity.startswith("y at"):
        row, column = PLACES[quantity.removeprefix("y at ")]
        y = recorder.maps["y"][0]
        return y[[k * len(y) // 5 + 25 for k in range(5)], row, column].tolist()
    return recorder.values(quantity)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_the_authors(name: str, tmp_path: Path) -> None:
    codec: Any = imported(name, tmp_path)
    read = Recorder.values
    if name == "gaacnn":
        with torch.no_grad():
            codec.entropy_bottleneck.quantiles[:, :, 1] = 0  # the authors round z around 0
    recorder = Recorder(codec, picture())
    apart = {}
    for quantity, (expected, tolerance) in OUTPUTS[name]["quantities"].items():
        if name == "gaacnn":
            if quantity in ("bits of y", "bits of z"):
                continue  # with the authors' floors; those of this package are further quantities
            got = gaacnn_values(codec, recorder, quantity)
        else:
            got = read(recorder, quantity)
        worst = np.abs(np.subtract(got, expected)) / tolerance
        if worst.max() > 1:
            apart[quantity] = (got, expected)
        print(f"{quantity}: {worst.max():.3f} of the tolerance")
    assert not apart
