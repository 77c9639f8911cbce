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

from lic_train.entropy import autoregressive, gaussian, passes
from lic_train.files.zoo.recognition import known_networks
from lic_train.files.zoo.take_over import take_over
from lic_train.models.base import Codec
from tests.conftest import SHARED
from tests.golden_fill import GOLDEN, filled, key_table

OUTPUTS = json.loads((GOLDEN / "outputs.json").read_text())
SPECIFIED = SHARED.parent / "specs" / "keys"
# The models that are here. Golden models of two sizes are named tcm_64 and tcm_128.
_HERE = {network.name for network in known_networks()}
MODELS = [name for name in OUTPUTS if name in _HERE or name.rpartition("_")[0] in _HERE]
PLACES = {"(0, 0)": (0, 0), "(9, 6)": (9, 6), "(2, 1)": (2, 1), "(100, 200)": (100, 200)}


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

    def __init__(self, codec: Any, x: Tensor) -> None:
        self.codec, self.x = codec, x
        self.maps: dict[str, Tensor] = {}
        with self._recording(), torch.no_grad():
            out = codec(x)
        self.maps["x_hat"], self.likelihoods = out["x_hat"], out["likelihoods"]

    @contextmanager
    def _recording(self) -> Iterator[None]:
        codec = self.codec
        outputs = {"z": codec.h_a, "psi": getattr(codec, "p_net", codec.h_s)}
        outputs |= {f"{kind} map": getattr(codec.h_s, kind) for kind in ("scale", "mean") if hasattr(codec.h_s, kind)}
        handles = [
            module.register_forward_pre_hook(lambda _, inputs, name=name: self._keep(name, inputs[0]))
            for name, module in {"y": codec.h_a, "y_hat": codec.g_s}.items()
        ]
        handles += [
            module.register_forward_hook(lambda _, __, output, name=name: self._keep(name, output))
            for name, module in outputs.items()
        ]
        gaussian = getattr(codec.context, "gaussian_conditional", None)
        with pytest.MonkeyPatch.context() as patch:
            if gaussian is not None:
                patch.setattr(gaussian, "likelihood", functools.partial(self._likelihood, gaussian.likelihood))
            yield
        for handle in handles:
            handle.remove()

    def _likelihood(self, likelihood: Any, values: Tensor, scales: Tensor, means: Tensor) -> Tensor:
        self._keep("scales of y", scales)
        self._keep("means of y", means)
        return likelihood(values, scales, means)

    def _keep(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self.maps[name] = value.detach().float()

    def values(self, quantity: str) -> list[float]:
        """Return the values of a quantity of outputs.json."""
        if quantity == "std of y, z":
            return [float(self.maps[name].std()) for name in ("y", "z")]
        if quantity.startswith("bits of "):
            return [bits(self.likelihoods[quantity[8]])]
        if quantity == "MSE":
            return [float((self.maps["x_hat"] - self.x).square().mean())]
        name, _, place = quantity.partition(" at ")
        if name == "context of y_hat":
            with torch.no_grad():
                return sampled(self.codec.context.context_prediction(self.maps["y_hat"]), place)
        return sampled(self.maps[name], place)


class GaacnnRecorder(Recorder):
    """Adds the context network of GAACNN, whose y is zero in the usual channels."""

    def values(self, quantity: str) -> list[float]:
        """Return the values of a quantity of outputs.json."""
        if quantity.startswith("y at "):
            return sampled(self.maps["y"], quantity.removeprefix("y at "), first=25)
        if quantity.startswith("9 outputs"):
            channel, (row, column) = (0, PLACES["(0, 0)"]) if "channel 0" in quantity else (96, PLACES["(9, 6)"])
            with torch.no_grad():
                outputs = self.codec.context.predict(self.maps["y_hat"], self.maps["psi"])
            return outputs[channel, :, row, column].tolist()
        return super().values(quantity)


class LatentRecorder:
    """Latents of a codec without y and z: (posterior mean, prior scales, prior means) of each."""

    def __init__(self, codec: Any, x: Tensor) -> None:
        self.x = x
        self.latents: list[tuple[Tensor, Tensor, Tensor]] = []
        gaussian, posterior = codec.gaussian_conditional, []
        quantise, likelihood = gaussian.quantise, gaussian.likelihood

        def recorded_quantise(mean: Tensor, prior_means: Tensor) -> tuple[Tensor, Tensor]:
            posterior.append(mean)
            return quantise(mean, prior_means)

        def recorded_likelihood(z: Tensor, scales: Tensor, means: Tensor) -> Tensor:
            self.latents.append((posterior[-1], scales, means))
            return likelihood(z, scales, means)

        gaussian.quantise, gaussian.likelihood = recorded_quantise, recorded_likelihood
        with torch.no_grad():
            out = codec(x)
        del gaussian.quantise, gaussian.likelihood
        self.x_hat, self.likelihoods = out["x_hat"], out["likelihoods"]

    def values(self, quantity: str) -> list[float]:
        """Return the values of a quantity of outputs.json."""
        if quantity == "bits of latents 0 to 11":
            return [bits(likelihood) for likelihood in self.likelihoods.values()]
        if quantity.startswith("std of"):
            return [float(self.latents[number][0].std()) for number in (0, 1, 3, 6, 9, 11)]
        if quantity.startswith("MSE"):
            return [float((self.x_hat.clamp(0, 1) - self.x).square().mean())]
        name, _, place = quantity.partition(" at ")
        if name.startswith("x_hat"):
            return sampled(self.x_hat, place)
        kind, number = name.split(" of latent ")
        kinds = ("posterior mean", "prior scale", "prior mean")
        return sampled(self.latents[int(number)][kinds.index(kind)], place)


def bits(likelihoods: Tensor) -> float:
    return -float(likelihoods.double().log2().sum())


def sampled(values: Tensor, place: str, first: int = 0) -> list[float]:
    """Return all three channels of a picture, or five channels of a map, at one place."""
    row, column = PLACES[place]
    channels = len(values[0])
    picked = [k * channels // 5 + first for k in range(5)] if channels > 3 else [0, 1, 2]
    return values[0][picked, row, column].tolist()


RECORDERS = {"gaacnn": GaacnnRecorder, "qres_vae": LatentRecorder}
# With floors of the scale and of the likelihood that are not those of this package; with its floors are two others.
NOT_COMPARED = {("gaacnn", "bits of y"), ("gaacnn", "bits of z")}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_the_authors(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apart from the grid of the means, which the authors' networks do not have."""
    for module in (autoregressive, gaussian, passes):
        monkeypatch.setattr(module, "on_grid", lambda means: means)
    codec: Any = imported(name, tmp_path)
    if name == "gaacnn":
        with torch.no_grad():
            codec.entropy_bottleneck.quantiles[:, :, 1] = 0  # the authors round z around 0
    recorder = RECORDERS.get(name, Recorder)(codec, picture())
    quantities = {key: value for key, value in OUTPUTS[name]["quantities"].items() if (name, key) not in NOT_COMPARED}
    errors = {
        quantity: (np.abs(np.subtract(recorder.values(quantity), expected)) / tolerance).max()
        for quantity, (expected, tolerance) in quantities.items()
    }
    assert {quantity: error for quantity, error in errors.items() if not error <= 1} == {}
