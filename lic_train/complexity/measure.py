"""Milliseconds and peak memory of forward, encode and decode, each in a fresh process of its own."""

from __future__ import annotations

import re
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from lic_train.errors import LicError
from lic_train.files.bitstream import FINGERPRINT_BYTES, decode, encode, estimate
from lic_train.models.base import Codec, build

PHASES = ("forward", "encode", "decode")
SECONDS = 12.0  # about what the runs of one phase may take
MOST_RUNS = 9

DEFINITIONS = {
    "time": f"median of runs, after one run that is not counted; as many runs as fit into {SECONDS:g} seconds, at most "
    f"{MOST_RUNS}. Where a second run would not fit, the first one is the time, and runs is 0",
    "forward": "picture in memory to likelihoods and reconstruction, eval mode; serial contexts walk as in coding",
    "encode": "picture in memory to the bytes of a .lic file; padding included",
    "decode": "bytes to picture on the device",
    "peak_bytes": "growth of the peak memory from the built model on, the largest of the three phases, each in a fresh "
    "process: on the CPU of the peak resident set, on CUDA of torch.cuda.max_memory_allocated",
    "weights": "those of initialisation, seed 0, float32: a trained model's symbols take the coder another time",
}


class MeasurementError(LicError):
    """A phase could not be measured, for example because the memory did not suffice."""


@dataclass(frozen=True)
class Phase:
    """What one phase took.

    Attributes:
        milliseconds: median of ``runs`` after a warm-up; of the warm-up itself where ``runs`` is 0.
        runs: how many were counted.
        peak_bytes: growth of the process's peak memory.
    """

    milliseconds: float
    runs: int
    peak_bytes: int


def measure(config: dict[str, Any], height: int, width: int, device: str) -> dict[str, Phase]:
    """Measure every phase for a picture of ``height`` x ``width`` pixels; the screen shows which one is running.

    Args:
        config: as `lic_train.models.base.build` takes it.
        height: pixels.
        width: pixels.
        device: "cpu" or a CUDA device of this machine.

    Raises:
        MeasurementError: the process that measured ended early, or ran out of memory.
        BitstreamError: the untrained model cannot code.
    """
    found: dict[str, Phase] = {}
    data = b""
    for name in _with_progress(PHASES):
        found[name], data = _in_fresh_process(name, config, height, width, device, data)
    return found


def _in_fresh_process(name: str, *arguments: Any) -> tuple[Phase, bytes]:
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(measure_phase, name, *arguments).result()
    except (RuntimeError, MemoryError) as error:
        raise MeasurementError(
            f"cannot measure {name}: {str(error).splitlines()[0]}. If the memory did not suffice, take a smaller "
            "size=..., another device=..., or time=false"
        ) from error


def measure_phase(
    name: str, config: dict[str, Any], height: int, width: int, device: str, data: bytes
) -> tuple[Phase, bytes]:
    """Measure one phase in this process, which has done nothing before; returns what it took and any bytes it coded."""
    torch.manual_seed(0)
    where = torch.device(device)
    codec = build(config).eval()
    codec.update()
    action = _action(name, codec.to(where), picture(height, width).to(where), data)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    before = peak_memory(where)
    seconds, result = repeat(lambda: _finished(action, where))
    counted = seconds[1:]
    phase = Phase(1000 * statistics.median(counted or seconds), len(counted), peak_memory(where) - before)
    return phase, result if isinstance(result, bytes) else b""


def picture(height: int, width: int) -> Tensor:
    """A picture (3, H, W) in [0, 1] with smooth colours and some noise, always the same one."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 9, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear")[0]
    return 0.9 * smooth + 0.1 * torch.rand(3, height, width, generator=generator)


def repeat(action: Callable[[], Any], budget: float = SECONDS, most: int = MOST_RUNS) -> tuple[list[float], Any]:
    """Run ``action`` once, and again up to ``most`` times while the next is expected to end within ``budget`` seconds.

    Returns:
        the seconds of every run, the first being the warm-up, and what the last run returned.
    """
    seconds: list[float] = []
    while not seconds or (len(seconds) <= most and sum(seconds) + seconds[-1] <= budget):
        result = None  # two results at once would count as memory
        began = time.perf_counter()
        result = action()
        seconds.append(time.perf_counter() - began)
    return seconds, result


def _action(name: str, codec: Codec, x: Tensor, data: bytes) -> Callable[[], Any]:
    fingerprint = bytes(FINGERPRINT_BYTES)
    actions: dict[str, Callable[[], Any]] = {
        "forward": lambda: estimate(codec, x),
        "encode": lambda: encode(codec, x, fingerprint),
        "decode": lambda: decode(codec, data, fingerprint),
    }
    return actions[name]


def _finished(action: Callable[[], Any], device: torch.device) -> Any:
    """Run ``action`` and wait for what it has started on a GPU."""
    result = action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result


def peak_memory(device: torch.device) -> int:
    """Bytes: on CUDA the most that was allocated since the last reset, on the CPU this process's peak resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # macOS, which counts in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not ru_maxrss: on Linux a child inherits its parent's.
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


def _with_progress(phases: Iterable[str]) -> Iterator[str]:
    columns = (TextColumn("timing {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        speed_estimate_period=3600,  # seconds: a phase may take minutes
    ) as progress:
        task = progress.add_task("", total=len(PHASES))
        progress.advance(task, 0)  # so that the first phase already tells how long the others take
        for phase in phases:
            progress.update(task, description=phase)
            yield phase
            progress.advance(task)
