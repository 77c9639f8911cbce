"""Shared fixtures: the models at small widths, and the photographs next to the repository, if present."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

# Before any import of wandb: tests do not use the network.
os.environ["WANDB_MODE"] = "offline"

from lic_train.config.compose import compose
from lic_train.models.base import Codec, build

# A shell starts background jobs with SIGINT ignored, nohup those with SIGHUP ignored, and their children inherit it.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"

# Widths for which one forward and backward pass takes well under a second.
SMALL: dict[str, dict[str, object]] = {
    "bmshj2018_factorized": {"N": 8, "M": 12},
    "bmshj2018_hyperprior": {"N": 8, "M": 12},
    "mbt2018_mean": {"N": 8, "M": 12},
    "mbt2018": {"N": 8, "M": 12},
    "cheng2020_anchor": {"N": 8},
    "cheng2020_attn": {"N": 8},
    "elic2022": {"N": 8, "M": 16, "groups": [4, 4, 8]},
    "cwam": {"N": 16},
    "tinylic": {"N": 32, "M": 80},
    "iblic": {"N": 32, "M": 80},
    "iblic_tiny": {"N": 32, "M": 80},
    "stf": {"N": 16, "Z": 16, "slices": 4, "support": 2, "widths": [16]},
    "wacnn": {"N": 16, "M": 32, "slices": 4, "support": 2, "widths": [16]},
    "stfpp": {"N": 16, "C": 4, "Z": 16, "slices": 4, "support": 2, "widths": [16]},
    "gaacnn": {"M": 8, "N": 6, "widths": [6, 8]},
    "invcompress": {"N": 16, "kernels": [3, 3], "enhancement_width": 8},
    "qres_vae": {"N": 8, "depths": [1, 1, 1, 1, 1], "latents": [1, 1, 1, 1, 1]},
    "gcab_gmm": {"N": 16, "M": 12, "ratio": 4, "head_widths": [24, 20]},
    "demo": {"A": 8, "N": 20, "M": 12, "Z": 12, "F": 4, "C": 8},
    "tcm": {"N": 32, "M": 40, "Z": 16, "attention": 16, "widths": [24, 16]},
    "dcae": {"stages": [8, 16, 32], "depths": [1, 2, 2], "M": 80, "Z": 32, "entries": 8, "widths": [24, 16]},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest test first, so that no process is left with it alone at the end."""
    items.sort(key=lambda item: "test_tutorial_runs" not in item.nodeid)


def small_config(name: str) -> dict[str, object]:
    """Return the model's shipped configuration at its small widths."""
    return {**shipped_config(name), **SMALL[name]}


@functools.cache  # composing takes longer than most tests
def shipped_config(name: str) -> dict[str, object]:
    return OmegaConf.to_container(compose([f"model={name}"]).model, resolve=True)  # type: ignore[return-value]


def make_small_codec(name: str, seed: int = 0) -> Codec:
    """Return a model with small random weights and varied latents."""
    return with_varied_latents(small_config(name), seed)


def with_varied_latents(config: dict[str, object], seed: int = 0) -> Codec:
    """Build a model with random weights, scaled so that its latents vary."""
    torch.manual_seed(seed)
    model = build(config)
    with torch.no_grad():
        for weight in model.g_a.parameters():
            if weight.ndim == 4:
                weight.mul_(2)
        for key, weight in model.named_parameters():
            # Before training the latents of a hierarchical model are almost 0, and their priors constant.
            if weight.ndim == 4 and (".posterior." in key or ".prior." in key):
                torch.nn.init.xavier_uniform_(weight, gain=1.7)
    return model


def make_varied_codec(name: str, widths: dict[str, object] | None = None) -> Codec:
    """Return a model ready to code, whose symbols, scales and means vary.

    Args:
        name: of the model.
        widths: arguments that replace those of its configuration; None for the small ones.
    """
    model = with_varied_latents({**shipped_config(name), **(SMALL[name] if widths is None else widths)}).eval()
    with torch.no_grad():
        for part in ("g_a", "h_a"):
            if hasattr(model, part):
                last = [p for p in getattr(model, part).parameters() if p.ndim == 4][-1]
                last.mul_(8)
    model.update()
    return model


@pytest.fixture
def small_codec():
    """Return the function `make_small_codec`."""
    return make_small_codec


@pytest.fixture
def seeded_on_one_thread() -> Iterator[None]:
    """Set seed 0 and one thread, which is faster than two for small networks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def kodak() -> Path:
    """Return the folder of the Kodak photographs; skip if it is missing."""
    folder = SHARED / "kodak"
    if not folder.is_dir():
        pytest.skip("the Kodak photographs are not next to the repository")
    return folder


@pytest.fixture(scope="session")
def spec():
    """Return a function from a network's name to its specification; skip if the specifications are missing."""

    def read(name: str) -> str:
        path = SHARED.parent / "specs" / f"{name}.md"
        if not path.is_file():
            pytest.skip("the specifications are not next to the repository")
        return path.read_text(encoding="utf-8")

    return read
