"""The configuration of a run: every section of conf/config.yaml as a pydantic model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lic_train.config.compose import Section, validated
from lic_train.config.names import SWEEP_SECTIONS
from lic_train.config.networks import check_arguments, num_parameters
from lic_train.layers.gains import Ladder
from lic_train.models.base import LAMBDAS, find_model
from lic_train.recipes.losses import TERMS
from lic_train.recipes.recipe import Recipe
from lic_train.recipes.stage import lay_out
from lic_train.system.machine import memory_bytes

_BYTES_PER_WEIGHT = 4
_MAX_INTEGER = 2**53  # the largest count that every tool which reads a log keeps exact
HELDOUT = "heldout"  # the only set without a folder: the run's validation pictures
Count = Annotated[int, Field(gt=0, le=_MAX_INTEGER)]


class OptimizerSection(Section):
    """Learning rate of the quantiles, and gradient clip; Adam has its default betas."""

    aux_lr: PositiveFloat
    clip_norm: NonNegativeFloat


class StageSection(Section):
    """One stage of a recipe; see `lic_train.recipes.stage`."""

    name: str
    share: Annotated[float, Field(gt=0)] | Annotated[str, Field(pattern=r"^\d+/[1-9]\d*$")]
    lr: PositiveFloat
    loss: dict[Literal[("distortion", *TERMS)], float] | None = None  # type: ignore[valid-type]
    quantizer: str | None = None


class RecipeSection(Section):
    """The training of a paper, as in conf/recipe."""

    steps: PositiveInt
    batch_size: PositiveInt
    crop: PositiveInt
    flip: bool = True
    downscale: tuple[float, float] | None = None
    optimizer: OptimizerSection
    ladder: dict[Literal["mse", "ms_ssim"], list[PositiveFloat]]
    quantizer: str | None = None  # default of the stages
    initial_weights: Literal["random", "klt"] = "random"
    stages: Annotated[list[StageSection], Field(min_length=1)]


class RateSection(Section):
    """A fixed rate, which the run's lambda selects, or the lambdas of a variable rate, in increasing order."""

    kind: Literal["fixed", "variable"]
    lambdas: list[PositiveFloat] | None

    @field_validator("lambdas")
    @classmethod
    def _increasing(cls, lambdas: list[float] | None, others: ValidationInfo) -> list[float] | None:
        if others.data.get("kind") == "fixed":
            if lambdas is not None:
                raise ValueError(f"expected none, because the run has one rate, got {lambdas}; add rate=variable")
            return None
        try:
            Ladder(lambdas or [])
        except ValueError as error:
            raise ValueError(str(error).removeprefix("lambdas: ")) from None
        return lambdas


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

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: PositiveInt | Literal["auto"]
    num_nodes: PositiveInt
    log_every: PositiveInt

    @property
    def num_devices(self) -> int:
        """Devices of each machine, one process each; "auto" is all GPUs that this process can use, or 1."""
        if self.devices != "auto":
            return self.devices
        return 1 if self.accelerator in ("cpu", "mps") else max(torch.cuda.device_count(), 1)


class ChoiceSection(Section):
    """Names of the files in conf/model and conf/recipe that the run was composed from."""

    model: str
    recipe: str


