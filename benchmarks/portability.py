"""Table of (written by) x (read by): whether .lic files of every model decode under other kernels.

    python benchmarks/portability.py [--full] [--models mbt2018 cwam] [--python OTHER_VENV/bin/python] [--jobs 2]

Every setting of kernels, threads and memory format writes a file of every model in one process, and reads the files
of all settings in another. All use the same saved models: small random networks whose symbols vary, and with --full
also four networks of the shipped widths. A cell is exact if every decoded latent is that of the writer; the table also
shows the 8-bit pixel values that differ. The exit code is 1 if a cell is not exact.

``--python`` adds a setting that runs another interpreter, for example one with another release of PyTorch. It needs
the dependencies of this package, but not the package.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lic_train.entropy.bottleneck import EntropyBottleneck
from lic_train.entropy.gaussian import GaussianConditional
from lic_train.entropy.mixture import GaussianMixture
from lic_train.errors import LicError
from lic_train.files.bitstream import decode, encode
from lic_train.files.checkpoint import load_model, save_model
from lic_train.models.base import Codec

# Instruction sets by ATEN_CPU_CAPABILITY: ONEDNN_MAX_CPU_ISA and MKL_ENABLE_INSTRUCTIONS. Weakest first.
KERNELS = {"default": ("SSE41", "SSE4_2"), "avx2": ("AVX2", "AVX2"), "avx512": ("AVX512_CORE", "AVX512")}
FULL = ("mbt2018_mean", "elic2022", "tinylic", "wacnn")
# Methods that return decoded latents.
DENSITIES = ((EntropyBottleneck, "decompress"), (GaussianConditional, "decode"), (GaussianMixture, "decode"))
# Height and width; the latent of the large one has 24x28 positions, enough for all float64 kernels.
SMALL_PICTURE, FULL_PICTURE = (60, 50), (380, 390)

# By writer, then by model: "error" or None, and numbers of values: "latents", "pixels", and those that differ.
Findings = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Setting:
    """Kernels, threads and memory format of one process; no capability selects the best one of the processor."""

    name: str
    capability: str = ""
    threads: int = 1
    mkldnn: bool = True
    channels_last: bool = False
    python: str = sys.executable

    def environment(self) -> dict[str, str]:
        """Return the environment of a child process."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        if self.capability:
            onednn, mkl = KERNELS[self.capability]
            selected = {
                "ATEN_CPU_CAPABILITY": self.capability,
                "ONEDNN_MAX_CPU_ISA": onednn,
                "MKL_ENABLE_INSTRUCTIONS": mkl,
            }
            environment.update(selected)
        return environment


def settings(other_python: str | None) -> tuple[list[Setting], list[str]]:
    """Return the settings that this processor has, and the names of the instruction sets that it lacks."""
    best = list(KERNELS).index(torch.backends.cpu.get_cpu_capability().lower())
    found = [Setting(name, capability=name) for name in list(KERNELS)[: best + 1]]
    found += [
        Setting("no oneDNN", mkldnn=False),
        Setting("2 threads", threads=2),
        Setting("channels-last", channels_last=True),
    ]
    if other_python:
        found.append(Setting("other Python", python=other_python))
    return found, list(KERNELS)[best + 1 :]


# ---- child processes ----


def apply(setting: Setting) -> None:
    """Apply what environment variables do not select."""
    torch.set_num_threads(setting.threads)
    torch.backends.mkldnn.enabled = setting.mkldnn  # type: ignore[assignment]


def open_model(path: Path, setting: Setting) -> tuple[Codec, bytes]:
    """Load a model and return it with its fingerprint."""
    model, metadata = load_model(path)
    if setting.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model, metadata.fingerprint


