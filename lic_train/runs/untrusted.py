"""The data set that the configuration of a run names; the configuration may come from a stranger.

Nothing in the file is executed, imported or resolved: it is plain YAML, its data source is one of a closed set, and
its interpolations are refused. Only the keys that an evaluation needs are used. Only local folders and archives are
read: a stranger does not decide which servers are contacted.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, validate_call

from lic_train.data.module import Photographs
from lic_train.data.sets.declared import find_source
from lic_train.errors import ConfigError
from lic_train.runs.layout import CONFIG
from lic_train.runs.state import read_config
from lic_train.system.reading import Unreadable, mistakes, printable

# Where indexes and downloads are stored is not for the run to decide. These are the values of conf/data.
_CACHE = {"cache": "outputs/.cache", "cache_gib": 20}


class _Source(BaseModel, extra="allow"):
    """Source of the photographs; the other keys are its options."""

    target: Annotated[str, Field(alias="_target_")]
    partial: Annotated[bool, Field(alias="_partial_")] = True


class _Data(BaseModel):
    source: _Source
    root: str | list[str] | None = None


class _Config(BaseModel):
    data: _Data


def data_of(run: Path) -> Photographs:
    """Return the photographs that a run was trained on, read with the options of its data source.

    Raises:
        ConfigError: there is no configuration, or it names no data source of this package or of an installed
            distribution, or the source's options are not valid, or the data set is not on this machine.
        DataError: the data set does not exist any more.
    """
    try:
        data = _Config.model_validate(read_config(run) or {}).data
        source = find_source(data.source.target)
        options = {name: value for name, value in (data.source.model_extra or {}).items() if name not in _CACHE}
        _refuse_interpolations([data.root, options])
        _refuse_addresses([data.root, options])
        stored = _CACHE if _CACHE.keys() <= inspect.signature(source).parameters.keys() else {}
        split = validate_call(source)(data.root, **options, **stored)
    except (Unreadable, ValueError) as error:  # ValidationError is a ValueError
        raise _unusable(run, mistakes(error) if isinstance(error, ValidationError) else str(error)) from error
    return Photographs(lambda _: split, root=data.root, crop=1, batch_size=1)


def _refuse_interpolations(values: Any) -> None:
    text = json.dumps(values)
    if "${" in text:
        raise ValueError(f"an interpolation, which is not resolved: {text}")


def _refuse_addresses(values: Any) -> None:
    if "://" in (text := json.dumps(values)):
        raise ValueError(f"an address, which is not opened because it is read from the configuration of a run: {text}")


def _unusable(run: Path, got: str) -> ConfigError:
    return ConfigError(
        f"The data set of {run} is not known.",
        expected=f"a configuration of this package in {run / CONFIG}, with data on this machine",
        got=printable(got, 300),
        to_do="evaluate on a folder of images instead: eval=kodak, or eval=folder eval.root=/path/to/images",
    )
