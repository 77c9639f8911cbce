"""The reproduction card of a model: what was trained, how near it came, what is not as in the paper, how to repeat it.

``python -m lic_train.report.card outputs/`` writes ``card.md`` into every finished run below outputs/ anew, for example
after an evaluation on another set. Training writes it when a run ends.
"""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lic_train import models
from lic_train.errors import DataError, LicError
from lic_train.rd.curves import Curve
from lic_train.report import cited
from lic_train.report.elements import COMMANDS, Cell, Section, Table
from lic_train.report.markdown import markdown
from lic_train.report.papers.facts import Paper, of_model
from lic_train.report.papers.selection import curve_of, other_widths, percent, samples, share, value_at
from lic_train.report.papers.tables import METRIC_OF, POINTS_DIGITS, bd_rate_over_paper, points_columns, points_rows
from lic_train.report.runs import Run, read_runs
from lic_train.runs.layout import CARD, OVERRIDES
from lic_train.system import atomic
from lic_train.system.reading import Unreadable, printable, read_yaml, slug
from lic_train.system.screen import say_error

CHOSEN = "chosen for this run"
NO_PAPERS = "common"  # the recipe that follows no paper


def write(run_dir: Path) -> Path:
    """Write the card of a finished run into its directory.

    Raises:
        DataError: there is no finished run there.
    """
    runs, left_out = read_runs(run_dir)
    if not runs:
        reason = left_out[0].reason if left_out else "no run"
        raise DataError(f"expected a finished run in {run_dir}, got: {reason}; no card was written")
    atomic.replace_text(run_dir / CARD, markdown(section(runs)))
    return run_dir / CARD


def sections(runs: Iterable[Run]) -> list[Section]:
    """A card for every model, recipe, distortion and name, over its lambdas."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.model, run.recipe, run.distortion, run.name or ""), []).append(run)
    return [section(sorted(group, key=lambda run: run.lmbda)) for group in groups.values()]


def section(runs: Sequence[Run]) -> Section:
    """The card of runs that differ in lambda alone, or of one."""
    first, paper = runs[0], of_model(runs[0].model)
    key = slug(f"card {first.model} {first.recipe} {first.distortion} {first.name or ''}")
    tables = [
        _trained(runs, paper),
        *_points(runs, paper),
        _deviations(runs, paper),
        _network(first),
        _environment(runs),
        _commands(runs),
    ]
    found = [Table(f"{key}_{number}", *content) for number, content in enumerate(tables) if content[2]]
    return Section(_title(runs), found, paper.cite if paper else "Nothing of a paper is known here for this model.")


Content = tuple[str, Sequence[str], Sequence[Sequence[Cell]], Sequence[int | None], str]  # a table without its key


def _title(runs: Sequence[Run]) -> str:
    first = runs[0]
    told = [first.model, f"recipe {first.recipe}" if first.recipe != first.model else "", first.name or ""]
    lambdas = ", ".join(f"{run.lmbda:g}" for run in runs)
    return f"Reproduction card: {', '.join(filter(None, told))}, λ {lambdas}"


def _trained(runs: Sequence[Run], paper: Paper | None) -> Content:
    columns = ["λ", "distortion", "recipe", "data", "steps", "batch", "crops seen"]
    rows: list[list[Cell]] = []
    for run in runs:
        batch = _text(value_at(run.config, "batch_size"))
        rows.append([run.lmbda, run.distortion, run.recipe, _data(run), run.step, batch, samples(run)])
    if paper is not None:
        columns.append("share of the paper's")
        rows = [
            [*row, None if (part := share(run)) is None else percent(part)] for row, run in zip(rows, runs, strict=True)
        ]
    return "What was trained", columns, rows, (), _papers_training(runs[0], paper)


def _share(run: Run) -> str | None:
    part = share(run)
    return None if part is None else percent(part)


def _papers_training(run: Run, paper: Paper | None) -> str:
    if paper is None:
        return ""
    training = paper.training_of(run.recipe)
    length = f"{training.steps:,} steps" if training.steps else "steps not told"
    batch = f" of batch {training.batch_size}" if training.batch_size else ""
    return f"Paper: {length}{batch} on {training.data or 'data not told'}. {training.note}".strip()


def _data(run: Run) -> str:
    """The source of the training photographs: "imagenet"."""
    source = value_at(run.config, "data.source._target_") or value_at(run.config, "data.source")
    return printable(source).rpartition(".")[2] if isinstance(source, str) else "not recorded"


def _points(runs: Sequence[Run], paper: Paper | None) -> Iterator[Content]:
    metric = METRIC_OF[runs[0].distortion]
    for set_name in sorted({name for run in runs for name in run.results}):
        having = [run for run in runs if set_name in run.results]
        curve = _cited(having[0], set_name)
        other = _other_pictures(having, set_name, paper)
        if curve is None or other:
            yield _own_points(having, set_name, other)
        else:
            rows = points_rows(having, curve, set_name, metric)
            source = f"Paper: {curve.about['source']}; {curve.about['pictures']}."
            note = f"{source} {bd_rate_over_paper(curve_of(having, set_name), curve, metric)}"
            yield f"{set_name}: against the paper's points", points_columns(metric), rows, POINTS_DIGITS, note


def _cited(run: Run, set_name: str) -> Curve | None:
    wanted = (run.model, run.distortion)
    curves = cited.curves(set_name)
    return next((c for c in curves if (c.about["model"], c.about["distortion"]) == wanted), None)


def _other_pictures(runs: Sequence[Run], set_name: str, paper: Paper | None) -> str:
    """Why results on a set cannot stand beside the paper's; empty if they can."""
    wanted = paper.pictures.get(set_name) if paper else None
    counts = sorted({len(run.results[set_name].rows) for run in runs} - {wanted})
    return (
        f"On {counts[0]} pictures; the paper has {wanted}, so that they are not compared." if wanted and counts else ""
    )


