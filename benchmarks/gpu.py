"""Everything that needs a GPU in one command of a fixed length: correctness, speed, and one real training.

    python benchmarks/gpu.py [--minutes 8] [--json gpu.json]
    python benchmarks/gpu.py --device cpu --quick

Parts, each with a share of the time; the file is written after every part, and a part that fails does not stop the next
ones. The exit code is 1 if a check of correctness fails or anything ends with an error.

1. losses: three steps of every model in fp32 and bf16 against the CPU, with the same noise.
2. files: Kodak pictures coded on the device and decoded on the CPU, and the reverse, with random weights.
3. training: train.py against CompressAI's documented loop: images/s, memory, host time, share of the convolution peak.
4. loading: crops per second of 8 workers.
5. kodak: mbt2018_mean at lambda 0.0130, trained in the time that is left and evaluated on Kodak.

Missing folders are replaced by generated pictures. ``--quick`` uses tiny networks of three models and does not compile.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_parts.correctness import check_files, check_losses
from benchmarks.gpu_parts.setting import Result, Setting, shared
from benchmarks.gpu_parts.speed import measure_loading, measure_training, train_for_kodak
from lic_train.system import atomic

# Parts in order, and their shares of the time; a part that ends early leaves its rest to the later ones.
SHARES = {"losses": 0.2, "files": 0.1, "training": 0.4, "loading": 0.05, "kodak": 0.25}
COLUMNS = {"images_per_second": "{:.1f}", "host_ms": "{:.2f}", "waiting_share": "{:.0%}", "memory_gib": "{:.1f}"}


def run_parts(parts: dict[str, Callable[[float, Result], Result]], minutes: float, path: Path, result: Result) -> None:
    """Run every part with its share of the time that is left, and write the results after each."""
    console, end = Console(), time.monotonic() + 60 * minutes
    for number, (name, part) in enumerate(parts.items()):
        left = end - time.monotonic()
        seconds = max(left, 0) * SHARES[name] / sum(SHARES[later] for later in list(parts)[number:])
        console.print(f"{number + 1}/{len(parts)} {name}: up to {seconds:.0f} s of the {left:.0f} s that are left")
        began = time.monotonic()
        try:
            found = part(seconds, result)
        except Exception:
            found = {"error": traceback.format_exc()}
        result[name] = {**found, "seconds": time.monotonic() - began}
        atomic.replace_text(path, json.dumps(result, indent=1) + "\n")
        for problem in [*found.get("failed", []), *([found["error"]] if "error" in found else [])]:
            console.print(problem, style="red", markup=False)


def speed_of(result: Result) -> float | None:
    """Return the images per second of the eager training of mbt2018_mean, if it was measured."""
    return result.get("training", {}).get("rows", {}).get("mbt2018_mean", {}).get("ours", {}).get("images_per_second")


def speed_table(rows: dict[str, dict[str, Result]]) -> Table:
    """Return the table of all models and ways of training, with the ratio to the documented loop."""
    table = Table("model", "path", "images/s", "host ms", "waiting", "GiB", "share of peak", "ratio")
    for name, row in rows.items():
        base = row.get("documented", {}).get("images_per_second")
        for way, found in row.items():
            speed = found.get("images_per_second")
            if speed is None:
                table.add_row(name, way, found.get("skipped", "error"))
                continue
            cells = [form.format(found[key]) if key in found else "" for key, form in COLUMNS.items()]
            ratio = f"{speed / base:.2f}" if base else ""
            table.add_row(name, way, *cells, f"{found['share_of_peak']:.1%}", ratio)
    return table


def show(result: Result) -> None:
    """Print the table and one line for each other part."""
    console = Console()
    if "rows" in result["training"]:
        console.print(speed_table(result["training"]["rows"]))
        console.print(f"convolution peak: {result['training']['peak_tflops']:.3g} TFLOP/s in bf16")
    for name in ("losses", "files"):
        rows = result[name].get("rows", {})
        skipped = sum("skipped" in row for row in rows.values())
        failed = len(result[name].get("failed", []))
        console.print(f"{name}: {len(rows) - skipped} models checked, {skipped} skipped, {failed} problems")
    if "crops_per_second" in result["loading"]:
        console.print("loading: {crops_per_second:.0f} crops/s with {workers} workers".format(**result["loading"]))
    if "mean" in result["kodak"]:
        mean = result["kodak"]["mean"]
        console.print(
            f"kodak: {mean['bpp_file']:.4f} bpp, {mean['psnr']:.3f} dB after {result['kodak']['steps']} steps"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks, to test the benchmark itself")
    parser.add_argument("--photographs", type=Path, default=shared("imagenet_sample", "train"), metavar="FOLDER")
    parser.add_argument("--kodak", type=Path, default=shared("kodak"), metavar="FOLDER")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), metavar="FILE")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no GPU that PyTorch can use; --device cpu --quick tests the benchmark")
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{platform.machine()} CPU"
    result: Result = {"device": name, "torch": torch.__version__, "quick": arguments.quick}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        sets = [path if path and path.is_dir() else None for path in (arguments.photographs, arguments.kodak)]
        setting = Setting(arguments.device, arguments.quick, Path(folder), *sets)
        parts: dict[str, Callable[[float, Result], Result]] = {
            "losses": lambda seconds, _: check_losses(setting, seconds),
            "files": lambda seconds, _: check_files(setting, seconds),
            "training": lambda seconds, _: measure_training(setting, seconds),
            "loading": lambda seconds, _: measure_loading(setting, seconds),
            "kodak": lambda seconds, before: train_for_kodak(setting, seconds, speed_of(before)),
        }
        run_parts(parts, arguments.minutes, arguments.json, result)
    show(result)
    return int(any("error" in result[part] or result[part].get("failed") for part in parts))


if __name__ == "__main__":
    sys.exit(main())
