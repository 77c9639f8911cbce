"""Tables of the complexity command for the terminal, at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lic_train.complexity.measure import PHASES
from lic_train.complexity.results import Complexity
from lic_train.complexity.variants import Row
from lic_train.system.screen import ruled_table


def count_table(result: Complexity) -> Table:
    """Return a table with a row for each sub-network and one for the total: parameters, and GMACs at every size."""
    arguments = ", ".join(f"{name} {value}" for name, value in result.config.items() if name != "_target_")
    table = ruled_table(title=f"{result.model}: {arguments}")
    table.caption = f"{result.quantiles:,} of the parameters are quantiles of the factorised densities"
    table.add_column("sub-network", no_wrap=True)
    sizes = [f"GMAC {macs.width}x{macs.height}" for macs in result.macs]
    for heading in ("parameters", *sizes):
        table.add_column(heading, justify="right", no_wrap=True)
    parts = _parts(result)
    for name in parts:
        cells = [_giga(macs.parts.get(name, 0)) for macs in result.macs]
        table.add_row(name, f"{result.parameters.get(name, 0):,}", *cells, end_section=name == parts[-1])
    table.add_row("total", f"{result.parameters['total']:,}", *(_giga(macs.total) for macs in result.macs))
    return table


def time_table(result: Complexity) -> Table:
    """Return a table of a timed result with a row for each phase: milliseconds, number of runs, peak memory."""
    assert result.time, "nothing was timed"
    time, machine = result.time, result.environment
    where = f"{machine['processor']}, {machine['threads']} threads" if time.device == "cpu" else machine["device"]
    table = ruled_table(title=f"{time.width}x{time.height}, untrained weights, {where}")
    table.add_column("phase", no_wrap=True)
    for heading in ("milliseconds", "median of", "peak MiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in PHASES:
        phase = time.phase(name)
        runs = f"{phase.runs} runs" if phase.runs else "first run"
        table.add_row(name, f"{phase.milliseconds:,.1f}", runs, f"{phase.peak_bytes / 2**20:,.0f}")
    return table


def variants_table(title: str, rows: Sequence[Row]) -> Table:
    """Return a table with a row for each variant: exact, profiler's and paper's GMACs, and profiler over paper."""
    table = ruled_table(title=title)
    table.add_column("variant", no_wrap=True)
    for heading in ("parameters", "exact G", "profiler G", "paper G", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        paper = ("-", "-")
        if row.paper_macs is not None:
            paper = (f"{row.paper_macs / 1e9:g}", f"{row.profiler_macs / row.paper_macs:.3f}")
        exact, profiler = (f"{macs / 1e9:.2f}" for macs in (row.macs, row.profiler_macs))
        table.add_row(row.name, f"{row.parameters:,}", exact, profiler, *paper)
    return table


def _parts(result: Complexity) -> list[str]:
    """Names of all sub-networks that have parameters or multiply-adds, in order."""
    counts = [result.parameters, *(macs.parts for macs in result.macs)]
    return list(dict.fromkeys(name for count in counts for name in count if name != "total"))


def _giga(macs: int) -> str:
    return f"{macs / 1e9:.3f}" if macs else "-"