def _own_points(runs: Sequence[Run], set_name: str, note: str) -> Content:
    rows = []
    for run in runs:
        point = run.results[set_name].point("")
        rows.append([run.lmbda, len(point.images), point.bpp, point.psnr, point.ms_ssim_db])
    columns = ["λ", "pictures", "bpp of the files", "PSNR, dB", "MS-SSIM, dB"]
    return f"{printable(set_name)}: points", columns, rows, (None, None, 4, 3, 3), note


def _deviations(runs: Sequence[Run], paper: Paper | None) -> Content:
    rows: list[list[Cell]] = []
    if paper is not None:
        rows += [list(row) for run in runs for row in _of_this_run(run, paper)]
        of_recipe = paper.deviations if runs[0].recipe != NO_PAPERS else ()
        rows += [[deviation.what, deviation.paper, deviation.here, deviation.why] for deviation in of_recipe]
    unique = list({tuple(row): row for row in rows}.values())
    return "Deviations from the paper", ["what", "paper", "here", "why"], unique, (), ""


def _of_this_run(run: Run, paper: Paper) -> Iterator[tuple[str, str, str, str]]:
    """Where a run was given other values than its paper has."""
    training, seen = paper.training_of(run.recipe), samples(run)
    if run.recipe == NO_PAPERS:
        yield "recipe", "its own", f"{run.recipe}: one for all models, for fair comparison", CHOSEN
    if training.samples and seen is not None and seen != training.samples:
        yield "crops seen", f"{training.samples:,}", f"{seen:,}", CHOSEN
    for key in ("batch_size", "crop"):
        wanted, got = getattr(training, key), value_at(run.config, key)
        if wanted is not None and got != wanted:
            yield key, str(wanted), printable(got), CHOSEN
    if training.data:
        yield "data", training.data, _data(run), CHOSEN
    if (factor := value_at(run.config, "lr_scale")) not in (None, 1):
        yield "learning rate", "", f"{printable(factor)} times the recipe's", CHOSEN
    for text in [*other_widths(run), *_given_widths(run, paper)]:
        yield "network", "", text, CHOSEN


