"""Time and peak memory of forward pass, encoding and decoding, each measured in a new process."""

from __future__ import annotations

import re
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from lic_train.errors import LicError
from lic_train.files.bitstream import decode, encode, estimate
from lic_train.files.container import FINGERPRINT_BYTES
from lic_train.models.base import Codec, build
from lic_train.system.processes import Workers

PHASES = ("forward", "encode", "decode")
SECONDS = 12.0  # approximate limit of the runs of one phase
MOST_RUNS = 9

DEFINITIONS = {
    "time": f"median of runs, after one run that is not counted; as many runs as fit into {SECONDS:g} seconds, at most "
    f"{MOST_RUNS}. If a second run does not fit, the time is that of the first one, and runs is 0",
    "forward": "image in memory to likelihoods and reconstruction, eval mode; serial contexts run as in coding",
    "encode": "image in memory to the bytes of a .lic file; padding included",
    "decode": "bytes to image on the device",
    "peak_bytes": "growth of the peak memory after the model is built, maximum over the three phases, each in a new "
    "process: on the CPU the peak resident set, on CUDA torch.cuda.max_memory_allocated",
    "weights": "initial weights, seed 0, float32; the entropy coder needs another time for a trained model's symbols",
}


class MeasurementError(LicError):
    """A phase could not be measured, for example because the memory was exhausted."""


@dataclass(frozen=True)
class Phase:
    """Time and memory of one phase.

    Attributes:
        milliseconds: median of ``runs`` after a warm-up; the time of the warm-up if ``runs`` is 0.
        runs: number of timed runs.
        peak_bytes: growth of the process's peak memory.
    """

    milliseconds: float
    runs: int
    peak_bytes: int


def measure(config: dict[str, Any], height: int, width: int, device: str) -> dict[str, Phase]:
    """Measure every phase for an image of ``height`` x ``width`` pixels, with a progress bar.

    Args:
        config: configuration of the model, see `lic_train.models.base.build`.
        height: pixels.
        width: pixels.
        device: "cpu" or a CUDA device of this machine.

    Raises:
        MeasurementError: the measuring process ended early, or the memory was exhausted.
        BitstreamError: the untrained model cannot code the image.
    """
    found: dict[str, Phase] = {}
    data = b""
    for name in _with_progress(PHASES):
        found[name], data = _in_fresh_process(name, config, height, width, device, data)
    return found


def _in_fresh_process(name: str, *arguments: Any) -> tuple[Phase, bytes]:
    try:
        with Workers(1, "spawn", MeasurementError("The measuring process ended early.")) as workers:
            return workers.result(workers.submit(measure_phase, name, *arguments))
    except (RuntimeError, MemoryError, MeasurementError) as error:
        raise MeasurementError(
            f"The phase {name} cannot be measured.",
            expected="a process that runs to the end",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            to_do="if the memory is too small, use a smaller size=..., another device=..., or time=false",
        ) from error


def measure_phase(
    name: str, config: dict[str, Any], height: int, width: int, device: str, data: bytes
) -> tuple[Phase, bytes]:
    """Measure one phase in this process, which must be new.

    Returns:
        the measurement, and the encoded bytes if the phase is "encode", else b"".
    """
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
    """Return a fixed image (3, H, W) in [0, 1] with smooth colours and some noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 9, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear")[0]
    return 0.9 * smooth + 0.1 * torch.rand(3, height, width, generator=generator)


def repeat(action: Callable[[], Any], budget: float = SECONDS, most: int = MOST_RUNS) -> tuple[list[float], Any]:
    """Run ``action`` once, then up to ``most`` times while the next run is expected to end within ``budget`` seconds.

    Returns:
        the seconds of every run, the first one being the warm-up, and the value of the last run.
    """
    seconds: list[float] = []
    while not seconds or (len(seconds) <= most and sum(seconds) + seconds[-1] <= budget):
        result = None  # otherwise the memory of two results would be measured
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
    """Run ``action`` and wait until a GPU has finished the work."""
    result = action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result


def peak_memory(device: torch.device) -> int:
    """Return bytes: on CUDA the maximum allocated since the last reset, on the CPU this process's peak resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # macOS, where ru_maxrss is in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not ru_maxrss: on Linux a child process inherits the value of its parent.
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
        progress.advance(task, 0)  # starts the clock, so that the first phase already yields an estimate
        for phase in phases:
            progress.update(task, description=phase)
            yield phase
            progress.advance(task)
