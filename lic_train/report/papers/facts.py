"""A paper as data: ``<name>.yaml`` beside this file has its training, its tables and figures, and what we do otherwise.

A table or figure names *codecs*; a codec says which of the user's runs it is, which classical codec, which cited curve.
All that a cell of a table needs follows from its codec, its column and its row.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

HERE = Path(__file__).parent
MetricName = Literal["psnr", "ms_ssim_db"]


class Fact(BaseModel):
    """A part of a paper's file, in which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(Fact):
    """What the paper trains with; None where it does not say."""

    steps: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    crop: PositiveInt | None = None
    data: str | None = None
    note: str = ""

    @property
    def samples(self) -> int | None:
        """Crops seen in the whole training."""
        return self.steps * self.batch_size if self.steps and self.batch_size else None


class Deviation(Fact):
    """Where our training is not the paper's, and why; what differs in the network stands at the head of its module."""

    what: str
    paper: str
    here: str
    why: str


class RunsOf(Fact):
    """Runs of a model whose configuration has these values, by dotted key; None stands for an absent one."""

    model: str
    where: dict[str, Any] = {}


class CodecFacts(Fact):
    """One codec of the paper's tables and figures.

    Attributes:
        name: what a table or legend calls it.
        runs: which runs are it; a run is it if it fits one of these.
        prefer: name of the runs that come first where several sets of runs fit: those of a sweep, whose rows were
            trained alike; without it, runs without a name.
        distortion: what those were trained for.
        anchor: key of the classical codec measured here that stands for it.
        cited: key of the curve that others published.
    """

    name: str
    runs: tuple[RunsOf, ...] = ()
    prefer: str = ""
    distortion: Literal["mse", "ms_ssim"] = "mse"
    anchor: str | None = None
    cited: str | None = None


class Column(Fact):
    """One quantity of a table; it becomes three columns: the paper's, ours, and the difference.

    Attributes:
        measure: name of a function in `lic_train.report.papers.measures`.
        over: codecs that a BD figure is taken over; the first that has a curve counts.
        divisor: what the measured number is divided by, 1e6 for millions.
    """

    head: str
    measure: str
    set: str = "kodak"
    metric: MetricName = "psnr"
    over: tuple[str, ...] = ()
    divisor: PositiveFloat = 1
    digits: int = 2


class Row(Fact):
    """One row of a table.

    Attributes:
        codec: key of ``codecs``.
        paper: the paper's numbers, column after column; it has none of the last ones.
        name: instead of the codec's.
        lmbda: of the run, where the columns are of one rate.
        bpp: where the columns are at a given rate.
    """

    codec: str
    paper: tuple[float | None, ...] = ()
    name: str | None = None
    lmbda: Annotated[PositiveFloat | None, Field(alias="lambda")] = None
    bpp: PositiveFloat | None = None


class TableFacts(Fact):
    """A table of the paper."""

    kind: Literal["table"]
    key: str
    title: str
    head: str = "Codec"
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""

    @model_validator(mode="after")
    def _no_number_without_column(self) -> TableFacts:
        for row in self.rows:
            if len(row.paper) > len(self.columns):
                raise ValueError(f"{self.key}, {row.codec}: {len(row.paper)} numbers for {len(self.columns)} columns")
        return self

    def papers(self, row: Row) -> tuple[float | None, ...]:
        """The paper's number in ``row`` for every column."""
        return row.paper + (None,) * (len(self.columns) - len(row.paper))


class CurvesFacts(Fact):
    """A figure of quality over rate; of each codec what was measured here, and what was cited."""

    kind: Literal["curves"]
    key: str
    title: str
    set: str = "kodak"
    metric: MetricName = "psnr"
    codecs: tuple[str, ...]
    note: str = ""


class TrainingFacts(Fact):
    """A figure of a logged quantity over steps, of every codec's run at one lambda, evaluated on ``set`` or not."""

    kind: Literal["training"]
    key: str
    title: str
    set: str = "kodak"
    log: str = "train/loss"
    lmbda: Annotated[PositiveFloat, Field(alias="lambda")]
    codecs: tuple[str, ...]
    note: str = ""


class PointsFacts(Fact):
    """A table of our points against the codec's cited ones, at equal lambda."""

    kind: Literal["points"]
    key: str
    title: str
    set: str = "kodak"
    codec: str
    note: str = ""


class CropsFacts(Fact):
    """Crops of one photograph side by side; ``crop`` is (left, top, width, height) in pixels."""

    kind: Literal["crops"]
    key: str
    title: str
    set: str = "kodak"
    image: str
    crop: tuple[int, int, int, int]
    codecs: tuple[str, ...]
    note: str = ""


ElementFacts = Annotated[
    TableFacts | CurvesFacts | TrainingFacts | PointsFacts | CropsFacts, Field(discriminator="kind")
]


class SectionFacts(Fact):
    """A heading with elements below it."""

    title: str
    elements: tuple[ElementFacts, ...]


class Paper(Fact):
    """A paper.

    Attributes:
        cite: authors, year, title, where.
        source: where its numbers were taken from, and what could not be had.
        models: names of its models.
        training: by recipe; "default" for any other.
        network: its widths, by key of the model's configuration.
        deviations: of our recipes.
        pictures: how many a set has in the paper; results on another number are not compared.
        switches: by model, values by dotted key that a run must have where a codec does not say otherwise.
        codecs: by key.
        sections: its tables and figures; none of a paper that is only known for its training.
    """

    cite: str
    source: str = ""
    models: tuple[str, ...]
    training: dict[str, Training]
    network: dict[str, Any] = {}
    deviations: tuple[Deviation, ...] = ()
    pictures: dict[str, PositiveInt] = {}
    switches: dict[str, dict[str, Any]] = {}
    codecs: dict[str, CodecFacts] = {}
    sections: tuple[SectionFacts, ...] = ()

    def training_of(self, recipe: str) -> Training:
        """What the paper's training is that ``recipe`` stands for."""
        return self.training.get(recipe, self.training["default"])


@functools.cache
def load(name: str) -> Paper:
    """The facts of ``<name>.yaml``, which `stored` lists."""
    return Paper.model_validate(yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8")))


def stored() -> list[str]:
    """Names of all papers' files."""
    return sorted(path.stem for path in HERE.glob("*.yaml"))


def of_model(model: str) -> Paper | None:
    """The paper that a model is of, if its facts are here."""
    return next((paper for paper in map(load, stored()) if model in paper.models), None)
