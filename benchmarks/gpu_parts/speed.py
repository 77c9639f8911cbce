"""Speed on the device: train.py against the documented loop, loading, and a real training for its Kodak point."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compressai.models
import lightning as L
import torch
from torch import nn

from benchmarks.gpu_parts.setting import Result, Setting
from benchmarks.train_step import DocumentedLoop, documented_batches
from lic_train.complexity.count import count_macs, on_meta
from lic_train.config.run import RunConfig
from lic_train.evaluate.bench import Settings
from lic_train.evaluate.run import evaluate_run
from lic_train.models.base import build
from lic_train.runs.claim import ResumeState
from lic_train.training import setup

MODELS = ("mbt2018_mean", "mbt2018", "cwam", "iblic", "gaacnn", "elic2022")
# The documented loop trains CompressAI's network where it has the model, otherwise that of this package.
COMPRESSAI = {
    "mbt2018_mean": compressai.models.MeanScaleHyperprior,
    "mbt2018": compressai.models.JointAutoregressiveHierarchicalPriors,
}


class Clock(L.Callback):
    """Measures the steps after the warm-up: wall time, processor time of the main thread, and waiting for batches."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.began = self.seconds = 0.0
        self.host: list[float] = []
        self.waiting: list[float] = []
        self._steps, self._mark, self._thread = 0, time.perf_counter(), time.thread_time()

    def on_train_batch_start(self, *_: object) -> None:
        self.waiting.append(time.perf_counter() - self._mark)

    def on_train_batch_end(self, *_: object) -> None:
        self.step_ended()

    def step_ended(self) -> None:
        self.host.append(time.thread_time() - self._thread)
        self._steps += 1
        if self._steps == self.setting.warm_up:
            self.began = self.setting.wait()
        if self._steps == self.setting.warm_up + self.setting.steps:
            self.seconds = self.setting.wait() - self.began
        self._mark, self._thread = time.perf_counter(), time.thread_time()

    def result(self) -> Result:
        """Return images per second, and medians per step in milliseconds."""
        found = {
            "images_per_second": self.setting.batch * self.setting.steps / self.seconds,
            "host_ms": 1000 * statistics.median(self.host[self.setting.warm_up :]),
        }
        if self.waiting:
            found["waiting_share"] = sum(self.waiting[self.setting.warm_up :]) / self.seconds
        if self.setting.device == "cuda":
            found["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return found


def train(config: RunConfig, *callbacks: L.Callback, validate: bool = False) -> None:
    """Train like train.py, without claiming the run directory."""
    data, run = setup.make_data(config), ResumeState(Path(config.output), "new")
    with setup.loggers(config, run) as loggers:
        trainer = setup.make_trainer(config, run, loggers, data)
        trainer.callbacks.extend(callbacks)
        if not validate:
            trainer.limit_val_batches = 0
        trainer.fit(setup.make_module(config, setup.make_model(config)), data)


def ours(setting: Setting, name: str, compiled: bool) -> Result:
    clock = Clock(setting)
    workers = 0 if setting.quick else 8
    folder = setting.folder / f"{name}_{'compiled' if compiled else 'eager'}"
    overrides = (f"compile={compiled}", f"data.num_workers={workers}")
    train(setting.run(name, setting.warm_up + setting.steps, folder, *overrides), clock)
    return clock.result()


def documented(setting: Setting, name: str) -> Result:
    """Measure the loop of CompressAI's example script, with 4 workers as there."""
    arguments = {key: setting.model(name)[key] for key in ("N", "M")} if name in COMPRESSAI else {}
    network: nn.Module = COMPRESSAI[name](**arguments) if name in COMPRESSAI else build(setting.model(name))
    loop, clock = DocumentedLoop(network=network.to(setting.device)), Clock(setting)
    workers = 0 if setting.quick else 4
    batches = documented_batches(setting.training_folder(), setting.batch, setting.crop, workers)
    for batch in itertools.islice(batches, setting.warm_up + setting.steps):
        loop.step(batch.to(setting.device))
        clock.step_ended()
    return clock.result()


def measure_training(setting: Setting, seconds: float) -> Result:
    """Measure all models eagerly, then the documented loop, then compiled, until the time is over."""
    end, peak = time.monotonic() + seconds, convolution_peak(setting)
    rows: dict[str, dict[str, Any]] = {name: {} for name in setting.some(MODELS)}
    ways: dict[str, Callable[[str], Result]] = {
        "ours": lambda name: ours(setting, name, compiled=False),
        "documented": lambda name: documented(setting, name),
    }
    if not setting.quick:  # the compiler of a CPU takes minutes
        ways["compiled"] = lambda name: ours(setting, name, compiled=True)
    longest = 0.0
    for (way, measure), name in itertools.product(ways.items(), rows):
        began = time.monotonic()
        if began + longest > end:
            rows[name][way] = {"skipped": "no time left"}
            continue
        rows[name][way] = attempt(setting, measure, name)
        longest = max(longest, time.monotonic() - began)
    for name, row in rows.items():
        macs = count_macs(on_meta(setting.model(name)), setting.crop, setting.crop)["total"]
        for found in row.values():
            if "images_per_second" in found:
                found["tflops"] = 6 * macs * found["images_per_second"] / 1e12  # backward: twice the forward
                found["share_of_peak"] = found["tflops"] / peak
    errors = [
        f"{name}, {way}: {found['error']}"
        for name, row in rows.items()
        for way, found in row.items()
        if "error" in found
    ]
    return {"rows": rows, "peak_tflops": peak, "failed": errors}


def attempt(setting: Setting, measure: Callable[[str], Result], name: str) -> Result:
    """Return the result, or the error: the other models are measured all the same."""
    if setting.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        return measure(name)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def convolution_peak(setting: Setting) -> float:
    """Return the TFLOP/s of a bf16 convolution: 3x3, 256 channels, 64x64 positions, batch 32, channels_last."""
    channels, side, batch = (16, 16, 2) if setting.quick else (256, 64, 32)
    dtype = torch.bfloat16
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(setting.device, dtype)
    x = torch.randn(batch, channels, side, side, device=setting.device, dtype=dtype)
    x, conv = x.to(memory_format=torch.channels_last), conv.to(memory_format=torch.channels_last)
    repeats, times = 20, []
    with torch.no_grad():
        for _ in range(3):
            began = setting.wait()
            for _ in range(repeats):
                conv(x)
            times.append(setting.wait() - began)
    return 2 * 9 * channels**2 * side**2 * batch * repeats / min(times) / 1e12


def measure_loading(setting: Setting, seconds: float) -> Result:
    """Measure the crops per second of 8 workers (2 if quick), without a training."""
    workers, batches = (2, 4) if setting.quick else (8, 60)
    config = setting.run("mbt2018_mean", 1000, setting.folder / "loading", f"data.num_workers={workers}")
    end, loader = time.monotonic() + seconds, setup.make_data(config).stream()
    iterator, count = iter(loader), 0
    try:
        next(iterator)
        began = time.perf_counter()
        while count < batches and time.monotonic() < end:
            next(iterator)
            count += 1
        return {"workers": workers, "crops_per_second": count * setting.batch / (time.perf_counter() - began)}
    finally:
        loader.close()


def train_for_kodak(setting: Setting, seconds: float, images_per_second: float | None) -> Result:
    """Train mbt2018_mean at lambda 0.0130 for the time that is left; return its rate and PSNR on Kodak.

    Raises:
        ValueError: the speed of the training is not known.
    """
    if images_per_second is None:
        raise ValueError("the speed of mbt2018_mean was not measured")
    steps = 4 if setting.quick else max(int(0.8 * seconds * images_per_second / setting.batch), 1)
    folder = setting.folder / "kodak"
    workers = 0 if setting.quick else 8
    overrides = ("lambda=0.013", f"data.num_workers={workers}", "validate.crops=16")
    train(setting.run("mbt2018_mean", steps, folder, *overrides), validate=True)
    images = [(f"{number}", image) for number, image in enumerate(setting.pictures(), start=1)]
    result = evaluate_run(folder, images, "kodak", device=setting.device, settings=Settings(panels=0))
    return {"steps": steps, "pictures": len(images), "mean": result["mean"]}
