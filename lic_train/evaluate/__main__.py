"""``python -m lic_train.evaluate RUN [eval=kodak] [eval.root=...] [eval.limit=N] [checkpoint=best|last]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lic_train.errors import LicError
from lic_train.evaluate.run import evaluate_run, show
from lic_train.evaluate.sets import open_images, read_options
from lic_train.screen import say_error


def main(argv: list[str] | None = None) -> int:
    """Evaluate; returns 0, 1 if a decoded picture is not the encoder's, or 2 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m lic_train.evaluate",
        description="Encode, write, read back, decode and measure a set of pictures.",
        epilog="Overrides: eval=kodak eval.root=FOLDER eval.limit=N checkpoint=best|last device=cpu panels=4",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory or exported model")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in conf/evaluate.yaml")
    arguments = parser.parse_args(argv)
    try:
        options = read_options(arguments.overrides)
        images = open_images(options.eval, arguments.run)
        result = evaluate_run(
            arguments.run, images, options.eval.name, options.checkpoint, options.panels, options.device
        )
    except (LicError, ValueError, OSError) as error:
        say_error(error)
        return 2
    show(result, arguments.run if arguments.run.is_dir() else arguments.run.parent)
    return 0 if result["mean"]["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
