"""``lic complexity model=cwam [model.N=192] [size=1920x1080] [time=false] [variants=...]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.progress import track
from rich.text import Text

from lic_train.complexity import results
from lic_train.complexity.arguments import complexity_parser
from lic_train.complexity.count import count_macs, count_parameters, count_quantiles, on_meta
from lic_train.complexity.measure import measure
from lic_train.complexity.options import Options, Variants, read_options
from lic_train.complexity.table import count_table, time_table, variants_table
from lic_train.complexity.variants import count_rows
from lic_train.evaluate.results import environment
from lic_train.system.command import command
from lic_train.system.machine import cpu_model

COMMON = (256, 256)  # counted for every model


def count_model(name: str, options: Options) -> results.Complexity:
    """Count parameters and multiply-adds without measuring times.

    Raises:
        ConfigError: the configuration does not build a model.
    """
    codec = on_meta(options.model)
    sizes = dict.fromkeys([COMMON, options.size])
    return results.Complexity(
        format=results.FORMAT,
        model=name,
        config=options.model,
        parameters=count_parameters(codec),
        quantiles=count_quantiles(codec),
        macs=[results.Macs.model_validate({"height": h, "width": w, **count_macs(codec, h, w)}) for h, w in sizes],
        environment={"processor": cpu_model(), **environment(torch.device(options.device))},
        definitions=results.DEFINITIONS,
    )


@command()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    arguments = complexity_parser().parse_intermixed_args(argv)
    name, options = read_options(arguments.overrides)
    if options.variants:
        _count_variants(name, options, options.variants)
    else:
        _count_one(name, options)


def _count_one(name: str, options: Options) -> None:
    console = Console()
    result = count_model(name, options)
    console.print(count_table(result))
    if options.time:
        phases = measure(options.model, *options.size, options.device)
        result = results.timed(result, *options.size, options.device, phases)
        console.print(time_table(result))
    results.save(options.output, result)
    console.print(Text(f"results  {options.output}"), soft_wrap=True)


def _count_variants(name: str, options: Options, variants: Variants) -> None:
    console, screen, found = Console(), Console(stderr=True), count_rows(options.model, variants)
    hidden = not screen.is_terminal
    rows = list(track(found, "counting", len(variants.rows), console=screen, transient=True, disable=hidden))
    results.save_rows(variants.output, name, variants, rows)
    console.print(variants_table(variants.title, rows))
    console.print(Text(variants.note))
    console.print(Text(f"results  {variants.output}"), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
