"""Tables for LaTeX: booktabs rules, everything escaped, nothing that pdflatex cannot set."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from lic_train.report.elements import Cell, Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # at the start of a row it would be an argument of the line break before
    "]": "{]}",
    "*": "{*}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "²": "$^2$",
    "³": "$^3$",
    "°": r"$^\circ$",
    "µ": r"$\mu$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "→": r"$\to$",
    "Δ": r"$\Delta$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "σ": r"$\sigma$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
}
_LAST_LATIN = 0x17F  # Latin Extended-A: the last letters that pdflatex sets without more packages


def latex_table(table: Table, label: str) -> str:
    r"""A ``table`` environment for ``\input``; needs ``\usepackage{booktabs}``.

    Args:
        table: the title becomes the caption, the note a small line below.
        label: the table is ``\ref{tab:<label>}``; letters, digits, "-" and "_".
    """
    alignment = "".join("r" if _is_numeric(column, table) else "l" for column in range(len(table.columns)))
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape(table.title)}}}",
        rf"  \label{{tab:{label}}}",
        rf"  \begin{{tabular}}{{{alignment}}}",
        r"    \toprule",
        _row([escape(heading) for heading in table.columns]),
        r"    \midrule",
        *(_row([_cell(cell, table, column) for column, cell in enumerate(row)]) for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        *([rf"  \par\smallskip{{\footnotesize {escape(table.note)}}}"] if table.note else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """``text`` as LaTeX sets it literally; what pdflatex has no letter for appears as its code point, "U+1F600"."""
    return "".join(map(_character, " ".join(text.split())))


def _character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    known = ord(character) <= _LAST_LATIN and unicodedata.category(character)[0] != "C"
    return character if known else rf"\texttt{{U+{ord(character):04X}}}"


def _row(cells: Sequence[str]) -> str:
    return "    " + " & ".join(cells) + r" \\"


def _cell(cell: Cell, table: Table, column: int) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return escape(cell)
    digits = table.digits[column] if table.digits else None
    text = str(cell) if digits is None or not math.isfinite(cell) else f"{cell:.{digits}f}"
    return f"${text}$" if text.startswith("-") else text


def _is_numeric(column: int, table: Table) -> bool:
    cells = [row[column] for row in table.rows]
    return any(cell is not None for cell in cells) and not any(isinstance(cell, str) for cell in cells)
