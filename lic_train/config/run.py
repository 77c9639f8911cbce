"""From the command line to a checked configuration: Hydra composes, pydantic says what the values mean.

Every wrong value is reported at once, with the path of its key; unknown names come with the nearest known ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from lic_train.errors import ConfigError
from lic_train.evaluate.sets import SetOptions
from lic_train.models.base import find_model
from lic_train.overrides import SWEEP_SECTIONS, check_mode, check_names, composed, for_every_job, is_sweep
from lic_train.recipes.recipe import Recipe
from lic_train.resolvers import LADDERS, register_resolvers


def prepare(arguments: Sequence[str]) -> list[str]:
    """What must happen before Hydra reads the command line: resolvers, and names that it would refuse less helpfully.

    Returns:
        The command line for Hydra.

    Raises:
        ConfigError: an override names an unknown option or key, or belongs to a sweep only.
    """
    register_resolvers()
    check_mode(arguments)
    check_names(arguments)
    return for_every_job(arguments) if is_sweep(arguments) else list(arguments)


class Section(BaseModel):
    """A part of the configuration in which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


SectionKind = TypeVar("SectionKind", bound=Section)


class OptimizerSection(Section):
    """Of the quantiles and of the clip; Adam has its default betas."""

    aux_lr: PositiveFloat
    clip_norm: NonNegativeFloat


class StageSection(Section):
    """One stage of a recipe, see `lic_train.recipes.stage`."""

    name: str
    share: float | str
    lr: PositiveFloat
    loss: dict[str, float] | None = None
    quantizer: str | None = None


class RecipeSection(Section):
    """A paper's training as it stands in conf/recipe."""

    steps: PositiveInt
    batch_size: PositiveInt
    crop: PositiveInt
    optimizer: OptimizerSection
    ladder: dict[Literal["mse", "ms_ssim"], list[PositiveFloat]]
    quantizer: str | None = None  # of the stages that name none
    stages: Annotated[list[StageSection], Field(min_length=1)]


class CheckpointSection(Section):
    """When the run is saved."""

    every: PositiveInt
    keep: PositiveInt


class ValidateSection(Section):
    """When the run is validated, and on how many whole images."""

    every: PositiveInt
    crops: PositiveInt
    bitstreams: NonNegativeInt


class TrainerSection(Section):
    """What Lightning runs on."""

    accelerator: str
    devices: PositiveInt
    num_nodes: PositiveInt
    log_every: PositiveInt


class RunConfig(Section):
    """A whole run, checked."""

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
    init_from: str | None
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None
    group: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None
    fresh: bool
    output: str

    @model_validator(mode="before")
    @classmethod
    def _numbers_may_name_things(cls, values: dict[str, Any]) -> dict[str, Any]:
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
        expected = f"one of {', '.join(choices)}" if choices else f"none, for {self.model_name} has its own alone"
        return [f"recipe: quantizer: expected {expected}, got {name!r}" for name in sorted(unknown)]

    @property
    def model_name(self) -> str:
        """The file of the model."""
        return str(self.model["_target_"]).rsplit(".", 2)[-2]

    @property
    def data_name(self) -> str:
        """The function that gives the photographs."""
        return str(self.data["source"]["_target_"]).rpartition(".")[2]

    def plain(self) -> dict[str, Any]:
        """Plain containers under the names of the YAML files: what is stored and compared."""
        return self.model_dump(by_alias=True, mode="json")

    def make_recipe(self) -> Recipe:
        """The recipe, rescaled to this run's steps."""
        return Recipe(self._stages(), self.steps, self.lmbda, self.distortion, self.recipe.optimizer.model_dump())

    def _stages(self) -> list[dict[str, Any]]:
        """The recipe's stages with what holds for all of them."""
        # A recipe serves other models too: those without a choice quantise in their own way.
        everywhere = {"quantizer": self.recipe.quantizer} if find_model(self.model).quantizers else {}
        return [
            everywhere | stage.model_dump(exclude_none=True) | {"lr": stage.lr * self.lr_scale}
            for stage in self.recipe.stages
        ]


def checked(cfg: DictConfig) -> RunConfig:
    """Give a composed configuration its meaning.

    Raises:
        ConfigError: listing every wrong value with its key's path.
    """
    check_rate(cfg)
    return validated(RunConfig, OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in SWEEP_SECTIONS]))


def validated(kind: type[SectionKind], cfg: DictConfig) -> SectionKind:
    """A section of the given kind, its values checked.

    Raises:
        ConfigError: listing every wrong value with its key's path.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    try:
        return kind.model_validate({str(key): value for key, value in values.items()})
    except ValidationError as error:
        lines = [_sentence(entry) for entry in error.errors()]
        raise ConfigError("the configuration is not valid:\n  " + "\n  ".join(lines)) from None


def read_section(kind: type[SectionKind], overrides: Sequence[str], config_name: str) -> SectionKind:
    """What a command's overrides of conf/<config_name>.yaml, which has a lambda and a distortion, mean together.

    Raises:
        ConfigError: an unknown name, with the nearest known ones, or a value without meaning.
    """
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"expected KEY=VALUE, got {override!r}; for example model=cwam lambda=0.0067")
        if re.match("model=.*,", override):
            raise ConfigError(f"model: expected one, got {override.removeprefix('model=')!r}; do one after the other")
    try:
        cfg = compose(overrides, config_name)
        check_rate(cfg)
        return validated(kind, cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"cannot compose the configuration: {error}") from error


def check_rate(cfg: DictConfig) -> None:
    """Check lambda and distortion, which come first: other values are computed from them.

    Raises:
        ConfigError: one of them has no meaning.
    """
    lmbda, distortion = cfg["lambda"], cfg.distortion
    problems = []
    if isinstance(lmbda, bool) or not isinstance(lmbda, int | float) or not 0 < lmbda < math.inf:
        problems.append(f"lambda: expected a number above 0, got {lmbda!r}")
    if distortion not in LADDERS:
        problems.append(f"distortion: expected one of {', '.join(LADDERS)}, got {distortion!r}")
    if problems:
        raise ConfigError("the configuration is not valid:\n  " + "\n  ".join(problems))


def _sentence(entry: Any) -> str:
    path = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        return f"{path}: no such key"
    message = str(entry["msg"]).removeprefix("Value error, ")
    if not path:
        return message
    return f"{path}: {message[0].lower()}{message[1:]}, got {entry['input']!r}"


def compose(overrides: Sequence[str], config_name: str = "config") -> DictConfig:
    """Compose as train.py does, outside of Hydra's main; for tests and for other commands.

    Raises:
        ConfigError: an override names an unknown option or key.
    """
    register_resolvers()
    check_names(overrides, config_name)
    cfg = composed(config_name, overrides, with_hydra=True)
    HydraConfig.instance().set_config(cfg)
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return cfg
