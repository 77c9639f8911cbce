"""Collect everything that a report shows: runs as curves, anchors, cited curves, complexity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from lic_train.anchors.stored import HERE as ANCHORS
from lic_train.complexity.results import Complexity
from lic_train.errors import DataError
from lic_train.rd import curves
from lic_train.rd.curves import Curve, Kind
from lic_train.rd.style import METRIC_NAMES, METRIC_OF
from lic_train.report.cited import HERE as STORED_CITED
from lic_train.report.runs import LeftOut, Run, one_line
from lic_train.system.reading import Unreadable, mistakes, printable, read_json, slug

PREFERRED_SET = "kodak"
CITED = "cited"  # folder below outputs/ with the curves of the user's own tables


@dataclass(frozen=True)
class Gathered:
    """Everything that was evaluated on one set of pictures.

    Attributes:
        outputs: the tree of run directories.
        set: name of the picture set, "kodak".
        image_list_sha256: image list of every curve here that has one; None without runs and anchors.
        curves: models trained here, one curve over lambda for each (model, recipe, distortion, name).
        members: the runs of each curve by its key, sorted by lambda; all have a result on ``set``.
        anchors: classical codecs on the same pictures.
        cited: published curves, on the pictures that their sources name.
        added: keys of the cited curves from the user's own tables, which figures always show.
        complexity: parameters, multiply-adds and times by name of the model.
        finished: all finished runs, including those that are in no curve.
        left_out: what is not in the report, with the reason.
    """

    outputs: Path
    set: str
    image_list_sha256: str | None = None
    curves: tuple[Curve, ...] = ()
    members: Mapping[str, tuple[Run, ...]] = field(default_factory=dict)
    anchors: tuple[Curve, ...] = ()
    cited: tuple[Curve, ...] = ()
    added: frozenset[str] = frozenset()
    complexity: Mapping[str, Complexity] = field(default_factory=dict)
    finished: tuple[Run, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of all curves, in the order of the curves."""
        return tuple(run for curve in self.curves for run in self.members[curve.key])

    @property
    def all_curves(self) -> tuple[Curve, ...]:
        """Models, anchors and cited curves."""
        return (*self.curves, *self.anchors, *self.cited)

    def curve(self, key: str) -> Curve:
        """Return the curve with this key, of any kind.

        Raises:
            DataError: there is no such curve.
        """
        for curve in self.all_curves:
            if curve.key == key:
                return curve
        raise DataError(
            f"There is no curve {printable(key)} on {self.set}.",
            expected=f"one of {', '.join(curve.key for curve in self.all_curves)}" if self.all_curves else "a curve",
            got=printable(key) if self.all_curves else "a report without curves",
        )


def gather(
    outputs: Path,
    runs: Sequence[Run],
    left_out: Sequence[LeftOut],
    set_name: str | None = None,
    package: Path | None = None,
) -> Gathered:
    """Combine the runs of `lic_train.report.runs.read_runs` with the stored curves.

    Args:
        outputs: the tree of run directories; ``complexity/<model>.json``, ``anchors/<set>/`` and ``cited/<set>/`` are
            read below it.
        runs: finished runs.
        left_out: what is left out already.
        set_name: name of the picture set; None chooses Kodak, or else the set of most evaluations.
        package: folder with stored ``anchors/<set>/`` and ``cited/<set>/``; None uses the curves of lic_train.
    """
    set_name = set_name or _common_set(runs)
    refused = list(left_out)
    stored = (package / "anchors", package / "cited") if package else (ANCHORS, STORED_CITED)
    folders = [stored[0] / set_name, outputs / "anchors" / set_name]  # a curve below outputs/ replaces a stored one
    anchors = list({c.key: c for folder in folders for c in _curves_in(folder, "anchor", refused)}.values())
    added = _curves_in(outputs / CITED / set_name, "cited", refused)
    cited = {curve.key: curve for curve in (*_curves_in(stored[1] / set_name, "cited", refused), *added)}
    evaluated = _evaluated(runs, set_name, refused)
    pictures = _common_list(evaluated, anchors, set_name)
    anchors = [curve for curve in anchors if _of_list(curve, pictures, refused)]
    members = _members(_same_list(evaluated, pictures, set_name, refused), refused)
    several = _with_several_recipes(members.values())
    return Gathered(
        outputs=outputs,
        set=set_name,
        image_list_sha256=pictures,
        curves=tuple(_curve(key, group, set_name, group[0].model in several) for key, group in members.items()),
        members=members,
        anchors=tuple(anchors),
        cited=tuple(cited.values()),
        added=frozenset(curve.key for curve in added),
        complexity=_complexity(outputs / "complexity", refused),
        finished=tuple(runs),
        left_out=tuple(dict.fromkeys(refused)),  # levels of one run have the same reason
    )


def _common_set(runs: Iterable[Run]) -> str:
    counted = Counter(name for run in runs for name in run.results)
    return PREFERRED_SET if PREFERRED_SET in counted or not counted else counted.most_common(1)[0][0]


def _curves_in(folder: Path, kind: Kind, refused: list[LeftOut]) -> list[Curve]:
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            curve = curves.load(path)
            if curve.kind != kind:
                raise DataError(f"{path.name} is a curve of another kind.", expected=kind, got=curve.kind)
        except DataError as error:
            refused.append(LeftOut(f"{kind} {path.stem}", one_line(error)))
        else:
            found.append(curve)
    return found


def _evaluated(runs: Iterable[Run], set_name: str, refused: list[LeftOut]) -> list[Run]:
    listed = {item.what for item in refused}  # the reason of a damaged result is listed already
    for run in runs:
        if set_name not in run.results and run.where not in listed:
            command = f"lic evaluate {printable(run.file or run.path)} eval={set_name}"
            refused.append(LeftOut(run.where, f"not evaluated on {set_name}; to do: {command}"))
    return [run for run in runs if set_name in run.results]


