"""Values of keys that hold paths: taken literally from the command line, outside of Hydra's grammar."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote

from hydra.core.override_parser.types import Quote, QuotedString

LISTS = ("data.root", "eval.root")  # these keys can also hold several paths: data.root=[/a,/b]
PATH_KEYS = (*LISTS, "checkpoint", "data.source.cache", "init_from", "output")
_SEAL = "%%"  # does not occur in percent-encoded text
# These remain in Hydra's grammar. Hydra's sweeper writes an interpolation ${name} as $\\{name\\}.
_SPECIAL = re.compile(r"""null|choice\(.*\)|'.*'|".*"|.*\$\\?\{.*|""", re.DOTALL)


def literal(override: str) -> str:
    """Return the override with the value of a path key in quotes and ``~`` expanded; others are returned unchanged.

    Hydra's grammar splits a path at commas and does not accept ``~``, spaces, brackets, ``=``, ``#`` and quotes. A
    value that is already quoted, ``null``, ``choice(...)`` or an interpolation keeps its meaning in Hydra's grammar, so
    the result of this function is also accepted. Under ``-m`` only ``choice(...)`` sweeps over paths.
    """
    key, equals, value = override.partition("=")
    name = key.lstrip("+")
    if not equals or name not in PATH_KEYS or _SPECIAL.fullmatch(value):
        return override
    if name in LISTS and value.startswith("[") and value.endswith("]"):
        entries = re.findall(r"""\s*('[^']*'|"[^"]*"|[^,]+)""", value[1:-1])
        return f"{key}=[{','.join(_quoted_entry(entry.strip()) for entry in entries)}]"
    return f"{key}={quoted(os.path.expanduser(value))}"


def sealed(override: str) -> str:
    """Return ``KEY=choice(...)`` with the value percent-encoded: Hydra's sweeper loses the quotes of an element."""
    key, _, value = override.partition("=")
    return f"{key}=choice({_SEAL}{quote(value, safe='')})"


def opened(override: str) -> str:
    """Undo `sealed` for an override that Hydra's sweeper took from the choice."""
    key, _, value = override.partition("=")
    return f"{key}={unquote(value.removeprefix(_SEAL))}" if value.startswith(_SEAL) else override


def quoted(text: str) -> str:
    """Return ``text`` as a string in single quotes of Hydra's grammar."""
    return QuotedString(text, Quote.single).with_quotes()


def _quoted_entry(entry: str) -> str:
    return entry if _SPECIAL.fullmatch(entry) else quoted(os.path.expanduser(entry))
