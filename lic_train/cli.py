"""The ``lic`` command: one subcommand for each entry point, nothing but dispatch."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Command(NamedTuple):
    """One subcommand.

    Attributes:
        module: it has a function ``main(argv)`` that returns an exit code or None.
        summary: one line for ``lic --help``.
        prefix: arguments that go before those of the user.
    """

    module: str
    summary: str
    prefix: tuple[str, ...] = ()


COMMANDS = {
    "train": Command("lic_train.train", "train a model, or a sweep of models with -m"),
    "evaluate": Command("lic_train.evaluate.__main__", "code sets of pictures with a run's model and measure them"),
    "compress": Command("lic_train.codec.__main__", "write a picture as a .lic file", ("compress",)),
    "decompress": Command("lic_train.codec.__main__", "write a .lic file as a PNG", ("decompress",)),
    "report": Command("lic_train.report.__main__", "write one HTML page about all runs below a folder"),
    "card": Command("lic_train.report.card", "write the reproduction card of every run"),
    "anchors": Command("lic_train.anchors.__main__", "measure classical codecs on a set of pictures"),
    "complexity": Command("lic_train.complexity.__main__", "count parameters and multiply-adds, measure times"),
    "data check": Command("lic_train.data.check.__main__", "decode a data set before training on it"),
    "data prepare": Command("lic_train.data.prepare.__main__", "cut large pictures into tiles for training"),
    "data download": Command("lic_train.data.download", "download a set of evaluation pictures"),
    "zoo": Command("lic_train.files.zoo", "convert weights that CompressAI published"),
    "export": Command("lic_train.codec.__main__", "write a run's model as one .safetensors file", ("export",)),
    "show": Command("lic_train.codec.__main__", "list what a model file contains", ("show",)),
    "dashboard": Command("lic_train.training.dashboard", "save the workspace of the W&B dashboard"),
}
EXAMPLES = """examples:
  lic train model=cwam lambda=0.0067
  lic train -m model=cwam,mbt2018 lambda=0.0067,0.025
  lic evaluate outputs/cwam/cwam/lambda_0.0067 eval=kodak
  lic compress photo.png photo.lic --run outputs/cwam/cwam/lambda_0.0067
  lic decompress photo.lic back.png
  lic report outputs/

lic COMMAND --help describes a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] == "--version":
        from lic_train import __version__

        print(f"lic_train {__version__}")
        return 0
    name = " ".join(words[:2]) if words[0] == "data" else words[0]
    if name in ("data", "data -h", "data --help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        return _unknown(name)
    command, arguments = COMMANDS[name], words[len(name.split()) :]
    if name == "train" and not {"-h", "--help"}.isdisjoint(arguments):  # without importing PyTorch
        from lic_train.config.help import train_help

        print(train_help())
        return 0
    sys.argv = [f"lic {name}", *arguments]
    return importlib.import_module(command.module).main([*command.prefix, *arguments]) or 0


def usage() -> str:
    """Text of ``lic --help``."""
    lines = [f"  {name:15} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: lic COMMAND ...", "", "commands:", *lines, "", EXAMPLES])


def _unknown(name: str) -> int:
    """Print the nearest names and return the exit code."""
    from lic_train.errors import ConfigError
    from lic_train.system.screen import say_error

    nearest = difflib.get_close_matches(name, COMMANDS, n=2, cutoff=0.5) or [
        known for known in COMMANDS if known.startswith("data ") and name.startswith("data")
    ]
    say_error(
        ConfigError(
            f"lic has no command {name!r}.",
            expected=f"one of {', '.join(COMMANDS)}",
            got=name,
            to_do=f"did you mean {' or '.join(nearest)}?" if nearest else "lic --help lists all commands",
        )
    )
    return ConfigError.exit_code


if __name__ == "__main__":
    sys.exit(main())
