"""Which of the user's runs are a paper's codec, and what may be said of them beside the paper's numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lic_train.rd.curves import Curve
from lic_train.report.papers.facts import CodecFacts, Paper, RunsOf, of_model
from lic_train.report.papers.inputs import Gather, OnSet, Run
from lic_train.system.reading import printable

SAME_LAMBDA = 1e-3  # relative: 0.0315 is 0.03150


def value_at(config: Any, path: str) -> Any:
    """The value at a dotted path through mappings and lists; None if there is none."""
    for part in path.split("."):
        if isinstance(config, Mapping):
            config = config.get(part)
        elif isinstance(config, list) and part.isdecimal() and int(part) < len(config):
            config = config[int(part)]
        else:
            return None
    return config


def same_lambda(a: float, b: float) -> bool:
    """Whether two lambdas are one, written differently."""
    return math.isclose(a, b, rel_tol=SAME_LAMBDA)


def samples(run: Run) -> int | None:
    """Crops that a run has seen; None if its configuration does not say."""
    batch = run.config.get("batch_size")
    return run.step * batch if isinstance(batch, int) else None


def share(run: Run) -> float | None:
    """Crops that a run has seen, as a part of its own paper's; None if one is not known."""
    paper, seen = of_model(run.model), samples(run)
    whole = paper.training_of(run.recipe).samples if paper else None
    return None if seen is None or whole is None else seen / whole


def percent(part: float) -> str:
    """A share as a reader would write it: 100 %, 2.5 %, 0.0031 %."""
    return f"{100 * part:.2g} %" if part < 0.995 else f"{100 * part:.0f} %"


def fits(config: Mapping[str, Any], runs: RunsOf, switches: Mapping[str, Any]) -> bool:
    """Whether a configuration has the values that ``runs`` asks for, and else those of ``switches``.

    Keys of a section that the configuration does not have, as that of a counted network has no recipe, are not asked.
    """
    wanted = {**switches, **runs.where}
    return all(value_at(config, path) == value for path, value in wanted.items() if path.split(".")[0] in config)


@dataclass
class Evidence:
    """The user's results as one table or figure of a paper sees them; it remembers what must be said below.

    Attributes:
        paper: the paper.
        gather: everything on a set of pictures, by name of the set.
        used: runs that numbers were taken from, by directory; None if no run was looked for.
        said: remarks for the reader, in the order in which they came up.
    """

    paper: Paper
    gather: Gather
    used: dict[Path, Run] | None = None
    said: list[str] = field(default_factory=list)

    def on(self, set_name: str) -> Selection:
        """What there is on a set."""
        return Selection(self.paper, self.gather(set_name), self)

    def say(self, text: str) -> None:
        """Tell the reader, once."""
        if text not in self.said:
            self.said.append(text)

    def use(self, runs: Iterable[Run]) -> None:
        """Note that numbers were taken from these, which may be none."""
        self.used = {**(self.used or {}), **{run.path: run for run in runs}}

    def note(self, first: str) -> str:
        """All that stands below the element."""
        runs = "" if self.used is None else told(list(self.used.values()))
        return " ".join(filter(None, (first.strip(), runs, *self.said)))


