"""Options of an evaluation, and its images: those of folders, or the validation images of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveInt
from torch import Tensor

from lic_train.config.compose import Section, read_section
from lic_train.config.run import HELDOUT, KnownSet, SetOptions
from lic_train.data.archives.indexed import naming
from lic_train.data.decode.images import Picture, UnreadableImage, decode
from lic_train.data.sets.sources import FolderSource
from lic_train.errors import DataError
from lic_train.evaluate.image_metrics import check_names
from lic_train.evaluate.protocol import Protocol
from lic_train.runs.untrusted import data_of

NAMED = 20  # unusable images in a message


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_numbers(value: Any) -> Any:
    return [value] if isinstance(value, int | float) else value


class EvaluationSet(KnownSet):
    """A set of pictures, how it is padded and tiled and PSNR computed; see `lic_train.evaluate.protocol.Protocol`."""

    padding: Literal["replicate", "zero", "zero_centred"]
    multiple: PositiveInt | None
    psnr: Literal["uint8", "float"]
    tile: NonNegativeInt | None
    levels: Annotated[tuple[float, ...], Field(min_length=1), BeforeValidator(_as_numbers)] | None

    @property
    def protocol(self) -> Protocol:
        """Padding, tiles and kind of PSNR."""
        return Protocol(padding=self.padding, multiple=self.multiple, psnr=self.psnr, tile=self.tile)


class Options(Section):
    """Options of an evaluation, documented in conf/evaluate.yaml."""

    eval: EvaluationSet
    checkpoint: str
    device: str
    metrics: Annotated[tuple[str, ...], BeforeValidator(_as_list), AfterValidator(check_names)]
    panels: NonNegativeInt
    repeats: PositiveInt
    jobs: PositiveInt
    fresh: bool


class FolderImages:
    """The first ``limit`` images of folders: pairs of name and uint8 (3, H, W), decoded during the iteration.

    The images of each folder are sorted by name. With several folders, the folder's name precedes the image's name.

    Args:
        roots: the folders.
        limit: number of images; None takes all.

    Raises:
        DataError: a folder does not exist or contains no image; during the iteration, an image cannot be read.
    """

    def __init__(self, roots: Sequence[Path], limit: int | None) -> None:
        prefixes = [f"{root.name}/" if len(roots) > 1 else "" for root in roots]
        with naming("eval.root"):
            sources = zip(prefixes, [FolderSource(root) for root in roots], strict=True)
        self._pictures = [(prefix, source, index) for prefix, source in sources for index in range(len(source))][:limit]

    def __len__(self) -> int:
        return len(self._pictures)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for prefix, source, index in self._pictures:
            name = prefix + source.name(index)
            try:
                yield name, decode(source.read(index))
            except (OSError, UnreadableImage) as error:
                raise _not_usable([f"{name}: {error}"], len(self)) from error

    def require_all(self, problem: Callable[[int, int], str]) -> None:
        """Decode every image.

        Args:
            problem: returns why an image of this height and width cannot be coded, empty if it can.

        Raises:
            DataError: an image cannot be read or coded; the message names all of them.
        """
        problems = []
        for prefix, source, index in self._pictures:
            try:
                picture = Picture(source.read(index))
                picture.rgb()
                reason = problem(*picture.size)
            except (OSError, UnreadableImage) as error:
                reason = str(error)
            if reason:
                problems.append(f"{prefix}{source.name(index)}: {reason}")
        if problems:
            raise _not_usable(problems, len(self))


def _not_usable(problems: Sequence[str], images: int) -> DataError:
    more = [f"and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
    return DataError(
        f"{len(problems)} of {images} images of the evaluation set cannot be used.",
        expected="usable images only, because results refer to the whole set",
        got="\n".join([*problems[:NAMED], *more]),
        to_do="repair or remove these files, or set another folder with eval.root=...",
    )


def read_options(overrides: Sequence[str]) -> Options:
    """Compose conf/evaluate.yaml with Hydra overrides such as ``eval=kodak eval.levels=0,2.5 metrics=lpips,dists``.

    Raises:
        ConfigError: an unknown name, with the nearest known ones, or an invalid value.
    """
    return read_section(Options, [_with_lists(override) for override in overrides], "evaluate")


def each_set(overrides: Sequence[str]) -> list[list[str]]:
    """Return one list of overrides for each set of ``eval=kodak,clic``; every list contains all other overrides."""
    names = next((value for override in overrides if (value := override.removeprefix("eval=")) != override), HELDOUT)
    others = [override for override in overrides if not override.startswith("eval=")]
    return [[f"eval={name}", *others] for name in names.split(",")]


def open_images(options: SetOptions, run: Path) -> Iterable[tuple[str, Tensor]]:
    """Return the images that ``options`` selects: those of folders, or the validation images of ``run``.

    Raises:
        ConfigError: ``heldout`` of something that is not a run directory.
        DataError: a folder does not exist or contains no image.
    """
    if options.root is not None:
        given = [options.root] if isinstance(options.root, str) else options.root
        roots = [Path(root).expanduser() for root in given]
        for root in roots:
            if not root.is_dir():
                raise DataError(
                    f"The folder of the evaluation set {options.name} does not exist.",
                    expected=f"images in {root}",
                    got="no such folder",
                    to_do="set another folder with eval.root=..., or get the images as described in data/README.md",
                )
        return FolderImages(roots, options.limit)
    return heldout_images(run, options.limit)


def heldout_images(run: Path, limit: int | None) -> list[tuple[str, Tensor]]:
    """Return the first ``limit`` validation images of the data that ``run`` was trained on.

    Raises:
        ConfigError: ``run`` contains no configuration, or one of an unknown data set.
        DataError: its data set does not exist any more.
    """
    photographs = data_of(run)
    return photographs.whole_images(limit or len(photographs.val))


def _with_lists(override: str) -> str:
    """``metrics=lpips,dists`` as ``metrics=[lpips,dists]``; to Hydra a comma outside brackets is a sweep."""
    key, _, value = override.partition("=")
    several = key in ("metrics", "eval.levels") and "," in value and not value.startswith("[")
    return f"{key}=[{value}]" if several else override
