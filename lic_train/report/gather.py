"""Everything that a report is of, brought together: runs as curves, anchors, cited curves, complexity."""

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
from lic_train.report.cited import HERE as CITED
from lic_train.report.runs import LeftOut, Run
from lic_train.system.reading import Unreadable, mistakes, printable, read_json, slug

PREFERRED_SET = "kodak"


@dataclass(frozen=True)
class Gathered:
    """What the elements of a report are made from.

    Attributes:
        outputs: the tree that was read.
        set: the pictures: "kodak".
        image_list_sha256: of the pictures that all curves here are of; None if there is neither run nor anchor.
        curves: of models trained here, one for each (model, recipe, distortion, name), over lambda.
        members: by key of a curve its runs, lambda rising; all have a result on ``set``.
        anchors: classical codecs on the same pictures.
        cited: from papers; their pictures are as their sources say.
        complexity: by name of the model.
        finished: all finished runs, also those without a curve here.
        left_out: what is not in the report, and why.
    """

    outputs: Path
    set: str
    image_list_sha256: str | None = None
    curves: tuple[Curve, ...] = ()
    members: Mapping[str, tuple[Run, ...]] = field(default_factory=dict)
    anchors: tuple[Curve, ...] = ()
    cited: tuple[Curve, ...] = ()
    complexity: Mapping[str, Complexity] = field(default_factory=dict)
    finished: tuple[Run, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def runs(self) -> tuple[Run, ...]:
        """Those in the curves, curve after curve."""
        return tuple(run for curve in self.curves for run in self.members[curve.key])

    @property
    def all_curves(self) -> tuple[Curve, ...]:
        """Models, anchors, cited."""
        return (*self.curves, *self.anchors, *self.cited)

    def curve(self, key: str) -> Curve:
        """The curve of this key, of any kind.

        Raises:
            DataError: there is none.
        """
        for curve in self.all_curves:
            if curve.key == key:
                return curve
        keys = ", ".join(curve.key for curve in self.all_curves) or "none"
        raise DataError(f"expected one of the curves on {self.set}: {keys}; got {printable(key)}")


def gather(
    outputs: Path,
    runs: Sequence[Run],
    left_out: Sequence[LeftOut],
    set_name: str | None = None,
    package: Path | None = None,
) -> Gathered:
    """Bring together what `lic_train.report.runs.read_runs` found with the curves that are shipped.

    Args:
        outputs: where the runs lie; ``complexity/<model>.json`` and ``anchors/<set>/`` are read below it.
        runs: finished runs.
        left_out: what was already left out.
        set_name: the set of pictures; None takes Kodak, or else the one that most runs were evaluated on.
        package: folder with the stored ``anchors/<set>/`` and ``cited/<set>/``; None takes those of lic_train.
    """
    set_name = set_name or _common_set(runs)
    refused = list(left_out)
    stored = (package / "anchors", package / "cited") if package else (ANCHORS, CITED)
    folders = [stored[0] / set_name, outputs / "anchors" / set_name]  # one made here replaces a stored one
    anchors = list({c.key: c for folder in folders for c in _curves_in(folder, "anchor", refused)}.values())
    cited = _curves_in(stored[1] / set_name, "cited", refused)
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
        cited=tuple(cited),
        complexity=_complexity(outputs / "complexity", refused),
        finished=tuple(runs),
        left_out=tuple(refused),
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
                raise DataError(f"expected a curve of kind {kind} in {path.name}, got {curve.kind}")
        except DataError as error:
            refused.append(LeftOut(f"{kind} {path.stem}", str(error)))
        else:
            found.append(curve)
    return found


def _evaluated(runs: Iterable[Run], set_name: str, refused: list[LeftOut]) -> list[Run]:
    listed = {item.what for item in refused}  # a broken result has its reason already
    for run in runs:
        if set_name not in run.results and run.where not in listed:
            command = f"python -m lic_train.evaluate {printable(run.path)} eval={set_name}"
            refused.append(LeftOut(run.where, f"no result on {set_name}; this makes it: {command}"))
    return [run for run in runs if set_name in run.results]


def _common_list(runs: Sequence[Run], anchors: Sequence[Curve], set_name: str) -> str | None:
    """The anchors' pictures where a run was evaluated on them (or there is no run), else those of most runs."""
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
    short = [str(digest)[:8] for digest in (got, expected)]
    return f"coded other pictures than the report's: {count}, list {short[0]}, expected list {short[1]}; not comparable"


def _members(runs: Iterable[Run], refused: list[LeftOut]) -> dict[str, tuple[Run, ...]]:
    """Runs by key of their curve, one for each lambda, lambda rising."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.model, run.recipe, run.distortion, run.name or ""), []).append(run)
    members: dict[str, tuple[Run, ...]] = {}
    for group in groups.values():
        members[_key(group[0], members)] = _one_for_each_lambda(group, refused)
    return members


def _key(run: Run, taken: Iterable[str]) -> str:
    """``cwam``, with what differs from the model's own recipe, MSE and no name: ``cwam_common_ms_ssim_wide``."""
    parts = [run.model, run.recipe if run.recipe != run.model else "", _metric(run), run.name or ""]
    key = "_".join(slug(part) for part in parts if part)
    numbered = (key if number == 1 else f"{key}_{number}" for number in range(1, 10**6))
    return next(candidate for candidate in numbered if candidate not in taken)


def _metric(run: Run) -> str:
    return "" if run.distortion == "mse" else run.distortion


def _one_for_each_lambda(group: Iterable[Run], refused: list[LeftOut]) -> tuple[Run, ...]:
    """Of two runs at one lambda the one that trained more steps, and of these the first by path."""
    chosen: dict[float, Run] = {}
    for run in sorted(group, key=lambda run: (run.lmbda, -run.step, run.where)):
        if (kept := chosen.setdefault(run.lmbda, run)) is not run:
            why = f"{run.step} steps" if run.step < kept.step else f"as many steps ({run.step}), later by name"
            refused.append(LeftOut(run.where, f"the same lambda {run.lmbda:g} as {kept.where}; {why}"))
    return tuple(chosen.values())


def _with_several_recipes(groups: Iterable[Sequence[Run]]) -> set[str]:
    """The models whose curves have to be told apart by recipe."""
    recipes = {(runs[0].model, runs[0].recipe) for runs in groups}
    return {model for model, count in Counter(model for model, _ in recipes).items() if count > 1}


def _curve(key: str, runs: Sequence[Run], set_name: str, say_recipe: bool) -> Curve:
    first = runs[0]
    named = [first.model]
    named += [f"recipe {first.recipe}"] if say_recipe and first.recipe != first.model else []
    named += ["MS-SSIM"] if first.distortion == "ms_ssim" else []
    named += [first.name] if first.name else []
    return Curve(
        key=key,
        name=", ".join(named),
        kind="model",
        set=set_name,
        points=tuple(run.results[set_name].point(parameter(run)) for run in runs),
        image_list_sha256=first.results[set_name].image_list_sha256,
        about={
            "model": first.model,
            "recipe": first.recipe,
            "distortion": first.distortion,
            "name": first.name,
            "steps": [run.step for run in runs],
            "runs": [run.where for run in runs],
        },
    )


def parameter(run: Run) -> str:
    """What chose the rate, as a reader would say it."""
    return f"λ {run.lmbda:g}"


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
