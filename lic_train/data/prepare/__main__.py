"""Cut large photographs into tiles once, so that training reads small images: ``lic data prepare ROOT OUT``.

The training photographs become tar shards of lossless tiles, the validation photographs become a tar of the original
files; ``data=folder data.root=OUT`` trains on them. Each shard is written atomically and verified by reading it back,
so an interrupted command can be repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lic_train.data.archives.indexed import naming
from lic_train.data.arguments import prepare_parser
from lic_train.data.prepare.shards import CUTS, Job, Preparation, Record, Shard, sha256
from lic_train.data.prepare.shards import RECORD as SHARD_RECORD
from lic_train.data.prepare.tiles import FORMATS
from lic_train.data.sets.sources import Source, folder
from lic_train.data.stream.loader import available_cores
from lic_train.errors import ConfigError, DataError
from lic_train.system import atomic
from lic_train.system.command import command
from lic_train.system.processes import Workers
from lic_train.system.reading import Unreadable, read_json

RECORD = "prepared.json"


def prepare(root: str, out: Path, how: Preparation, jobs: int, console: Console) -> dict[str, Any]:
    """Write all missing shards, ``jobs`` at a time. Returns the content of ``OUT/prepared.json``.

    Raises:
        ConfigError: an invalid option.
        DataError: there is no usable photograph.
    """
    _check(how)
    with naming("ROOT"):
        split = folder(root, how.val_ratio)
    out.mkdir(parents=True, exist_ok=True)
    job = Job(split.train, split.val, out, how, _key(split.train, split.val, how))
    records: dict[str, Record] = {}
    todo = []
    for shard in job.shards():
        if (record := job.done(shard)) is not None:
            records[shard.name] = record
        else:
            todo.append(shard)
    if records:
        console.print(f"{len(records)} of {len(job.shards())} shards exist already", highlight=False)
    records |= _write_all(job, todo, jobs, console)
    result = _summary(root, how, [records[shard.name] for shard in job.shards()])
    atomic.replace_text(out / RECORD, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if not result["tiles"]:
        raise DataError(
            f"No photograph in {root} can be cut into tiles.", to_do=f"see the reasons in left_out in {out / RECORD}"
        )
    return result


def verify(out: Path) -> int:
    """Read every shard below ``out`` again and return the number of files.

    Raises:
        DataError: a shard is missing or damaged.
    """
    records = sorted(path for path in out.glob("*.json") if path.name != RECORD)
    if not records:
        raise DataError(f"No shards in {out}.", to_do="run the command without --verify first")
    files = 0
    for path in records:
        shard = path.with_suffix(".tar")
        try:
            record = SHARD_RECORD.validate_python(read_json(path))
            is_whole = shard.is_file() and sha256(shard) == record["sha256"]
        except (Unreadable, ValidationError):
            is_whole = False
        if not is_whole:
            raise DataError(f"{shard} is missing or damaged.", to_do=f"delete {path} and repeat the preparation")
        files += record["files"]
    return files


@command("the same command continues the preparation")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    arguments = prepare_parser().parse_args(argv)
    console = Console()
    how = Preparation(
        arguments.cut, arguments.side, arguments.format, arguments.per_shard, arguments.seed, arguments.val_ratio
    )
    if arguments.verify:
        console.print(f"{verify(arguments.out):,} files verified", highlight=False)
        return 0
    result = prepare(arguments.root, arguments.out, how, arguments.jobs or available_cores(), console)
    _show(result, arguments.out, console)
    return 0


_job: Job | None = None  # set before the workers are forked, so that sources are not pickled


def _write(shard: Shard) -> tuple[str, Record]:
    assert _job is not None
    return shard.name, _job.write(shard)


def _write_all(job: Job, shards: Sequence[Shard], jobs: int, console: Console) -> dict[str, Record]:
    global _job
    _job = job
    columns = (TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    died = DataError(
        "A process that writes shards died.",
        expected="enough memory for one photograph in each",
        to_do="use fewer --jobs",
    )
    with Workers(jobs, "fork", died) as workers, Progress(*columns, console=console, transient=True) as progress:
        return dict(progress.track(workers.in_order(_write, shards), len(shards)))


def _key(train: Source, val: Source, how: Preparation) -> str:
    """Return the SHA-256 over the options and the names of all photographs."""
    digest = hashlib.sha256(json.dumps(asdict(how), sort_keys=True).encode())
    for source in (train, val):
        for number in range(len(source)):
            digest.update(source.name(number).encode() + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()


def _summary(root: str, how: Preparation, records: Sequence[Record]) -> dict[str, Any]:
    return {
        "root": os.path.basename(os.path.normpath(root)),
        **asdict(how),
        "photographs": sum(record["photographs"] for record in records),
        "tiles": sum(record["files"] for record in records[:-1]),
        "validation": records[-1]["files"],
        "shards": len(records),
        "bytes": sum(record["bytes"] for record in records),
        "left_out": [entry for record in records for entry in record["left_out"]],
    }


def _show(result: dict[str, Any], out: Path, console: Console) -> None:
    table = Table(show_header=False, box=None, padding=(0, 1))
    table.add_row("photographs", f"{result['photographs']:,}, {len(result['left_out'])} of them left out")
    table.add_row("tiles", f"{result['tiles']:,} in {result['shards'] - 1} shards, {result['bytes'] / 2**20:,.0f} MiB")
    table.add_row("validation", f"{result['validation']:,} unchanged photographs")
    console.print(table)
    for name, reason in result["left_out"][:10]:
        console.print(Text(f"left out: {name} ({reason})", "yellow"), soft_wrap=True)
    console.print(Text(f"record    {out / RECORD}"), soft_wrap=True)
    console.print(Text(f"train     lic train data=folder data.root={out}"), soft_wrap=True)


def _check(how: Preparation) -> None:
    for name, value, known in (("cut", how.cut, CUTS), ("format", how.format, FORMATS)):
        if value not in known:
            raise ConfigError(f"Invalid value of --{name}.", expected=f"one of {', '.join(known)}", got=repr(value))
    for name, number in (("side", how.side), ("per-shard", how.per_shard)):
        if number < 1:
            raise ConfigError(f"Invalid value of --{name}.", expected="at least 1", got=str(number))


if __name__ == "__main__":
    sys.exit(main())
