"""The ``lic`` command: one subcommand for each entry point, nothing but dispatch."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from lic_train.system.interrupts import ending_on_signals


class Command(NamedTuple):
    """One subcommand.

    Attributes:
        summary: one line for ``lic --help``.
        module: it has a function ``main(argv)`` that returns an exit code or None.
        parser: ``module:function`` that returns the parser for ``--help`` without importing PyTorch; empty where
            ``module`` itself does not import it before it has read its arguments.
        prefix: arguments that go before those of the user.
    """

    summary: str
    module: str
    parser: str = ""
    prefix: tuple[str, ...] = ()


COMMANDS = {
    "train": Command(
        "train a model, or a sweep of models with -m", "lic_train.train", "lic_train.config.arguments:train_parser"
    ),
    "evaluate": Command(
        "code sets of pictures with a run's model and measure them",
        "lic_train.evaluate.__main__",
        "lic_train.evaluate.arguments:evaluate_parser",
    ),
    "compress": Command("write a picture as a .lic file", "lic_train.codec.__main__", prefix=("compress",)),
    "decompress": Command("write a .lic file as a PNG", "lic_train.codec.__main__", prefix=("decompress",)),
    "report": Command(
        "write one HTML page about all runs below a folder",
        "lic_train.report.__main__",
        "lic_train.report.arguments:report_parser",
    ),
    "card": Command(
        "write the reproduction card of every run", "lic_train.report.card", "lic_train.report.arguments:card_parser"
    ),
    "anchors": Command(
        "measure classical codecs on a set of pictures",
        "lic_train.anchors.__main__",
        "lic_train.anchors.arguments:anchors_parser",
    ),
    "complexity": Command(
        "count parameters and multiply-adds, measure times",
        "lic_train.complexity.__main__",
        "lic_train.complexity.arguments:complexity_parser",
    ),
    "data check": Command(
        "decode a data set before training on it",
        "lic_train.data.check.__main__",
        "lic_train.data.arguments:check_parser",
    ),
    "data prepare": Command(
        "cut large pictures into tiles for training",
        "lic_train.data.prepare.__main__",
        "lic_train.data.arguments:prepare_parser",
    ),
    "data download": Command(
        "download a set of evaluation pictures", "lic_train.data.download", "lic_train.data.arguments:download_parser"
    ),
    "zoo": Command(
        "import weights that authors published", "lic_train.files.zoo.__main__", "lic_train.files.arguments:zoo_parser"
    ),
    "export": Command("write a run's model as one .safetensors file", "lic_train.codec.__main__", prefix=("export",)),
    "show": Command("list what a model file contains", "lic_train.codec.__main__", prefix=("show",)),
    "dashboard": Command(
        "save the workspace of the W&B dashboard",
        "lic_train.training.dashboard",
        "lic_train.training.arguments:dashboard_parser",
    ),
}
EXAMPLES = """examples:
  lic train model=cwam lambda=0.0067
  lic train -m model=cwam,mbt2018 lambda=0.0067,0.025
  lic evaluate outputs/cwam/cwam/lambda_0.0067 eval=kodak
  lic compress photo.png photo.lic --run outputs/cwam/cwam/lambda_0.0067
  lic decompress photo.lic back.png
  lic report outputs/

lic COMMAND --help describes a command."""


def main(argv: Sequence[str] | None = None, program: str = "") -> int:
    """Run one subcommand.

    Args:
        argv: name of the subcommand and its arguments; None for those of this process.
        program: the user's script, which messages name instead of ``lic``.

    Returns:
        The exit code.
    """
    with ending_on_signals():
        return _main(list(sys.argv[1:] if argv is None else argv), program)


def _main(words: list[str], program: str) -> int:
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
    if command.parser and not {"-h", "--help"}.isdisjoint(arguments):
        module, _, function = command.parser.partition(":")
        getattr(importlib.import_module(module), function)().print_help()
        return 0
    sys.argv = [program or f"lic {name}", *arguments]
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
