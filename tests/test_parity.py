"""train.py and CompressAI's documented loop: equal weights, batches and noise give equal losses."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.train_step import LAMBDA, DocumentedLoop
from lic_train import train
from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.data.stream.on_device import to_floats
from lic_train.training import setup
from lic_train.training.module import noise_seed
from tests.small_runs import make_photographs

STEPS, WIDTH = 20, (12, 16)


@pytest.fixture
def photographs(tmp_path) -> Path:
    return make_photographs(tmp_path / "photographs", 6)


def test_first_twenty_losses_agree(tmp_path, photographs):
    command = [
        "model=mbt2018_mean", f"model.N={WIDTH[0]}", f"model.M={WIDTH[1]}", f"lambda={LAMBDA}", "recipe=common",
        "data=folder", f"data.root={photographs}", "data.source.val_ratio=0.2", "data.num_workers=0",
        "data.source.cache=null",
        # More than the compared 20, which are therefore all in the first stage.
        f"steps={2 * STEPS}", "batch_size=2", "crop=64", "precision=32", "channels_last=false", "logger=csv",
        "validate.bitstreams=0", "trainer.log_every=1", "trainer.accelerator=cpu", "eval.limit=1",
        f"output={tmp_path / 'run'}",
    ]  # fmt: skip
    config = checked(compose(command))
    start = {key: value.clone() for key, value in setup.make_model(config).state_dict().items()}
    assert train.train(config) == 0
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    ours = [float(row["train/loss"]) for row in rows][:STEPS]

    loop, documented = DocumentedLoop(start, WIDTH), []
    for step, batch in zip(range(STEPS), setup.make_data(config).stream(), strict=False):
        torch.manual_seed(noise_seed(config.seed, step))
        documented.append(loop.step(to_floats(batch["x"], batch["flip"])))
    np.testing.assert_allclose(ours, documented, rtol=1e-4)
    assert documented[-1] != pytest.approx(documented[0], rel=0.01)
