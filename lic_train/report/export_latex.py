"""Render tables as LaTeX with booktabs rules; all text is escaped to what pdflatex can typeset."""

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
    "[": "{[}",  # at the start of a row LaTeX would read it as the optional argument of the preceding \\
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
_LONG = 28  # characters above which a cell is wrapped
_WRAPPED, _WRAPPED_IN_WIDE = 0.6, 0.36  # share of \linewidth for all wrapped columns together
_MANY = 6  # columns above which a table spans the page in a smaller font
_LONG_HEADING, _EM = 12, 0.52  # characters of a heading on one line; mean width of a character in em
# pdflatex typesets these letters without further packages, and up to U+017F all ASCII letters with one accent.
_LETTERS = frozenset("ßøØæÆœŒłŁı¡¿§¶©®£")
_ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327")


def latex_table(table: Table, label: str) -> str:
    r"""Return a ``table`` environment for ``\input`` (``table*`` for many columns); needs ``\usepackage{booktabs}``.

    Args:
        table: its title becomes the caption and its note a line in a small font below.
        label: label for ``\ref{tab:<label>}``; letters, digits, "-" and "_" only.
    """
    wide = len(table.columns) > _MANY
    kind, small = ("table*", [r"  \footnotesize", r"  \setlength{\tabcolsep}{3pt}"]) if wide else ("table", [])
    alignment = _alignment(table, _WRAPPED_IN_WIDE if wide else _WRAPPED)
    lines = [
        rf"\begin{{{kind}}}",
        r"  \centering",
        *small,
        rf"  \caption{{{escape(table.title)}}}",
        rf"  \label{{tab:{label}}}",
        rf"  \begin{{tabular}}{{{''.join(alignment)}}}",
        r"    \toprule",
        _row([_heading(*pair) for pair in zip(table.columns, alignment, strict=False)]),
        r"    \midrule",
        *(_row([_cell(cell, table, column) for column, cell in enumerate(row)]) for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        *([rf"  \par\smallskip{{\footnotesize {escape(table.note)}}}"] if table.note else []),
        rf"\end{{{kind}}}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Return ``text`` escaped for LaTeX; characters that pdflatex lacks become their code point, "U+1F600"."""
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


def _heading(text: str, alignment: str) -> str:
    """Return a heading, broken over several lines if it is long, because the numbers below it are short."""
    if len(text) <= _LONG_HEADING or alignment.startswith("p"):
        return escape(text)
    width = _EM * max(_LONG_HEADING, *map(len, text.split()))
    ragged = r"\raggedleft" if alignment == "r" else r"\raggedright"
    return rf"\parbox[b]{{{width:.1f}em}}{{{ragged} {escape(text)}}}"


def _cell(cell: Cell, table: Table, column: int) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return escape(cell)
    digits = table.digits[column] if table.digits else None
    text = str(cell) if digits is None or not math.isfinite(cell) else f"{cell:.{digits}f}"
    return f"${text}$" if text.startswith("-") else text


def _alignment(table: Table, share: float) -> list[str]:
    """Return the alignment of each column: numbers right, text left, long text wrapped to ``share`` in total."""
    columns = [[row[column] for row in table.rows] for column in range(len(table.columns))]
    longest = [max((len(cell) for cell in cells if isinstance(cell, str)), default=0) for cells in columns]
    wrapped = rf"p{{{share / max(1, sum(length > _LONG for length in longest)):.2f}\linewidth}}"
    expected = [places is not None for places in table.digits] or [False] * len(columns)
    aligned = [
        wrapped if length > _LONG else "l" if length or not (any_number or has_digits) else "r"
        for length, any_number, has_digits in zip(longest, map(_has_number, columns), expected, strict=True)
    ]
    return aligned or ["l"]


def _has_number(cells: Sequence[Cell]) -> bool:
    return any(cell is not None for cell in cells)