def _given_widths(run: Run, paper: Paper) -> Iterator[str]:
    """What the command sets of a network whose published widths follow from lambda."""
    for key, separator, value in (override.partition("=") for override in _overrides(run) or ()):
        section, _, name = key.partition(".")
        if separator and section == "model" and name and name not in paper.network:
            yield f"{printable(name)} {printable(value)}, by the command"


def _network(run: Run) -> Content:
    """How the paper was read where it is open: the list at the head of the model's module, which is its only home."""
    module = str(value_at(run.config, "model._target_")).split(".")[-2:-1]
    name = module[0] if module and re.fullmatch(r"\w+", module[0]) else ""
    path = Path(models.__file__).parent / f"{name}.py"
    title = f"The network, where the paper is open or is not followed (lic_train/models/{name}.py)"
    return title, ["reading"], [[text] for text in readings(path)] if path.is_file() else [], (), ""


def readings(module: Path) -> list[str]:
    """The list items of a module's docstring, each on one line."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    items = re.findall(r"^- (.*(?:\n  .*)*)", text, re.MULTILINE)
    return [" ".join(item.split()).replace("``", "") for item in items]


def _environment(runs: Sequence[Run]) -> Content:
    columns = ["λ", "commit", "changed", "Python", "torch", "device", "started"]
    return "Environment", columns, [[run.lmbda, *_recorded(run.environment())] for run in runs], (), ""


def _recorded(record: dict[str, Any]) -> list[Cell]:
    commit, dirty = _text(value_at(record, "code.commit")), value_at(record, "code.dirty")
    version = _text(value_at(record, "code.version"))
    code = commit[:12] if commit else version and f"version {version}"
    changed = {True: "yes, see dirty.diff", False: "no"}[dirty] if isinstance(dirty, bool) else None
    told = [_text(value_at(record, path)) for path in ("python", "torch.version")]
    return [code, changed, *told, _device(record), _text(record.get("started"))]


def _commands(runs: Sequence[Run]) -> Content:
    commands = [[command] for run in runs if (command := _command(run))]
    return "Commands that repeat it, at the commit above", [COMMANDS], commands, (), ""


def _command(run: Run) -> str | None:
    overrides = _overrides(run)
    return None if overrides is None else shlex.join(["python", "train.py", *overrides])


def _overrides(run: Run) -> list[str] | None:
    """What was typed behind ``train.py``; None if the record is gone."""
    try:
        overrides = read_yaml(run.path / OVERRIDES)
    except Unreadable:
        return None
    return [str(item) for item in overrides] if isinstance(overrides, list) else None


def _device(record: dict[str, Any]) -> str | None:
    gpus = value_at(record, "gpus")
    names = [_text(value_at(gpu, "name")) for gpu in gpus] if isinstance(gpus, list) else []
    return ", ".join(filter(None, names)) or _text(value_at(record, "cpu.model"))


def _text(value: Any) -> str | None:
    return None if value is None else printable(value)


def main(argv: list[str] | None = None) -> int:
    """Write the cards of all finished runs; returns 0, or 2 after an error."""
    parser = argparse.ArgumentParser(prog="python -m lic_train.report.card", description="Write card.md into runs.")
    parser.add_argument("outputs", type=Path, help="a folder with runs, or one of them")
    outputs = parser.parse_args(argv).outputs
    try:
        runs, left_out = read_runs(outputs)
        if not runs:
            raise DataError(f"expected finished runs in {outputs}, got none, and {len(left_out)} others")
        for run in runs:
            print(write(run.path))
    except (LicError, OSError) as error:
        say_error(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
