"""Reproduction cards: what was trained, how close the results are, deviations from the paper, commands to repeat it.

``lic card outputs/`` rewrites ``card.md`` in every finished run below outputs/, for example after an evaluation on
another picture set. Training writes the card at the end of a run.
"""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lic_train import models
from lic_train.errors import DataError
from lic_train.files.zoo.published import point
from lic_train.rd.curves import Curve
from lic_train.rd.style import METRIC_LABELS, METRIC_OF
from lic_train.report import cited
from lic_train.report.arguments import card_parser
from lic_train.report.elements import COMMANDS, Cell, Section, Table
from lic_train.report.markdown import markdown
from lic_train.report.papers.facts import Paper, of_model
from lic_train.report.papers.selection import other_widths, percent, samples, share, value_at
from lic_train.report.papers.tables import POINTS_DIGITS, bd_rate_over_paper, points_columns, points_rows
from lic_train.report.runs import Run, read_runs, trainings
from lic_train.runs.layout import CARD, DIFF, OVERRIDES
from lic_train.system import atomic
from lic_train.system.command import command
from lic_train.system.reading import Unreadable, printable, read_yaml, slug
from lic_train.system.screen import say

CHOSEN = "chosen for this run"
HOUSE = "those of lic_train"
NO_PAPERS = "common"  # name of the recipe that reproduces no paper
Content = tuple[str, Sequence[str], Sequence[Sequence[Cell]], Sequence[int | None], str]  # a table without its key


def write(run_dir: Path) -> Path:
    """Write the card of a finished run to its directory and return the path.

    Raises:
        DataError: there is no finished run in ``run_dir``.
    """
    runs, left_out = read_runs(run_dir)
    if not runs:
        reason = left_out[0].reason if left_out else "no run"
        raise DataError(f"No card is written for {run_dir}.", expected="a finished run", got=reason)
    return _write(runs)


def _write(runs: Sequence[Run]) -> Path:
    """Write the card of one training, whose runs are its levels if it has a variable rate."""
    path = runs[0].path / CARD
    atomic.replace_text(path, markdown(section(runs)))
    return path


def sections(runs: Iterable[Run]) -> list[Section]:
    """Return one card for each model, recipe, distortion and name, over its lambdas."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.family, []).append(run)
    return [section(sorted(group, key=lambda run: run.lmbda)) for group in groups.values()]


def section(runs: Sequence[Run]) -> Section:
    """Return the card of runs that differ in lambda only."""
    first, paper = runs[0], of_model(runs[0].model)
    key = slug(" ".join(["card", *first.family]))
    tables = [
        _imported(runs),
        _trained(runs, paper),
        *_points(runs, paper),
        _deviations(runs, paper),
        _network(first),
        _environment(runs),
        _commands(runs),
    ]
    found = [Table(f"{key}_{number}", *content) for number, content in enumerate(tables) if content[2]]
    return Section(_title(runs), found, paper.cite if paper else "There are no facts of a paper for this model.")


def _title(runs: Sequence[Run]) -> str:
    first = runs[0]
    recipe = "authors' weights" if first.is_imported else f"recipe {first.recipe}"
    parts = [first.model, recipe if first.recipe != first.model else "", first.name or ""]
    trained_for = dict.fromkeys(run.trained_for for run in runs)
    lambdas = ", ".join(each if isinstance(each, str) else f"{each:g}" for each in trained_for)
    return f"Reproduction card: {', '.join(filter(None, parts))}, λ {lambdas}"


def _imported(runs: Sequence[Run]) -> Content:
    """Return the published results of imported models beside the measured ones."""
    columns = ["λ", "published as", "set", "published", "here", "options here", "options of the authors", "source"]
    rows: list[list[Cell]] = []
    for run in runs:
        for name, result in sorted(run.results.items()):
            if (published := result.published) is None or published.set != name:
                continue
            here = point(result.mean.bpp_file, published.metric, getattr(result.mean, published.metric))
            options = [result.protocol.described or HOUSE, published.command or HOUSE]
            texts = (published.name, name, published.described, here, *options, published.source)
            rows.append([run.lmbda, *map(printable, texts)])
    return "Imported weights: published results and results here", columns, rows, (), ""


def _trained(runs: Sequence[Run], paper: Paper | None) -> Content:
    if runs[0].is_imported:
        return "", (), (), (), ""
    columns = ["λ", "distortion", "recipe", "data", "steps", "batch", "crops seen"]
    rows: list[list[Cell]] = []
    for run in trainings(runs):
        batch = _text(value_at(run.config, "batch_size"))
        rows.append([run.trained_for, run.distortion, run.recipe, _data(run), run.step, batch, samples(run)])
    if paper is not None:
        columns.append("share of the paper's")
        shares = [None if (part := share(run)) is None else percent(part) for run in trainings(runs)]
        rows = [[*row, part] for row, part in zip(rows, shares, strict=True)]
    return "What was trained", columns, rows, (), _papers_training(runs[0], paper)


def _papers_training(run: Run, paper: Paper | None) -> str:
    if paper is None:
        return ""
    training = paper.training_of(run.recipe)
    length = f"{training.steps:,} steps" if training.steps else "number of steps not stated"
    batch = f" of batch {training.batch_size}" if training.batch_size else ""
    return f"Paper: {length}{batch} on {training.data or 'data not stated'}. {training.note}".strip()


def _data(run: Run) -> str:
    """Return the name of the source of the training photographs, "imagenet"."""
    source = value_at(run.config, "data.source._target_") or value_at(run.config, "data.source")
    return printable(source).rpartition(".")[2] if isinstance(source, str) else "not recorded"


def _points(runs: Sequence[Run], paper: Paper | None) -> Iterator[Content]:
    metric = METRIC_OF[runs[0].distortion]
    for set_name in sorted({name for run in runs for name in run.results}):
        evaluated = [run for run in runs if set_name in run.results]
        curve = _cited(evaluated[0], set_name)
        other = _other_pictures(evaluated, set_name, paper)
        if curve is None or other:
            yield _own_points(evaluated, set_name, other)
        else:
            rows = points_rows(evaluated, curve, set_name, metric)
            source = f"Paper: {curve.about['source']}; {curve.about['pictures']}."
            note = f"{source} {bd_rate_over_paper(evaluated, set_name, curve, metric)}"
            yield f"{set_name}: against the paper's points", points_columns(metric), rows, POINTS_DIGITS, note


def _cited(run: Run, set_name: str) -> Curve | None:
    wanted = (run.model, run.distortion)
    curves = cited.curves(set_name)
    return next((c for c in curves if (c.about.get("model"), c.about.get("distortion")) == wanted), None)


def _other_pictures(runs: Sequence[Run], set_name: str, paper: Paper | None) -> str:
    """Return the reason that results on a set are not comparable with the paper's; empty if they are."""
    wanted = paper.pictures.get(set_name) if paper else None
    counts = sorted({len(run.results[set_name].rows) for run in runs} - {wanted})
    return f"Not compared: {counts[0]} pictures, the paper has {wanted}." if wanted and counts else ""