class SetOptions(Section):
    """A set of pictures: its name in file names, its folder or folders, and the number of pictures (None: all)."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$", max_length=64)]
    root: str | list[str] | None
    limit: PositiveInt | None


class KnownSet(SetOptions):
    """A set of pictures in folders, or the held-out photographs of a run."""

    @model_validator(mode="after")
    def _pictures_are_known(self) -> KnownSet:
        if self.root is None and self.name != HELDOUT:
            raise ValueError(
                f"expected the folder of the set {self.name}, got root=None; set eval.root=/path/to/images"
            )
        return self


class RunConfig(Section):
    """The validated configuration of a run."""

    model: dict[str, Any]
    recipe: RecipeSection
    rate: RateSection
    data: dict[str, Any]
    eval: KnownSet
    trainer: TrainerSection
    logger: dict[str, Any]
    lmbda: Annotated[PositiveFloat, Field(alias="lambda", allow_inf_nan=False)]
    distortion: Literal["mse", "ms_ssim"]
    seed: Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
    steps: Count
    accumulate: Count
    batch_size: Count
    crop: Count
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
    extend: bool
    output: str

    @model_validator(mode="before")
    @classmethod
    def _names_from_numbers(cls, values: dict[str, Any]) -> dict[str, Any]:
        # YAML reads precision=32 and name=2 as numbers.
        as_text = {key: str(values[key]) for key in ("precision", "name") if isinstance(values.get(key), int)}
        return {**values, **as_text}

    @field_validator("model")
    @classmethod
    def _network_exists(cls, model: dict[str, Any]) -> dict[str, Any]:
        check_arguments(model)
        weights = num_parameters(model)
        _fits_into_memory(f"{weights:,} weights", weights * _BYTES_PER_WEIGHT)
        return model

    @field_validator("lmbda")
    @classmethod
    def _selects_the_rate(cls, lmbda: float, others: ValidationInfo) -> float:
        rate = others.data.get("rate")
        if rate is not None and rate.lambdas and lmbda != max(rate.lambdas):
            raise ValueError(f"expected none, because the run has rate.lambdas={rate.lambdas}, got {lmbda:g}")
        return lmbda

    @field_validator("recipe")
    @classmethod
    def _stages_exist(cls, recipe: RecipeSection, others: ValidationInfo) -> RecipeSection:
        lay_out([stage.model_dump(exclude_none=True) for stage in recipe.stages], recipe.steps)
        if "model" in others.data:
            choices = find_model(others.data["model"]).quantizers
            default = {recipe.quantizer} if choices else set()  # a recipe can also train models without a choice
            unknown = {stage.quantizer for stage in recipe.stages} | default
            if unknown := unknown - {None, *choices}:
                expected = f"one of {', '.join(choices)}" if choices else "none, because the model has only one"
                raise ValueError(f"quantizer: expected {expected}, got {', '.join(sorted(map(str, unknown)))}")
        return recipe

    @field_validator("batch_size")
    @classmethod
    def _batch_can_be_divided(cls, batch_size: int, others: ValidationInfo) -> int:
        if {"accumulate", "trainer"} <= others.data.keys():
            trainer = others.data["trainer"]
            parts = others.data["accumulate"] * trainer.num_devices * trainer.num_nodes
            if batch_size % parts:
                raise ValueError(
                    f"expected a multiple of accumulate * devices * num_nodes = {parts}, got {batch_size}; "
                    f"use {batch_size // parts * parts or parts}"
                )
        return batch_size

    @field_validator("crop")
    @classmethod
    def _crop_fits(cls, crop: int, others: ValidationInfo) -> int:
        factor = find_model(others.data["model"]).downsampling_factor if "model" in others.data else 1
        if crop % factor:
            below = crop // factor * factor
            legal = " or ".join(str(side) for side in (below, below + factor) if side)
            raise ValueError(f"expected a multiple of the model's factor {factor}, got {crop}; use {legal}")
        if others.data.get("distortion") == "ms_ssim" and crop <= 160:
            raise ValueError(f"MS-SSIM needs sides above 160 pixels, got {crop}; use crop=192 or more")
        if {"batch_size", "accumulate", "trainer"} <= others.data.keys():
            size = others.data["batch_size"] // (others.data["accumulate"] * others.data["trainer"].num_devices)
            _fits_into_memory(f"{size} crops of {crop} x {crop}", 3 * crop**2 * size)
        return crop

    @property
    def network(self) -> dict[str, Any]:
        """Configuration of the codec: the model, and the lambdas of a variable rate; see `models.base.build`."""
        return {**self.model, LAMBDAS: self.rate.lambdas} if self.rate.lambdas else self.model

    @property
    def described_rate(self) -> str:
        """The lambda, or the range of lambdas."""
        lambdas = self.rate.lambdas
        return f"{lambdas[0]:g} to {lambdas[-1]:g}" if lambdas else f"{self.lmbda:g}"

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


def _fits_into_memory(what: str, size: int) -> None:
    if size > (available := memory_bytes()):
        raise ValueError(f"expected less than the {available / 2**30:,.0f} GiB of this machine, got {what}")


def checked(cfg: DictConfig) -> RunConfig:
    """Validate a composed configuration.

    Raises:
        ConfigError: listing every invalid value with the path of its key.
    """
    return validated(RunConfig, OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in SWEEP_SECTIONS]))