def decoded(model: Codec, data: bytes, fingerprint: bytes) -> dict[str, Tensor]:
    """Decode a file and return its latents, one after another, and its 8-bit picture.

    A latent is what its density decodes, before networks correct it for g_s.
    """
    seen: list[Tensor] = []

    def kept(decode: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def method(*args: Any) -> Tensor:
            seen.append(decode(*args))
            return seen[-1]

        return method

    with ExitStack() as patches:
        for density, name in DENSITIES:
            patches.enter_context(mock.patch.object(density, name, kept(getattr(density, name))))
        picture = decode(model, data, fingerprint)
    latents = torch.cat([latent.double().flatten() for latent in seen])
    return {"latent": latents, "pixels": (picture * 255).round().to(torch.uint8).contiguous()}


@torch.no_grad()
def write(folder: Path, setting: Setting) -> None:
    """Write a file of every model, with its latent and its picture as they decode here."""
    target = folder / "written" / setting.name
    target.mkdir(parents=True)
    pictures = load_file(folder / "pictures.safetensors")
    for path in sorted((folder / "models").iterdir()):
        model, fingerprint = open_model(path, setting)
        data = encode(model, pictures[path.stem], fingerprint)
        content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        save_file({"file": content, **decoded(model, data, fingerprint)}, target / path.name)


@torch.no_grad()
def read(folder: Path, setting: Setting) -> None:
    """Read the files of all settings and write the findings."""
    findings: Findings = {writer.name: {} for writer in sorted((folder / "written").iterdir())}
    for path in sorted((folder / "models").iterdir()):
        model, fingerprint = open_model(path, setting)
        for writer, rows in findings.items():
            expected = load_file(folder / "written" / writer / path.name)
            rows[path.stem] = compare(model, fingerprint, expected)
    (folder / f"{setting.name}.json").write_text(json.dumps(findings))


def compare(model: Codec, fingerprint: bytes, expected: dict[str, Tensor]) -> dict[str, Any]:
    """Decode the file of another process and return the number of values that differ."""
    row: dict[str, Any] = {"error": None, "symbols": int(expected["latent"].round().unique().numel())}
    try:
        found = decoded(model, expected["file"].numpy().tobytes(), fingerprint)
    except LicError as error:
        return {**row, "error": str(error)}
    for name, values in found.items():
        row[name] = values.numel()
        row[f"{name}_that_differ"] = int((values != expected[name]).sum())
    return row


def is_exact(row: dict[str, Any]) -> bool:
    """Return whether a file was decoded to the latent of its writer."""
    return row["error"] is None and row["latent_that_differ"] == 0


# ---- parent process ----


def save_models(folder: Path, names: Iterable[str], full: bool) -> None:
    """Save the models and one picture for each."""
    from tests.conftest import make_varied_codec, shipped_config, small_config
    from tests.tiny import picture

    (folder / "models").mkdir()
    pictures = {}
    for name in names:
        save_model(folder / "models" / f"{name}.safetensors", make_varied_codec(name), small_config(name), {})
        pictures[name] = picture(*SMALL_PICTURE).float() / 255
    for name in FULL if full else ():
        stem = f"{name} full"
        save_model(folder / "models" / f"{stem}.safetensors", make_varied_codec(name, {}), shipped_config(name), {})
        pictures[stem] = picture(*FULL_PICTURE).float() / 255
    save_file(pictures, folder / "pictures.safetensors")


def run_children(phase: str, folder: Path, chosen: list[Setting], jobs: int) -> None:
    """Run one child process for each setting, at most ``jobs`` at once."""

    def run(setting: Setting) -> None:
        command = [setting.python, str(Path(__file__)), "--child", phase, str(folder), json.dumps(asdict(setting))]
        subprocess.run(command, env=setting.environment(), check=True)

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, setting) for setting in chosen]
        for future in track(as_completed(futures), description=phase, total=len(futures)):
            future.result()


def cell(rows: dict[str, dict[str, Any]]) -> str:
    """Format the findings of one writer and one reader."""
    exact = sum(is_exact(row) for row in rows.values())
    if exact < len(rows):
        return f"[red]{exact} of {len(rows)}"
    return f"exact, {sum(row['pixels_that_differ'] for row in rows.values())}"


def show(console: Console, found: dict[str, Findings], lacking: list[str]) -> None:
    """Print the table, the models whose files do not decode, and the settings that were left out."""
    rows = [row for findings in found.values() for models in findings.values() for row in models.values()]
    models = next(iter(next(iter(found.values())).values()))
    pixels = sum(row.get("pixels", 0) for row in models.values())
    table = Table(title=f"{len(models)} models: latents, and how many of {pixels:,} 8-bit values differ")
    for column in ("written by", *(f"read: {name}" for name in found)):
        table.add_column(column)
    for writer in found:
        table.add_row(writer, *(cell(findings[writer]) for findings in found.values()))
    console.print(table)
    for reader, findings in found.items():
        for writer, by_model in findings.items():
            for model, row in by_model.items():
                if not is_exact(row):
                    console.print(f"{model}, written by {writer}, read by {reader}: {row['error'] or 'other latents'}")
    console.print(f"at least {min(row['symbols'] for row in rows)} different symbols in every file")
    if lacking:
        console.print(f"left out, because this processor lacks them: {', '.join(lacking)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="default: all")
    parser.add_argument("--full", action="store_true", help=f"also full width: {', '.join(FULL)}")
    parser.add_argument("--python", metavar="PATH", help="interpreter of a further setting")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--json", type=Path, default=Path("portability.json"), help="file of all findings")
    parser.add_argument("--child", nargs=3, metavar=("PHASE", "FOLDER", "SETTING"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        phase, folder, setting = args.child
        apply(chosen := Setting(**json.loads(setting)))
        {"write": write, "read": read}[phase](Path(folder), chosen)
        return 0

    from tests.conftest import SMALL

    chosen_settings, lacking = settings(args.python)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_models(folder, args.models or SMALL, args.full)
        for phase in ("write", "read"):
            run_children(phase, folder, chosen_settings, args.jobs)
        found = {one.name: json.loads((folder / f"{one.name}.json").read_text()) for one in chosen_settings}
    show(Console(), found, lacking)
    args.json.write_text(json.dumps({"left_out": lacking, "read_by": found}, indent=1))
    rows = [row for findings in found.values() for models in findings.values() for row in models.values()]
    return 0 if all(map(is_exact, rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