@dataclass(frozen=True)
class Selection:
    """Which curves and runs on one set of pictures are a paper's codecs."""

    paper: Paper
    data: OnSet
    evidence: Evidence

    def codec(self, key: str) -> CodecFacts:
        """The codec of this key."""
        return self.paper.codecs[key]

    def runs(self, key: str) -> list[Run]:
        """The runs of a codec with the paper's pictures, lambda rising, one for each; none if nothing was run."""
        fitting = self._fitting(key, self.data.runs)
        family = one_family([run for run in fitting if self._of_the_papers_pictures(run)], self.codec(key).prefer)
        self.evidence.use(family)
        return family

    def trained(self, key: str, lmbda: float) -> Run | None:
        """The run of a codec at a lambda, evaluated or not."""
        family = one_family(self._fitting(key, self.data.finished), self.codec(key).prefer)
        found = next((run for run in family if same_lambda(run.lmbda, lmbda)), None)
        self.evidence.use([found] if found else [])
        return found

    def measured(self, key: str) -> Curve | None:
        """The curve that was measured here: of the codec's runs, else of the classical codec that stands for it."""
        anchors = (curve for curve in self.data.anchors if curve.key == self.codec(key).anchor)
        return self.trained_curve(key) or next(anchors, None)

    def trained_curve(self, key: str) -> Curve | None:
        """The curve of a codec's runs."""
        runs = self.runs(key)
        return replace(curve_of(runs, self.data.set), key=key, name=self.codec(key).name) if runs else None

    def cited(self, key: str) -> Curve | None:
        """The codec's published curve on this set."""
        return next((curve for curve in self.data.cited if curve.key == self.codec(key).cited), None)

    def is_codec(self, key: str, model: str, config: Mapping[str, Any]) -> bool:
        """Whether a model with this configuration is the codec."""
        switches = self.paper.switches.get(model, {})
        return any(model == wanted.model and fits(config, wanted, switches) for wanted in self.codec(key).runs)

    def _fitting(self, key: str, runs: Iterable[Run]) -> list[Run]:
        distortion = self.codec(key).distortion
        return [run for run in runs if run.distortion == distortion and self.is_codec(key, run.model, run.config)]

    def _of_the_papers_pictures(self, run: Run) -> bool:
        got, expected = len(run.results[self.data.set].rows), self.paper.pictures.get(self.data.set)
        if expected is None or got == expected:
            return True
        self.evidence.say(f"Left out: results on {got} pictures of {self.data.set}, where the paper has {expected}.")
        return False


def one_family(runs: Iterable[Run], prefer: str = "") -> list[Run]:
    """Of runs of one codec those that belong together, lambda rising and one for each.

    First come those of the name ``prefer``, then a model's own recipes (whose names begin with the model's:
    ``gcab_gmm_finetune``), then more lambdas before fewer, then runs without a name.
    """
    families: dict[tuple[str, str, str], dict[float, Run]] = {}
    for run in sorted(runs, key=lambda run: (run.lmbda, -run.step, run.where)):
        families.setdefault(_family(run), {}).setdefault(run.lmbda, run)

    def rank(family: tuple[str, str, str]) -> tuple[Any, ...]:
        _, recipe, name = family
        return bool(prefer) and name != prefer, recipe != "", -len(families[family]), name != "", family

    return list(families[min(families, key=rank)].values()) if families else []


def _family(run: Run) -> tuple[str, str, str]:
    return run.model, "" if run.recipe.startswith(run.model) else run.recipe, run.name or ""


def curve_of(runs: Sequence[Run], set_name: str) -> Curve:
    """Runs of one model as one curve over lambda."""
    points = tuple(run.results[set_name].point(f"λ {run.lmbda:g}") for run in runs)
    pictures = runs[0].results[set_name].image_list_sha256
    about = {"runs": [run.where for run in runs]}
    return Curve(runs[0].model, runs[0].model, "model", set_name, points, pictures, about)


def told(runs: Sequence[Run]) -> str:
    """One sentence on the runs behind measured numbers: how many, how long, and on which network."""
    if not runs:
        return "No run here is one of these codecs."
    shares = [part for run in runs if (part := share(run)) is not None]
    trained = f", trained on {_range(shares)} of the crops of their papers" if shares else ""
    widths = "; ".join(sorted({f"{run.model}: {text}" for run in runs for text in other_widths(run)}))
    network = f"; not the papers' networks ({widths})" if widths else ""
    return f"Here: {len(runs)} run{'s' if len(runs) > 1 else ''}{trained}{network}."


def other_widths(run: Run) -> list[str]:
    """Where a run's network is not its paper's: "N 32 instead of 128"."""
    paper = of_model(run.model)
    wanted = paper.network if paper else {}
    found = {key: value_at(run.config, f"model.{key}") for key in wanted}
    return [f"{key} {printable(found[key])} instead of {value}" for key, value in wanted.items() if found[key] != value]


def _range(shares: Sequence[float]) -> str:
    low, high = percent(min(shares)), percent(max(shares))
    return low if low == high else f"{low} to {high}"
