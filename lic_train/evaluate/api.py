"""Evaluation of a loaded codec from Python: the function behind ``lic_train.evaluate``."""

from __future__ import annotations

import copy
import importlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from lic_train.codec.image_codec import ImageCodec, Picture, to_tensor
from lic_train.config.run import SetOptions
from lic_train.data.decode.images import read_image
from lic_train.errors import ConfigError
from lic_train.evaluate import results
from lic_train.evaluate.bench import Settings
from lic_train.evaluate.protocol import Protocol
from lic_train.evaluate.run import evaluate as evaluate_pair
from lic_train.evaluate.sets import FolderImages
from lic_train.rd.metrics import to_8bit
from lic_train.system.reading import mistakes, slug


@dataclass(frozen=True)
class Evaluation:
    """Results of `evaluate`.

    Attributes:
        content: the content of a result file ``eval/<set>.json``: rows, means, definitions, environment, checkpoint.
    """

    content: dict[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dict for each image, and each level of a variable rate.

        Keys: name, width and height in pixels, bytes, bpp_file, bpp, psnr (dB), ms_ssim, times (seconds), level, ...
        """
        rows: list[dict[str, Any]] = self.content["rows"]
        return rows

    @property
    def mean(self) -> dict[str, Any]:
        """Means over the images."""
        mean: dict[str, Any] = self.content["mean"]
        return mean

    def to_pandas(self) -> Any:
        """Return the rows as a ``pandas.DataFrame``.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise ConfigError(
                "pandas cannot be imported.",
                expected="pandas, which to_pandas() needs",
                got=str(error),
                to_do="pip install pandas",
            ) from error
        return pandas.DataFrame(self.rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the results as JSON, in the format of ``eval/<set>.json``, atomically."""
        results.write(Path(path), self.content)


def evaluate(
    codec: ImageCodec,
    images: str | os.PathLike[str] | Iterable[Picture],
    *,
    name: str | None = None,
    out: str | os.PathLike[str] | None = None,
    metrics: Sequence[str] = (),
    limit: int | None = None,
    padding: str = "replicate",
    multiple: int | None = None,
    psnr: str = "uint8",
    tile: int | None = None,
    levels: Sequence[float] | None = None,
    repeats: int = 1,
    panels: int = 0,
    save_images: bool = False,
    quality_map: bool = False,
) -> Evaluation:
    """Code every image to a .lic file, decode the file with a second instance of the model and measure the result.

    Args:
        codec: a loaded codec.
        images: a folder, or an iterable of paths and images as `ImageCodec.encode` accepts them; floats are rounded to
            8 bits. Images without a path are named by their number.
        name: name of the set in file names; default: the folder's name, or "images".
        out: folder that receives ``eval/<name>.json``, ``eval/<name>/*.lic`` and ``pictures/``; images that an earlier
            call measured there under the same conditions are not measured again. None uses a temporary folder.
        metrics: further metrics in `lic_train.evaluate.image_metrics.METRICS`, for example ("lpips", "dists").
        limit: number of images; None takes all.
        padding: "replicate" and "zero" pad at the bottom and at the right, "zero_centred" on all sides. For values of
            this, ``multiple`` and ``psnr`` with which authors measured see docs/evaluation.md.
        multiple: sides are padded to multiples of it; None uses the model's downsampling factor.
        psnr: of RGB rounded to 8 bits ("uint8"), or of the clamped floats ("float").
        tile: as in `ImageCodec.encode`.
        levels: of a model with a variable rate; None takes those of its ladder.
        repeats: times are medians of this many calls.
        panels: number of images for which a panel is drawn in ``out``/pictures.
        save_images: keep decoded images in ``out``/eval/<name>/decoded.
        quality_map: keep maps of error and bits in ``out``/eval/<name>/error and ``out``/eval/<name>/bits.

    Raises:
        CheckpointError: the model's coding tables are stale.
        ConfigError: an invalid name, limit, padding, multiple, psnr, tile or level, or a metric that is unknown or
            cannot be loaded.
        DataError: no image, an unreadable image, two images with the same name, or an object that is not an image.
    """
    options = _set_options(name or _default_name(images), limit)
    protocol = _protocol(padding=padding, multiple=multiple, psnr=psnr, tile=tile)
    settings = Settings(
        panels=panels,
        repeats=repeats,
        save_images=save_images,
        quality_map=quality_map,
        metrics=tuple(metrics),
        protocol=protocol,
        levels=None if levels is None else tuple(levels),
    )
    pictures, info = _named_pictures(images, limit), results.describe(codec.metadata)
    with tempfile.TemporaryDirectory(prefix="lic_") as temporary:
        folder = Path(temporary if out is None else out)
        return Evaluation(
            evaluate_pair(codec.model, copy.deepcopy(codec.model), pictures, folder, options.name, info, settings)
        )


def _set_options(name: str, limit: int | None) -> SetOptions:
    with _mistakes_explained():
        return SetOptions(name=name, root=None, limit=limit)


def _protocol(**options: Any) -> Protocol:
    with _mistakes_explained():
        return Protocol(**options)


@contextmanager
def _mistakes_explained() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise ConfigError("The options of the evaluation are not valid.", got=mistakes(error)) from error


def _default_name(images: str | os.PathLike[str] | Iterable[Picture]) -> str:
    return slug(Path(images).resolve().name) if isinstance(images, str | os.PathLike) else "images"


def _named_pictures(
    images: str | os.PathLike[str] | Iterable[Picture], limit: int | None
) -> Iterable[tuple[str, Tensor]]:
    if isinstance(images, str | os.PathLike):
        return FolderImages([Path(images)], limit)
    return _numbered(islice(images, limit))


def _numbered(images: Iterable[Picture]) -> Iterator[tuple[str, Tensor]]:
    for number, image in enumerate(images, start=1):
        if isinstance(image, str | os.PathLike):
            yield Path(image).name, read_image(image)
        else:
            x = to_tensor(image)
            yield f"{number:04}", (to_8bit(x).byte() if x.is_floating_point() else x).cpu()
