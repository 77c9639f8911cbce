"""The environment of a run: code version, machine, packages and command."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import lic_train
from lic_train.runs import layout
from lic_train.system import atomic
from lic_train.system.machine import cpu_model, memory_bytes
from lic_train.system.reading import Unreadable, read_json
from lic_train.system.relaunch import typed_command

MAX_DIFF_BYTES = 1_000_000
GIT_SECONDS = 20
RECORDED_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "WORLD_SIZE")


def about_this_process(rank: int, overrides: list[str]) -> dict[str, Any]:
    """Describe this process, one of those that train a run together."""
    return {"rank": rank, "host": platform.node(), "pid": os.getpid(), "overrides": overrides}


def record(run_dir: Path, processes: list[dict[str, Any]]) -> dict[str, Any]:
    """Write ``environment.json``, and ``dirty.diff`` if the code differs from its commit; return the former.

    A resumed run overwrites both files and keeps a short note of the earlier starts under "earlier". No network access;
    unknown values are null.

    Args:
        run_dir: the run's directory.
        processes: `about_this_process` of each process.

    Raises:
        OSError: the directory is not writable.
    """
    code, diff = _code()
    path = Path(run_dir) / layout.ENVIRONMENT
    content: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": typed_command(),
        "processes": processes,
        "code": code,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": {"model": cpu_model(), "cores": os.cpu_count(), "ram_gib": round(memory_bytes() / 2**30, 1)},
        "gpus": _gpus(),
        "torch": {"version": torch.__version__, "cuda": torch.version.cuda, "build": torch.__config__.show()},
        "variables": {name: os.environ[name] for name in RECORDED_VARIABLES if name in os.environ},
        "packages": _packages(),
        "earlier": _earlier(path),
    }
    atomic.replace_text(path, json.dumps(content, indent=1) + "\n")
    _write_or_remove(path.with_name(layout.DIFF), diff)
    return content


def _write_or_remove(path: Path, text: str) -> None:
    if text:
        atomic.replace_text(path, text)
    else:
        path.unlink(missing_ok=True)


def _code() -> tuple[dict[str, Any], str]:
    """Return version, commit and state of this package, and its diff to the commit (empty if none or unknown)."""
    code: dict[str, Any] = {"version": lic_train.__version__, "commit": None, "dirty": None, "untracked": []}
    home = Path(lic_train.__file__).parent
    # A virtual environment with the installed package may be inside an unrelated repository.
    if _git(home, "ls-files", "--error-unmatch", "__init__.py") is None:
        return code, ""
    commit = _git(home, "rev-parse", "HEAD")
    status = _git(home, "status", "--porcelain")
    if commit is None or status is None:
        return code, ""
    untracked = [line[3:] for line in status.splitlines() if line.startswith("??")]
    code |= {"commit": commit.strip(), "dirty": bool(status.strip()), "untracked": untracked}
    return code, _bounded(_git(home, "diff", "HEAD", "--no-ext-diff") or "") if code["dirty"] else ""


def _git(directory: Path, *arguments: str) -> str | None:
    """Return the output of a git command, None if git is missing, fails or exceeds the time limit."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_PAGER": "cat"}
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            timeout=GIT_SECONDS,
            check=True,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def _bounded(diff: str) -> str:
    if len(diff) <= MAX_DIFF_BYTES:
        return diff
    return f"{diff[:MAX_DIFF_BYTES]}\n... truncated to {MAX_DIFF_BYTES} of {len(diff)} characters\n"


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in properties]


def _packages() -> dict[str, str]:
    found = {str(package.metadata["Name"]): package.version for package in metadata.distributions()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _earlier(path: Path) -> list[dict[str, Any]]:
    """Return the notes of the earlier starts; none from a damaged file."""
    try:
        before = read_json(path)
        note = {key: before[key] for key in ("started", "command", "code", "host")}
        return [*before["earlier"], note | {"torch": before["torch"]["version"]}]
    except (Unreadable, KeyError, TypeError):
        return []
