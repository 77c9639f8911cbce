"""``python -m lic_train.evaluate RUN ... [eval=kodak,clic] [eval.root=...] [jobs=N] [checkpoint=best|last]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lic_train.errors import LicError
from lic_train.evaluate.bench import Wish
from lic_train.evaluate.run import evaluate_run, show
from lic_train.evaluate.sets import Options, each_set, open_images, read_options
from lic_train.evaluate.table import overview
from lic_train.runs.find import find_runs
from lic_train.system.screen import say_error, say_warning


def main(argv: list[str] | None = None) -> int:
    """Evaluate; returns 0, 1 if a decoded picture is not the encoder's, 2 after an error, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    overrides = [word for word in arguments.words if "=" in word and not Path(word).exists()]
    given = [Path(word) for word in arguments.words if word not in overrides]
    try:
        sets = [read_options(each) for each in each_set(overrides)]
        runs = [run for path in given for run in find_runs(path)]
        if not runs:
            raise LicError("expected at least one run, got only options; for example outputs/ eval=kodak")
        jobs = [(run, options) for run in runs for options in sets]
        return _evaluate_all(jobs, arguments.save_images, arguments.quality_map)
    except (LicError, ValueError, OSError) as error:
        say_error(error)
        return 2
    except KeyboardInterrupt:
        say_warning("stopped; the same command goes on where it stopped")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lic_train.evaluate",
        description="Encode, write, read back, decode and measure sets of pictures.",
        epilog="Overrides: eval=kodak,clic eval.root=FOLDER eval.limit=N checkpoint=best|last device=cpu panels=4 "
        "repeats=1 jobs=1 fresh=false",
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN | KEY=VALUE",
        help="run directories, exported models or folders with runs; options as in conf/evaluate.yaml",
    )
    parser.add_argument("--save-images", action="store_true", help="keep decoded pictures: eval/<set>/decoded/")
    parser.add_argument("--quality-map", action="store_true", help="keep maps: eval/<set>/error/, eval/<set>/bits/")
    return parser


def _evaluate_all(jobs: Sequence[tuple[Path, Options]], save_images: bool, quality_map: bool) -> int:
    """Every run on every set; of several, one that fails does not stop the others. Returns the exit code."""
    done: list[tuple[Path, dict[str, Any]]] = []
    failed = 0
    for run, options in jobs:
        try:
            done.append((run, _evaluate_one(run, options, save_images, quality_map)))
        except (LicError, OSError) as error:
            if len(jobs) == 1:
                raise
            failed += 1
            say_error(LicError(f"{run}: {error}"))
    if len(jobs) == 1:
        run, result = done[0]
        show(result, run if run.is_dir() else run.parent)
    elif done:
        _show_overview(done)
    return 2 if failed else int(not all(result["mean"]["equal"] for _, result in done))


def _evaluate_one(run: Path, options: Options, save_images: bool, quality_map: bool) -> dict[str, Any]:
    wish = Wish(options.panels, options.repeats, options.jobs, save_images, quality_map, options.fresh)
    images = open_images(options.eval, run)
    return evaluate_run(run, images, options.eval.name, options.checkpoint, options.device, wish)


def _show_overview(done: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Runs are named by what differs: their paths without the folders and the beginning that all share."""
    shared = len(next(iter(_common_parents([run for run, _ in done]))).parts)
    console = Console()
    console.print(overview([("/".join(run.parts[shared:]) or run.name, result) for run, result in done]))
    console.print("results   eval/<set>.json and eval/<set>/*.lic in every run", soft_wrap=True)


def _common_parents(runs: Sequence[Path]) -> list[Path]:
    """Folders above all ``runs``, the nearest first."""
    return [parent for parent in (runs[0], *runs[0].parents) if all(run.is_relative_to(parent) for run in runs)]


if __name__ == "__main__":
    sys.exit(main())
