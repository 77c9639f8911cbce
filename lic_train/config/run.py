"""The configuration of a run: every section of conf/config.yaml as a pydantic model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from lic_train.config.compose import Section, check_rate, validated
from lic_train.config.names import SWEEP_SECTIONS
from lic_train.models.base import find_model
from lic_train.recipes.recipe import Recipe


class OptimizerSection(Section):
    """Learning rate of the quantiles, and gradient clip; Adam has its default betas."""

    aux_lr: PositiveFloat
    clip_norm: NonNegativeFloat


class StageSection(Section):
    """One stage of a recipe; see `lic_train.recipes.stage`."""

    name: str
    share: float | str
    lr: PositiveFloat
    loss: dict[str, float] | None = None
    quantizer: str | None = None


class RecipeSection(Section):
    """The training of a paper, as in conf/recipe."""

    steps: PositiveInt
    batch_size: PositiveInt
    crop: PositiveInt
    flip: bool = True
    optimizer: OptimizerSection
    ladder: dict[Literal["mse", "ms_ssim"], list[PositiveFloat]]
    quantizer: str | None = None  # default of the stages
    stages: Annotated[list[StageSection], Field(min_length=1)]


class CheckpointSection(Section):
    """How often the run is saved, in steps, and how many checkpoints are kept."""

    every: PositiveInt
    keep: PositiveInt


class ValidateSection(Section):
    """How often the run is validated, in steps, and on how many crops and whole images."""

    every: PositiveInt
    crops: PositiveInt
    bitstreams: NonNegativeInt


class TrainerSection(Section):
    """Hardware that Lightning uses, and the interval of rows in metrics.csv."""

    accelerator: str
    devices: PositiveInt
    num_nodes: PositiveInt
    log_every: PositiveInt


class ChoiceSection(Section):
    """Names of the files in conf/model and conf/recipe that the run was composed from."""

    model: str
    recipe: str


class SetOptions(Section):
    """A set of pictures: its name in file names, its folder or folders, and the number of pictures (None: all)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]
    root: str | list[str] | None
    limit: PositiveInt | None


class RunConfig(Section):
    """The validated configuration of a run."""

    model: dict[str, Any]
    recipe: RecipeSection
    data: dict[str, Any]
    eval: SetOptions
    trainer: TrainerSection
    logger: dict[str, Any]
    lmbda: Annotated[PositiveFloat, Field(alias="lambda", allow_inf_nan=False)]
    distortion: Literal["mse", "ms_ssim"]
    seed: NonNegativeInt
    steps: PositiveInt
    batch_size: PositiveInt
    crop: PositiveInt
    accumulate: PositiveInt
    precision: Literal["auto", "32", "bf16-mixed"]
    lr_scale: PositiveFloat
    compile: bool
    channels_last: bool
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    checkpoint: CheckpointSection
    validate_: Annotated[ValidateSection, Field(alias="validate")]
    choice: ChoiceSection
    init_from: str | None
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None
    group: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None
    fresh: bool
    output: str

    @model_validator(mode="before")
    @classmethod
    def _names_from_numbers(cls, values: dict[str, Any]) -> dict[str, Any]:
        # YAML reads precision=32 and name=2 as numbers.
        as_text = {key: str(values[key]) for key in ("precision", "name") if isinstance(values.get(key), int)}
        return {**values, **as_text}

    @model_validator(mode="after")
    def _fits_the_model(self) -> RunConfig:
        problems = [*self._crop_problems(), *self._batch_problems(), *self._quantizer_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        self.make_recipe()
        return self

    def _crop_problems(self) -> list[str]:
        factor = find_model(self.model).downsampling_factor
        if self.crop % factor:
            below = self.crop // factor * factor
            legal = " or ".join(str(side) for side in (below, below + factor) if side)
            return [f"crop: expected a multiple of the model's factor {factor}, got {self.crop}; use {legal}"]
        if self.distortion == "ms_ssim" and self.crop <= 160:
            return [f"crop: MS-SSIM needs sides above 160 pixels, got {self.crop}; use crop=192 or more"]
        return []

    def _batch_problems(self) -> list[str]:
        parts = self.accumulate * self.trainer.devices * self.trainer.num_nodes
        if self.batch_size % parts == 0:
            return []
        return [
            f"batch_size: expected a multiple of accumulate * devices * num_nodes = {parts}, got {self.batch_size}; "
            f"use {self.batch_size // parts * parts or parts}"
        ]

    def _quantizer_problems(self) -> list[str]:
        choices = find_model(self.model).quantizers
        unknown = {stage["quantizer"] for stage in self._stages() if "quantizer" in stage} - set(choices)
        expected = f"one of {', '.join(choices)}" if choices else f"none, because {self.model_name} has only one"
        return [f"recipe: quantizer: expected {expected}, got {name!r}" for name in sorted(unknown)]

    @property
    def model_name(self) -> str:
        """Name of the module that defines the model."""
        return str(self.model["_target_"]).rsplit(".", 2)[-2]

    @property
    def data_name(self) -> str:
        """Name of the data source, the function in ``data.source._target_``."""
        return str(self.data["source"]["_target_"]).rpartition(".")[2]

    def plain(self) -> dict[str, Any]:
        """Return plain containers with the keys of the YAML files, as stored in the run directory."""
        return self.model_dump(by_alias=True, mode="json")

    def make_recipe(self) -> Recipe:
        """Return the recipe, rescaled to the steps of this run."""
        return Recipe(self._stages(), self.steps, self.lmbda, self.distortion, self.recipe.optimizer.model_dump())

    def _stages(self) -> list[dict[str, Any]]:
        """The stages of the recipe, with the default quantiser and the scaled learning rate."""
        # A recipe can train other models too; those without a choice of quantisers have a fixed one.
        everywhere = {"quantizer": self.recipe.quantizer} if find_model(self.model).quantizers else {}
        return [
            everywhere | stage.model_dump(exclude_none=True) | {"lr": stage.lr * self.lr_scale}
            for stage in self.recipe.stages
        ]


def checked(cfg: DictConfig) -> RunConfig:
    """Validate a composed configuration.

    Raises:
        ConfigError: listing every invalid value with the path of its key.
    """
    check_rate(cfg)
    return validated(RunConfig, OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in SWEEP_SECTIONS]))
