"""Which pictures to evaluate on, from the command line's overrides to the pictures themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor

from lic_train.data.images import UnreadableImage, decode
from lic_train.data.sources import FolderSource
from lic_train.errors import ConfigError, DataError
from lic_train.overrides import CONF_DIR, check_names

HELDOUT = "heldout"


class SetOptions(BaseModel):
    """A set of pictures: its name in file names, its folder, and how many to take (None: all)."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]
    root: str | None
    limit: PositiveInt | None


class Options(BaseModel):
    """An evaluation, as conf/evaluate.yaml says and the command line overrides."""

    model_config = ConfigDict(extra="forbid")

    eval: SetOptions
    checkpoint: str
    device: str
    panels: NonNegativeInt


class FolderImages:
    """The first ``limit`` pictures of a folder, sorted by name: pairs of name and uint8 (3, H, W), read when asked for.

    Raises:
        DataError: no folder, no picture in it, or, when its turn comes, an unreadable one.
    """

    def __init__(self, root: Path, limit: int | None) -> None:
        self._source = FolderSource(root)
        self._count = min(limit or len(self._source), len(self._source))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for index in range(self._count):
            name = self._source.name(index)
            try:
                yield name, decode(self._source.read(index))
            except (OSError, UnreadableImage) as error:
                raise DataError(
                    f"cannot read {name} of the evaluation set: {error}. An evaluation is of the whole set: "
                    "mend or remove the file"
                ) from error


def read_options(overrides: Sequence[str]) -> Options:
    """Compose conf/evaluate.yaml with Hydra-style overrides such as ``eval=kodak eval.limit=3``.

    Raises:
        ConfigError: an unknown name, with the nearest known ones, or a value without meaning.
    """
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"expected KEY=VALUE after the run, got {override!r}; for example eval=kodak")
    GlobalHydra.instance().clear()
    check_names(overrides, "evaluate")
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            composed = OmegaConf.to_container(compose("evaluate", overrides=list(overrides)), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"cannot compose the evaluation: {error}") from error
    try:
        return Options.model_validate(composed)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors()]
        raise ConfigError("the evaluation's configuration is not valid:\n  " + "\n  ".join(lines)) from None


def open_images(options: SetOptions, run: Path) -> Iterable[tuple[str, Tensor]]:
    """The pictures that ``options`` means: those of a folder, or the validation photographs of ``run`` itself.

    Raises:
        ConfigError: ``heldout`` of something that is no run directory.
        DataError: the folder is not there or holds no picture.
    """
    if options.root is not None:
        root = Path(options.root).expanduser()
        if not root.is_dir():
            raise DataError(
                f"expected the pictures of {options.name} in the folder {root}, which does not exist; "
                f"give another by eval.root=..., or get them as data/README.md says"
            )
        return FolderImages(root, options.limit)
    if options.name != HELDOUT:
        raise DataError(f"expected the folder of {options.name}, got none; give it by eval.root=...")
    return heldout_images(run, options.limit)


def heldout_images(run: Path, limit: int | None) -> list[tuple[str, Tensor]]:
    """The first ``limit`` validation photographs of the data that ``run`` was trained on.

    Raises:
        ConfigError: ``run`` has no configuration.
        DataError: its data set is gone.
    """
    path = run / ".hydra" / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"expected {path}, which names the run's data; evaluate on a folder instead: eval=kodak")
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    photographs: Any = hydra.utils.instantiate(config.data, crop=config.crop, batch_size=config.batch_size)
    return photographs.whole_images(limit or len(photographs.val))
