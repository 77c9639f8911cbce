"""Select the user's runs that correspond to a paper's codecs, and describe their differences from the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lic_train.rd.curves import Curve
from lic_train.report.gather import Gathered, curve_of
from lic_train.report.papers.facts import CodecFacts, Paper, RunsOf, of_model
from lic_train.report.runs import Run
from lic_train.system.reading import printable

Gather = Callable[[str], Gathered]  # everything that was evaluated on the picture set of this name
SAME_LAMBDA = 1e-3  # relative tolerance: 0.0315 equals 0.03150


def value_at(config: Any, path: str) -> Any:
    """Return the value at a dotted path through mappings and lists; None if there is none."""
    for part in path.split("."):
        if isinstance(config, Mapping):
            config = config.get(part)
        elif isinstance(config, list) and part.isdecimal() and int(part) < len(config):
            config = config[int(part)]
        else:
            return None
    return config


def same_lambda(a: float, b: float) -> bool:
    """Return whether two lambdas are equal up to rounding."""
    return math.isclose(a, b, rel_tol=SAME_LAMBDA)


def samples(run: Run) -> int | None:
    """Return the number of training crops of a run; None if its configuration has no batch size or it is imported."""
    batch = run.config.get("batch_size")
    return run.step * batch if isinstance(batch, int) and run.step is not None else None


def share(run: Run) -> float | None:
    """Return the training crops of a run divided by those of its paper; None if one of them is unknown."""
    paper, seen = of_model(run.model), samples(run)
    whole = paper.training_of(run.recipe).samples if paper else None
    return None if seen is None or whole is None else seen / whole


def percent(part: float) -> str:
    """Format a share: 100 %, 2.5 %, 0.0031 %."""
    return f"{100 * part:.2g} %" if part < 0.995 else f"{100 * part:.0f} %"


def fits(config: Mapping[str, Any], runs: RunsOf, switches: Mapping[str, Any]) -> bool:
    """Return whether a configuration has the values of ``runs`` and, for all other keys, those of ``switches``.

    Sections that the configuration lacks are ignored: the configuration of a counted network has no recipe.
    """
    wanted = {**switches, **runs.where}
    return all(value_at(config, path) == value for path, value in wanted.items() if path.split(".")[0] in config)


@dataclass
class Evidence:
    """The user's results that one table or figure of a paper uses, and the remarks for the note below it.

    Attributes:
        paper: facts of the paper.
        gather: returns everything that was evaluated on a picture set.
        used: runs whose numbers are shown, by directory; None before the first search.
        remarks: sentences for the reader, in the order of their first use.
    """

    paper: Paper
    gather: Gather
    used: dict[Path, Run] | None = None
    remarks: list[str] = field(default_factory=list)

    def on(self, set_name: str) -> Selection:
        """Return the codecs on a picture set."""
        return Selection(self.paper, self.gather(set_name), self)

    def remark(self, text: str) -> None:
        """Add a remark once."""
        if text not in self.remarks:
            self.remarks.append(text)

    def use(self, runs: Iterable[Run]) -> None:
        """Record runs whose numbers are shown; an empty search is recorded too."""
        self.used = {**(self.used or {}), **{run.path: run for run in runs}}

    def note(self, first: str) -> str:
        """Return the complete note: ``first``, the description of the runs, the remarks."""
        runs = "" if self.used is None else described(list(self.used.values()))
        return " ".join(filter(None, (first.strip(), runs, *self.remarks)))


@dataclass(frozen=True)
class Selection:
    """The curves and runs on one picture set that are a paper's codecs.

    Attributes:
        paper: facts of the paper.
        data: everything that was evaluated on the set.
        evidence: records what is used.
    """

    paper: Paper
    data: Gathered
    evidence: Evidence

    def codec(self, key: str) -> CodecFacts:
        """Return the facts of a codec."""
        return self.paper.codecs[key]

    def runs(self, key: str) -> list[Run]:
        """Return the runs of a codec on the paper's pictures, one for each lambda, sorted by lambda."""
        fitting = self._fitting(key, self.data.runs)
        family = one_family([run for run in fitting if self._on_the_papers_pictures(run)], self.codec(key).prefer)
        self.evidence.use(family)
        return family

    def trained(self, key: str, lmbda: float) -> Run | None:
        """Return the run of a codec at a lambda, evaluated or not."""
        family = one_family(self._fitting(key, self.data.finished), self.codec(key).prefer)
        found = next((run for run in family if same_lambda(run.lmbda, lmbda)), None)
        self.evidence.use([found] if found else [])
        return found

    def measured(self, key: str) -> Curve | None:
        """Return the curve measured here: of the codec's runs, or else of the classical codec that represents it."""
        anchors = (curve for curve in self.data.anchors if curve.key == self.codec(key).anchor)
        return self.trained_curve(key) or next(anchors, None)

    def trained_curve(self, key: str) -> Curve | None:
        """Return the curve of a codec's runs."""
        runs = self.runs(key)
        return curve_of(runs, self.data.set, key, self.codec(key).name) if runs else None

    def cited(self, key: str) -> Curve | None:
        """Return the published curve of a codec on this set."""
        return next((curve for curve in self.data.cited if curve.key == self.codec(key).cited), None)

    def is_codec(self, key: str, model: str, config: Mapping[str, Any]) -> bool:
        """Return whether a model with this configuration is the codec."""
        switches = self.paper.switches.get(model, {})
        return any(model == wanted.model and fits(config, wanted, switches) for wanted in self.codec(key).runs)

    def _fitting(self, key: str, runs: Iterable[Run]) -> list[Run]:
        distortion = self.codec(key).distortion
        return [run for run in runs if run.distortion == distortion and self.is_codec(key, run.model, run.config)]

    def _on_the_papers_pictures(self, run: Run) -> bool:
        got, expected = len(run.results[self.data.set].rows), self.paper.pictures.get(self.data.set)
        if expected is None or got == expected:
            return True
        self.evidence.remark(f"Left out: results on {got} pictures of {self.data.set}; the paper uses {expected}.")
        return False


