"""Loss curves of the first 20 steps of every model at its small width, which a refactoring must reproduce.

``python -m tests.test_golden_losses`` records tests/golden/losses.json again after an intended change of the losses.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lic_train.config.compose import compose
from lic_train.config.run import RunConfig, checked
from lic_train.training import setup
from tests.conftest import SMALL, small_config
from tests.small_runs import column, make_photographs, without_drawing

CURVES = Path(__file__).parent / "golden" / "losses.json"
# Kernels of other processors change the last digit of a float32, and 20 steps of Adam amplify it.
TOLERANCE = 1e-3
# Without the warm-up of a longer run, 20 steps at the full rate of this recipe amplify it beyond the tolerance.
LR_SCALE = {"demo": 0.1}


def loss_curve(name: str, folder: Path) -> list[float]:
    """Return train/loss of every step of the model's own recipe, scaled to 20 steps with all its stages."""
    photographs = make_photographs(folder / "photographs", 6)
    config = compose([
        f"model={name}", "lambda=0.0067", "data=folder", f"data.root={photographs}", "data.num_workers=0",
        "data.source.val_ratio=0.2", "data.source.cache=null", "data.flip=true", "steps=20", "batch_size=2", "crop=64",
        "precision=32", "logger=csv", "validate.crops=1", "validate.bitstreams=0", "trainer.accelerator=cpu",
        "trainer.log_every=1", "data.downscale=null", f"lr_scale={LR_SCALE.get(name, 1)}", f"output={folder / 'run'}",
    ])  # fmt: skip
    config.model = small_config(name)
    train_only(checked(config))
    return column(folder / "run", "train/loss")


def train_only(config: RunConfig) -> None:
    """Run train.py without the evaluation at the end."""
    data = setup.make_data(config)
    with setup.claim_directory(config, data) as run, setup.loggers(config, run) as loggers:
        model = setup.make_model(config)
        trainer = setup.make_trainer(config, run, loggers, data)
        trainer.fit(setup.make_module(config, model), data)


@pytest.mark.parametrize("name", SMALL)
def test_first_twenty_losses_equal_the_recorded_ones(name, tmp_path, seeded_on_one_thread):
    recorded = json.loads(CURVES.read_text())[name]
    assert len(recorded) == 20
    np.testing.assert_allclose(loss_curve(name, tmp_path), recorded, rtol=TOLERANCE)


def record() -> None:
    """Write the curves of all models."""
    torch.set_num_threads(1)
    without_drawing()
    curves = {}
    for name in SMALL:
        with tempfile.TemporaryDirectory() as folder:
            curves[name] = loss_curve(name, Path(folder))
    lines = [f'  "{name}": {json.dumps(curve)}' for name, curve in curves.items()]
    CURVES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    record()