def _common_list(runs: Sequence[Run], anchors: Sequence[Curve], set_name: str) -> str | None:
    """Return the anchors' image list if a run has it or there are no runs, and otherwise that of most runs."""
    counted = Counter(run.results[set_name].image_list_sha256 for run in runs)
    lists = [curve.image_list_sha256 for curve in anchors if curve.image_list_sha256 is not None]
    for image_list in lists:
        if image_list in counted or not counted:
            return image_list
    return counted.most_common(1)[0][0] if counted else None


def _of_list(anchor: Curve, pictures: str | None, refused: list[LeftOut]) -> bool:
    if same := anchor.image_list_sha256 == pictures:
        return same
    count = max((len(point.images) for point in anchor.points), default=0)
    refused.append(LeftOut(f"anchor {anchor.key}", _other_list(count, anchor.image_list_sha256, pictures)))
    return False


def _same_list(runs: Iterable[Run], pictures: str | None, set_name: str, refused: list[LeftOut]) -> list[Run]:
    same = []
    for run in runs:
        result = run.results[set_name]
        if result.image_list_sha256 == pictures:
            same.append(run)
        else:
            refused.append(LeftOut(run.where, _other_list(len(result.rows), result.image_list_sha256, pictures)))
    return same


def _other_list(count: int, got: str | None, expected: str | None) -> str:
    short = [str(digest)[:8] for digest in (expected, got)]
    return (
        f"other pictures than in this report; expected: image list {short[0]}; got: {count} pictures, list {short[1]}"
    )


def _members(runs: Iterable[Run], refused: list[LeftOut]) -> dict[str, tuple[Run, ...]]:
    """Return the runs of each curve by its key, one for each lambda, sorted by lambda."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.family, []).append(run)
    members: dict[str, tuple[Run, ...]] = {}
    for group in groups.values():
        members[_key(group[0], members)] = _one_for_each_lambda(group, refused)
    return members


def _key(run: Run, taken: Iterable[str]) -> str:
    """Return an unused key: the model and all that differs from its own recipe, MSE and no name.

    Examples: ``cwam``, ``cwam_common_ms_ssim_wide``.
    """
    parts = [run.model, run.recipe if run.recipe != run.model else "", _other_distortion(run), run.name or ""]
    key = "_".join(slug(part) for part in parts if part)
    numbered = (key if number == 1 else f"{key}_{number}" for number in range(1, 10**6))
    return next(candidate for candidate in numbered if candidate not in taken)


def _other_distortion(run: Run) -> str:
    return "" if run.distortion == "mse" else run.distortion


def _one_for_each_lambda(group: Iterable[Run], refused: list[LeftOut]) -> tuple[Run, ...]:
    """Keep the run with the most steps at each lambda, and among equals the first by path."""
    chosen: dict[float, Run] = {}
    for run in sorted(group, key=lambda run: run.order):
        if (kept := chosen.setdefault(run.lmbda, run)) is not run:
            fewer = run.step is not None and kept.step is not None and run.step < kept.step
            why = f"{run.step} steps" if fewer else f"as many steps ({run.step}), later by name"
            why = "later by name" if run.is_imported else why
            refused.append(LeftOut(run.where, f"the same lambda {run.lmbda:g} as {kept.where}; {why}"))
    return tuple(chosen.values())


def _with_several_recipes(groups: Iterable[Sequence[Run]]) -> set[str]:
    """Return the models with curves of several recipes, whose names must contain the recipe."""
    recipes = {(runs[0].model, runs[0].recipe) for runs in groups}
    return {model for model, count in Counter(model for model, _ in recipes).items() if count > 1}


def _curve(key: str, runs: Sequence[Run], set_name: str, with_recipe: bool) -> Curve:
    first = runs[0]
    named = [first.model]
    if first.is_imported:
        named.append("authors' weights")
    elif with_recipe and first.recipe != first.model:
        named.append(f"recipe {first.recipe}")
    named += [METRIC_NAMES[METRIC_OF[first.distortion]]] if first.distortion != "mse" else []
    named += [first.name] if first.name else []
    named += sorted({protocol.described for run in runs if not (protocol := run.results[set_name].protocol).is_house})
    about = {"model": first.model, "recipe": first.recipe, "distortion": first.distortion, "name": first.name}
    return curve_of(runs, set_name, key, ", ".join(named), {**about, "steps": [run.step for run in runs]})


def curve_of(
    runs: Sequence[Run], set_name: str, key: str, name: str, about: Mapping[str, object] | None = None
) -> Curve:
    """Return runs of one family as a curve over lambda.

    Args:
        runs: at least one run, each with a result on ``set_name``.
        set_name: name of the picture set.
        key: key of the curve.
        name: name of the curve in legends.
        about: entries of ``Curve.about``, to which ``runs`` is added.
    """
    return Curve(
        key=key,
        name=name,
        kind="model",
        set=set_name,
        points=tuple(run.results[set_name].point(run.parameter) for run in runs),
        image_list_sha256=runs[0].results[set_name].image_list_sha256,
        about={**(about or {}), "runs": [run.where for run in runs]},
    )


def _complexity(folder: Path, refused: list[LeftOut]) -> dict[str, Complexity]:
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = Complexity.model_validate(read_json(path))
        except Unreadable as error:
            refused.append(LeftOut(f"complexity/{printable(path.name)}", str(error)))
        except ValidationError as error:
            refused.append(LeftOut(f"complexity/{printable(path.name)}", mistakes(error)))
    return found
