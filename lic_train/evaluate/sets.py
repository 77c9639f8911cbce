"""Which pictures to evaluate on, from the command line's overrides to the pictures themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from lic_train.config.compose import Section, read_section
from lic_train.config.run import SetOptions
from lic_train.data.decode.images import UnreadableImage, decode
from lic_train.data.sets.sources import FolderSource
from lic_train.errors import ConfigError, DataError
from lic_train.runs.layout import CONFIG

HELDOUT = "heldout"


class Options(Section):
    """An evaluation, as conf/evaluate.yaml says and the command line overrides."""

    eval: SetOptions
    checkpoint: str
    device: str
    panels: NonNegativeInt
    repeats: PositiveInt
    jobs: PositiveInt
    fresh: bool


class FolderImages:
    """The first ``limit`` pictures of folders, each sorted by name: pairs of name and uint8 (3, H, W), read in turn.

    Of several folders, the folder's name goes before the picture's.

    Raises:
        DataError: no folder, no picture in it, or, when its turn comes, an unreadable one.
    """

    def __init__(self, roots: Sequence[Path], limit: int | None) -> None:
        prefixes = [f"{root.name}/" if len(roots) > 1 else "" for root in roots]
        sources = zip(prefixes, map(FolderSource, roots), strict=True)
        self._pictures = [(prefix, source, index) for prefix, source in sources for index in range(len(source))][:limit]

    def __len__(self) -> int:
        return len(self._pictures)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for prefix, source, index in self._pictures:
            name = prefix + source.name(index)
            try:
                yield name, decode(source.read(index))
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
    return read_section(Options, overrides, "evaluate")


def each_set(overrides: Sequence[str]) -> list[list[str]]:
    """``eval=kodak,clic`` as one list of overrides for each set; the other overrides are in all of them."""
    names = next((value for override in overrides if (value := override.removeprefix("eval=")) != override), HELDOUT)
    others = [override for override in overrides if not override.startswith("eval=")]
    return [[f"eval={name}", *others] for name in names.split(",")]


def open_images(options: SetOptions, run: Path) -> Iterable[tuple[str, Tensor]]:
    """The pictures that ``options`` means: those of a folder, or the validation photographs of ``run`` itself.

    Raises:
        ConfigError: ``heldout`` of something that is no run directory.
        DataError: the folder is not there or holds no picture.
    """
    if options.root is not None:
        given = [options.root] if isinstance(options.root, str) else options.root
        roots = [Path(root).expanduser() for root in given]
        for root in roots:
            if not root.is_dir():
                raise DataError(
                    f"expected the pictures of {options.name} in the folder {root}, which does not exist; "
                    f"give another by eval.root=..., or get them as data/README.md says"
                )
        return FolderImages(roots, options.limit)
    if options.name != HELDOUT:
        raise DataError(f"expected the folder of {options.name}, got none; give it by eval.root=...")
    return heldout_images(run, options.limit)


def heldout_images(run: Path, limit: int | None) -> list[tuple[str, Tensor]]:
    """The first ``limit`` validation photographs of the data that ``run`` was trained on.

    Raises:
        ConfigError: ``run`` has no configuration.
        DataError: its data set is gone.
    """
    path = run / CONFIG
    if not path.is_file():
        raise ConfigError(f"expected {path}, which names the run's data; evaluate on a folder instead: eval=kodak")
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    photographs: Any = hydra.utils.instantiate(config.data, crop=config.crop, batch_size=config.batch_size)
    return photographs.whole_images(limit or len(photographs.val))
