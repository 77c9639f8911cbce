"""Facts of a paper, read from ``<name>.yaml`` in this folder: training, deviations, tables and figures.

Unknown keys are errors. The fields of the file, optional unless marked as required:

``cite`` (required)
    Authors, title, venue, year.
``source``
    Where the numbers were taken from, and which ones are not available.
``models`` (required)
    Names of the paper's models, as in ``conf/model``.
``training`` (required)
    The published training by recipe name; ``default`` applies to all other recipes. Fields: ``steps``, ``batch_size``,
    ``crop`` (pixels), ``data`` (text), ``note`` (text). Leave a field out if the paper does not state it.
``network``
    Published values of the model's configuration, ``{N: 128}``. Cards and notes name runs with other values.
``deviations``
    List of differences between our recipe and the paper's training: ``what``, ``paper``, ``here``, ``why``. Differences
    of the network belong in the docstring of the model's module.
``pictures``
    Number of pictures of each set in the paper, ``{kodak: 24}``. Results on another number are not compared.
``switches``
    By model: dotted configuration keys and the values that a run must have unless ``runs.where`` of a codec sets
    another value.
``codecs``
    The codecs of tables and figures by key. Fields: ``name`` (in tables and legends, required); ``runs`` (list of
    ``{model: ..., where: {dotted key: value}}``, a run is the codec if it matches one of them, and null matches an
    absent key); ``prefer`` (name of the runs to use if several sets of runs match, usually those of a sweep; default:
    runs without a name); ``distortion`` (``mse`` or ``ms_ssim``, default ``mse``); ``anchor`` (key of the classical
    codec that represents it, as in ``lic_train/anchors``); ``cited`` (key of its published curve, as in
    ``lic_train/report/cited``).
``sections``
    List of ``{title: ..., elements: [...]}``. Every element has ``kind``, ``key`` (unique, used in file names),
    ``title`` and optionally ``note``; all kinds but ``table`` have ``set`` (picture set, default ``kodak``).

    ``kind: table``
        ``head`` (heading of the first column, default "Codec"), ``columns`` and ``rows``. A column has ``head``,
        ``measure`` (a function of `lic_train.report.papers.measures`), ``set``, ``metric`` (``psnr`` or
        ``ms_ssim_db``), ``over`` (codecs that a BD figure is computed over; the first with a curve is used),
        ``divisor`` (of the measured number, 1e6 for millions) and ``digits``. A row has ``codec``, ``paper`` (the
        published numbers in the order of the columns; trailing ones may be missing, null is a blank), ``name``
        (instead of the codec's), ``lambda`` (for columns about one run) and ``bpp`` (for columns at a given rate).
    ``kind: curves``
        Quality over rate: ``metric`` and ``codecs``.
    ``kind: training``
        A logged quantity over the steps: ``log`` (a column of metrics.csv, default ``train/loss``), ``lambda``
        (required) and ``codecs``.
    ``kind: points``
        The measured points of one ``codec`` against its published ones, at equal lambda.
    ``kind: crops``
        Crops of one photograph: ``image`` (name of the picture), ``crop`` (left, top, width, height) and ``codecs``.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from lic_train.report.elements import Crop
from lic_train.runs.metric_names import TRAIN_LOSS

HERE = Path(__file__).parent
MetricName = Literal["psnr", "ms_ssim_db"]


class Fact(BaseModel):
    """A part of a paper's file; unknown keys are errors. The module docstring defines all fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(Fact):
    """The published training; None where the paper does not state a value."""

    steps: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    crop: PositiveInt | None = None
    data: str | None = None
    note: str = ""

    @property
    def samples(self) -> int | None:
        """Number of crops of the whole training."""
        return self.steps * self.batch_size if self.steps and self.batch_size else None


class Deviation(Fact):
    """A difference between our training and the paper's."""

    what: str
    paper: str
    here: str
    why: str


class RunsOf(Fact):
    """Runs of a model whose configuration has the values of ``where``, by dotted key; None matches an absent key."""

    model: str
    where: dict[str, Any] = {}


class CodecFacts(Fact):
    """One codec of the paper's tables and figures."""

    name: str
    runs: tuple[RunsOf, ...] = ()
    prefer: str = ""
    distortion: Literal["mse", "ms_ssim"] = "mse"
    anchor: str | None = None
    cited: str | None = None


class Column(Fact):
    """One quantity of a table, shown as three columns: the paper's number, the measured one, the difference."""

    head: str
    measure: str
    set: str = "kodak"
    metric: MetricName = "psnr"
    over: tuple[str, ...] = ()
    divisor: PositiveFloat = 1
    digits: int = 2


class Row(Fact):
    """One row of a table."""

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
    def _every_number_has_a_column(self) -> TableFacts:
        for row in self.rows:
            if len(row.paper) > len(self.columns):
                raise ValueError(f"{self.key}, {row.codec}: {len(row.paper)} numbers for {len(self.columns)} columns")
        return self

    def papers(self, row: Row) -> tuple[float | None, ...]:
        """Return the paper's number in ``row`` for every column."""
        return row.paper + (None,) * (len(self.columns) - len(row.paper))


class CurvesFacts(Fact):
    """A figure of quality over rate: the measured and the published curve of each codec."""

    kind: Literal["curves"]
    key: str
    title: str
    set: str = "kodak"
    metric: MetricName = "psnr"
    codecs: tuple[str, ...]
    note: str = ""


class TrainingFacts(Fact):
    """A figure of a logged quantity over the steps of every codec's run at one lambda, evaluated or not."""

    kind: Literal["training"]
    key: str
    title: str
    set: str = "kodak"
    log: str = TRAIN_LOSS
    lmbda: Annotated[PositiveFloat, Field(alias="lambda")]
    codecs: tuple[str, ...]
    note: str = ""


class PointsFacts(Fact):
    """A table of a codec's measured points against its published ones, at equal lambda."""

    kind: Literal["points"]
    key: str
    title: str
    set: str = "kodak"
    codec: str
    note: str = ""


class CropsFacts(Fact):
    """Crops of one photograph side by side."""

    kind: Literal["crops"]
    key: str
    title: str
    set: str = "kodak"
    image: str
    crop: Crop
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
    """The facts of one paper. A paper without ``sections`` is used for reproduction cards only."""

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
        """Return the published training that ``recipe`` reproduces."""
        return self.training.get(recipe, self.training["default"])


@functools.cache
def load(name: str) -> Paper:
    """Return the facts of ``<name>.yaml``; `stored` lists the names."""
    return Paper.model_validate(yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8")))


def stored() -> list[str]:
    """Return the names of all papers' files."""
    return sorted(path.stem for path in HERE.glob("*.yaml"))


def of_model(model: str) -> Paper | None:
    """Return the paper of a model, or None if it has no file."""
    return next((paper for paper in map(load, stored()) if model in paper.models), None)