def _own_points(runs: Sequence[Run], set_name: str, note: str) -> Content:
    rows = []
    for run in runs:
        point = run.results[set_name].point("")
        rows.append([run.lmbda, len(point.images), point.bpp, point.psnr, point.ms_ssim_db])
    columns = ["λ", "pictures", "bpp of the files", *METRIC_LABELS.values()]
    return f"{printable(set_name)}: points", columns, rows, (None, None, 4, 3, 3), note


def _deviations(runs: Sequence[Run], paper: Paper | None) -> Content:
    rows: list[list[Cell]] = []
    if paper is not None and not runs[0].is_imported:
        rows += [list(row) for run in runs for row in _of_this_run(run, paper)]
        of_recipe = paper.deviations if runs[0].recipe != NO_PAPERS else ()
        rows += [[deviation.what, deviation.paper, deviation.here, deviation.why] for deviation in of_recipe]
    unique = list({tuple(row): row for row in rows}.values())
    return "Deviations from the paper", ["what", "paper", "here", "why"], unique, (), ""


def _of_this_run(run: Run, paper: Paper) -> Iterator[tuple[str, str, str, str]]:
    """Yield the values of a run that differ from its paper's: (what, paper, here, why)."""
    training, seen = paper.training_of(run.recipe), samples(run)
    if run.recipe == NO_PAPERS:
        yield "recipe", "its own", f"{run.recipe}: the same for all models, for a fair comparison", CHOSEN
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
    """Yield what the command sets of a network whose published widths depend on lambda."""
    for key, separator, value in (override.partition("=") for override in _overrides(run) or ()):
        section, _, name = key.partition(".")
        if separator and section == "model" and name and name not in paper.network:
            yield f"{printable(name)} {printable(value)}, set by the command"


def _network(run: Run) -> Content:
    """Return the choices where the paper is ambiguous, from the list in the docstring of the model's module."""
    module = str(value_at(run.config, "model._target_")).split(".")[-2:-1]
    name = module[0] if module and re.fullmatch(r"\w+", module[0]) else ""
    path = Path(models.__file__).parent / f"{name}.py"
    title = f"The network: interpretations of the paper and differences from it (lic_train/models/{name}.py)"
    return title, ["reading"], [[text] for text in readings(path)] if path.is_file() else [], (), ""


def readings(module: Path) -> list[str]:
    """Return the list items of a module's docstring, each on one line."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    items = re.findall(r"^- (.*(?:\n  .*)*)", text, re.MULTILINE)
    return [" ".join(item.split()).replace("``", "") for item in items]


def _environment(runs: Sequence[Run]) -> Content:
    columns = ["λ", "commit", "changed", "Python", "torch", "device", "started"]
    runs = [run for run in trainings(runs) if not run.is_imported]
    return "Environment", columns, [[run.trained_for, *_recorded(run.environment())] for run in runs], (), ""


def _recorded(record: dict[str, Any]) -> list[Cell]:
    commit, dirty = _text(value_at(record, "code.commit")), value_at(record, "code.dirty")
    version = _text(value_at(record, "code.version"))
    code = commit[:12] if commit else version and f"version {version}"
    changed = {True: f"yes, see {DIFF}", False: "no"}[dirty] if isinstance(dirty, bool) else None
    versions = [_text(value_at(record, path)) for path in ("python", "torch.version")]
    return [code, changed, *versions, _device(record), _text(record.get("started"))]


def _commands(runs: Sequence[Run]) -> Content:
    commands = [[command] for run in trainings(runs) if (command := _command(run))]
    return "Commands that repeat it, at the commit above", [COMMANDS], commands, (), ""


def _command(run: Run) -> str | None:
    overrides = _overrides(run)
    return None if overrides is None else shlex.join(["python", "train.py", *overrides])


def _overrides(run: Run) -> list[str] | None:
    """Return the arguments of the training command; None if the record cannot be read."""
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


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Write the cards of all finished runs; return 0."""
    outputs = card_parser().parse_args(argv).outputs
    runs, left_out = read_runs(outputs)
    if not runs:
        raise DataError(
            f"There is no finished run in {outputs}.",
            expected="a finished run",
            got=f"{len(left_out)} unfinished or damaged runs",
            to_do="give the outputs/ folder or a run directory",
        )
    for training in trainings(runs):
        say(str(_write([run for run in runs if run.path == training.path])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
