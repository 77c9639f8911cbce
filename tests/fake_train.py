"""Fake training process for tests of launchers: same arguments, files, signals and exit codes as lic_train.train.

The seed selects the behaviour:
    0: train.
    1: fail.
    2: wait for a signal, then save and exit as lic_train.train does.
    3: wait until a second run of the sweep has started.
    4: as 2 on the first start, as 0 on the second.
    5: fail if the batch size is 16, like a run that exceeds the GPU memory.
A run with an lr_scale has a validation loss, which is lower the closer lr_scale is to 1. Events are appended to
calls.txt next to the run directory, one JSON object per line.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import FrameType

LIMIT_SECONDS = 120
EXIT_CODES = {signal.SIGTERM: 130, signal.SIGINT: 130, signal.SIGUSR1: 75}


def main() -> int:
    given = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    run = Path(resolved(given["output"], given))
    calls, again = run.parent / "calls.txt", (run / "metrics.csv").exists()
    run.mkdir(parents=True, exist_ok=True)
    received: list[int] = []

    def note(what: str, **more: object) -> None:
        line = json.dumps({"what": what, "run": run.name, "overrides": sys.argv[1:], **more}) + "\n"
        with calls.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(line)

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)

    for number in EXIT_CODES:
        signal.signal(number, stop)
    parent = given.get("init_from")
    finished = parent is None or (Path(parent) / "finished.json").exists()
    note("started", pid=os.getpid(), gpus=os.environ.get("CUDA_VISIBLE_DEVICES"), parent_finished=finished)
    (run / "metrics.csv").write_text("step,train/cpu_hours\n5,0.25\n")
    print(f"training {run}", flush=True)
    seed = int(given.get("seed", 0))
    if seed == 1 or (seed == 5 and given["batch_size"] == "16"):
        print("error: failed on request", file=sys.stderr, flush=True)
        return 2
    end = time.monotonic() + LIMIT_SECONDS
    waits = seed == 2 or (seed == 4 and not again)
    while time.monotonic() < end and not received and (waits or (seed == 3 and len(started_runs(calls)) < 2)):
        time.sleep(0.02)
    if received:
        note("saved", signal=signal.Signals(received[0]).name)
        return EXIT_CODES[signal.Signals(received[0])]
    (run / "metrics.csv").write_text("step,train/cpu_hours\n10,0.5\n")
    results = {"bpp_file": 0.5, "psnr": 30.0, "equal": True, "eval": "heldout"}
    (run / "finished.json").write_text(json.dumps({"step": 10, "results": results}))
    if "lr_scale" in given:
        write_loss(run / "checkpoints" / "best.safetensors", abs(math.log(float(given["lr_scale"]))))
    note("ended")
    return 0


def resolved(text: str, given: dict[str, str]) -> str:
    """Return ``text`` with ${key} replaced by the value of that override; Optuna's overrides are escaped."""
    text = text.replace("\\", "")
    while match := re.search(r"\$\{([\w.]+)\}", text):
        text = text.replace(match[0], given[match[1]])
    return text


def write_loss(path: Path, loss: float) -> None:
    """Write a model without weights in the format of `lic_train.files.checkpoint`."""
    record = {"format": 1, "config": {}, "fingerprint": "00" * 8, "extra": {"val_loss": loss}}
    header = json.dumps({"__metadata__": {"lic_train": json.dumps(record)}}).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def started_runs(calls: Path) -> set[str]:
    """Return the names of the runs with seed 3 that have started."""
    events = [json.loads(line) for line in calls.read_text().splitlines()]
    return {event["run"] for event in events if event["what"] == "started" and "seed=3" in event["overrides"]}


if __name__ == "__main__":
    sys.exit(main())