def one_family(runs: Iterable[Run], prefer: str = "") -> list[Run]:
    """Return the runs of a codec that belong together, one for each lambda, sorted by lambda.

    The order of preference is: runs of one rate each; runs named ``prefer``; the model's own recipes, whose names start
    with the model's (``gcab_gmm_finetune``); more lambdas; runs without a name.
    """
    families: dict[tuple[str, str, str], dict[float, Run]] = {}
    for run in sorted(runs, key=lambda run: run.order):
        families.setdefault(_family(run), {}).setdefault(run.lmbda, run)

    def rank(family: tuple[str, str, str]) -> tuple[Any, ...]:
        _, recipe, name = family
        variable = any(run.level is not None for run in families[family].values())
        return variable, bool(prefer) and name != prefer, recipe != "", -len(families[family]), name != "", family

    return list(families[min(families, key=rank)].values()) if families else []


def _family(run: Run) -> tuple[str, str, str]:
    return run.model, "" if run.recipe.startswith(run.model) else run.recipe, run.name or ""


def described(runs: Sequence[Run]) -> str:
    """Return one sentence about the runs behind measured numbers: number, training length, changed networks."""
    if not runs:
        return "No run here matches these codecs."
    shares = [part for run in runs if (part := share(run)) is not None]
    trained = f", trained on {_range(shares)} of the crops of their papers" if shares else ""
    widths = "; ".join(sorted({f"{run.model}: {text}" for run in runs for text in other_widths(run)}))
    network = f"; networks of other widths than in the papers ({widths})" if widths else ""
    return f"Here: {len(runs)} run{'s' if len(runs) > 1 else ''}{trained}{network}."


def other_widths(run: Run) -> list[str]:
    """Return the differences of a run's network from its paper's: "N 32 instead of 128"."""
    paper = of_model(run.model)
    wanted = paper.network if paper else {}
    found = {key: value_at(run.config, f"model.{key}") for key in wanted}
    return [f"{key} {printable(found[key])} instead of {value}" for key, value in wanted.items() if found[key] != value]


def _range(shares: Sequence[float]) -> str:
    low, high = percent(min(shares)), percent(max(shares))
    return low if low == high else f"{low} to {high}"
