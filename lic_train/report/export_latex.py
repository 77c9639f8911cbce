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
_LONG = 40  # characters of a cell
_WRAPPED = 0.6  # of the line's width, for all columns with long cells
# What pdflatex sets without more packages: these letters, and up to U+017F those that are a plain one under an accent.
_LETTERS = frozenset("ßøØæÆœŒłŁı¡¿§¶©®£")
_ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327")


def latex_table(table: Table, label: str) -> str:
    r"""A ``table`` environment for ``\input``; needs ``\usepackage{booktabs}``.

    Args:
        table: the title becomes the caption, the note a small line below.
        label: the table is ``\ref{tab:<label>}``; letters, digits, "-" and "_".
    """
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape(table.title)}}}",
        rf"  \label{{tab:{label}}}",
        rf"  \begin{{tabular}}{{{_alignment(table)}}}",
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
    if character in _LETTERS or (character.isascii() and character.isprintable()) or _is_accented(character):
        return character
    return rf"\texttt{{U+{ord(character):04X}}}"


def _is_accented(character: str) -> bool:
    letter, *accents = list(unicodedata.normalize("NFD", character))
    return character <= "\u017f" and letter.isascii() and len(accents) == 1 and accents[0] in _ACCENTS


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


def _alignment(table: Table) -> str:
    """Numbers right, words left, and columns of long text wrapped, together over most of the line."""
    columns = [[row[column] for row in table.rows] for column in range(len(table.columns))]
    longest = [max((len(cell) for cell in cells if isinstance(cell, str)), default=0) for cells in columns]
    wrapped = rf"p{{{_WRAPPED / max(1, sum(length > _LONG for length in longest)):.2f}\linewidth}}"
    aligned = "".join(
        wrapped if length > _LONG else "l" if length or all(cell is None for cell in cells) else "r"
        for cells, length in zip(columns, longest, strict=True)
    )
    return aligned or "l"
