"""``lic evaluate RUN ... [eval=kodak,clic] [eval.root=...] [metrics=lpips,dists] [jobs=N] [checkpoint=best|last]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from lic_train.errors import ConfigError, LicError
from lic_train.evaluate import image_metrics
from lic_train.evaluate.arguments import evaluate_parser
from lic_train.evaluate.bench import Settings
from lic_train.evaluate.run import evaluate_run, show
from lic_train.evaluate.sets import Options, each_set, open_images, read_options
from lic_train.evaluate.table import notes, overview
from lic_train.runs import layout
from lic_train.runs.find import find_runs
from lic_train.system.command import command
from lic_train.system.screen import say_error


@command("the same command continues after the measured images")
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate runs on sets of images.

    Returns:
        0; 1 if an image was decoded differently from the encoder's reconstruction; 2 after an error.
    """
    arguments = evaluate_parser().parse_intermixed_args(argv)
    overrides = [word for word in arguments.words if "=" in word and not Path(word).exists()]
    given = [Path(word) for word in arguments.words if word not in overrides]
    sets = [read_options(each) for each in each_set(overrides)]
    runs = [run for path in given for run in find_runs(path)]
    if not runs:
        raise _no_run(overrides)
    image_metrics.prepare(sets[0].metrics)
    jobs = [(run, options) for run in runs for options in sets]
    return _evaluate_all(jobs, arguments.save_images, arguments.quality_map)


def _no_run(overrides: Sequence[str]) -> ConfigError:
    return ConfigError(
        "The command line names no run.",
        expected="at least one run directory, exported model or folder with runs",
        got=f"only options: {' '.join(overrides)}",
        to_do="add a run, for example: lic evaluate outputs/ eval=kodak",
    )


def _evaluate_all(jobs: Sequence[tuple[Path, Options]], save_images: bool, quality_map: bool) -> int:
    """Evaluate every run on every set and return the exit code; an error stops only its own evaluation."""
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
        show(result, layout.results_folder(run))
    elif done:
        _show_overview(done)
    return 2 if failed else int(not all(result["mean"]["equal"] for _, result in done))


def _evaluate_one(run: Path, options: Options, save_images: bool, quality_map: bool) -> dict[str, Any]:
    settings = Settings(
        panels=options.panels,
        repeats=options.repeats,
        jobs=options.jobs,
        save_images=save_images,
        quality_map=quality_map,
        fresh=options.fresh,
        metrics=options.metrics,
        protocol=options.eval.protocol,
        levels=options.eval.levels,
    )
    images = open_images(options.eval, run)
    return evaluate_run(run, images, options.eval.name, options.checkpoint, options.device, settings)


def _show_overview(done: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Print the means of all evaluations; runs are named by their paths below the nearest common folder."""
    shared = len(next(iter(_common_parents([run for run, _ in done]))).parts)
    console = Console()
    console.print(overview([("/".join(run.parts[shared:]) or run.name, result) for run, result in done]))
    for run, result in done:
        for line in notes(result):
            console.print(Text(f"{run}: {line}"), soft_wrap=True)
    console.print("results   eval/<set>.json and eval/<set>/*.lic in every run", soft_wrap=True)


def _common_parents(runs: Sequence[Path]) -> list[Path]:
    """Return the folders that contain all ``runs``, from the nearest to the root."""
    return [parent for parent in (runs[0], *runs[0].parents) if all(run.is_relative_to(parent) for run in runs)]


if __name__ == "__main__":
    sys.exit(main())
