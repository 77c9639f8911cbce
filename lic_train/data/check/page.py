"""The page of `lic_train.data.check`: one HTML file that needs no network, with every name escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image, ImageFile

from lic_train.data.archives.indexed import Indexed
from lic_train.data.check.looks import KINDS, WORST, Summary
from lic_train.data.decode.images import MAX_PIXELS, UnreadableImage, open_header, open_rgb

SIDE = 160  # of a thumbnail, pixels
MAX_NAMED = 500  # damaged files on the page; all are in report.json
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1d2329;background:#fff}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.3rem 0}
table{border-collapse:collapse}td,th{padding:.25rem .8rem .25rem 0;text-align:left;vertical-align:top}
tr{border-bottom:1px solid #dfe3e8}td.n{text-align:right;font-variant-numeric:tabular-nums}
.good{color:#17713a}.bad{color:#b3261e}.path{overflow-wrap:anywhere;font-family:ui-monospace,monospace;font-size:.8rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(10rem,1fr));gap:1rem}
figure{margin:0}figure img,.none{width:100%;height:160px;object-fit:contain;background:#eef1f4;border-radius:4px}
.none{display:flex;align-items:center;justify-content:center;color:#67727e;font-size:.85rem}
figcaption{font-size:.8rem;overflow-wrap:anywhere;margin-top:.2rem}figcaption b{font-weight:600;color:#b3261e}
@media(prefers-color-scheme:dark){body{background:#14181c;color:#e3e7ea}tr{border-color:#333b43}
.good{color:#6fd08f}.bad,figcaption b{color:#ff8a80}figure img,.none{background:#232a31}}
"""


def page(root: str, source: Indexed, summary: Summary, crop: int) -> str:
    """The whole page."""
    smallest, median, largest = summary.sides()
    damaged = sorted(summary.damaged.items())
    body = [
        f"<h1>What is in <span class=path>{escape(root)}</span></h1>",
        f"<p>{len(source):,} pictures, shorter side {smallest:,} to {largest:,} pixels, median {median:,}; "
        f"checked for crops of {crop}.</p>",
        _counts(source, summary),
        _archives(source),
        _section("Damaged: what could still be decoded", source, damaged[:WORST]),
        _section("Smallest", source, [(index, "") for index, _ in summary.worst("small")]),
        _section("Nearly one colour", source, [(index, "") for index, _ in summary.worst("flat")]),
        _section("Exact copies", source, [(i, f"as {source.name(first)}") for i, first in summary.copies()[:WORST]]),
        _section("Fewest bits per pixel", source, [(i, f"{bits:.2f} bits") for i, bits in summary.worst("bits")]),
        _list("All damaged files", [(source.name(index), reason) for index, reason in damaged]),
    ]
    head = f'<meta charset=utf-8><meta name=viewport content="width=device-width"><title>{escape(root)}</title>'
    return f"<!doctype html><html lang=en>{head}<style>{STYLE}</style><body>{''.join(body)}</body></html>\n"


def _counts(source: Indexed, summary: Summary) -> str:
    rows = [("can be trained on", summary.whole, "good"), ("damaged", len(summary.damaged), "bad")]
    rows += [(meaning, summary.notes[kind], "") for kind, meaning in KINDS.items()]
    rows += [("passed over: hidden and system files", source.index.hidden, "")]
    rows += [("passed over: no pictures by their names", source.index.others, "")]
    cells = (f"<tr class={css or 'plain'}><td>{escape(what)}<td class=n>{n:,}" for what, n, css in rows if n)
    return f"<h2>Found</h2><table>{''.join(cells)}</table>"


def _archives(source: Indexed) -> str:
    return _list("Damaged archives", [(problem.file, problem.reason) for problem in source.index.problems])


def _list(title: str, rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    more = f"<p>and {len(rows) - MAX_NAMED:,} more in report.json</p>" if len(rows) > MAX_NAMED else ""
    lines = (f"<tr><td class=path>{escape(name)}<td>{escape(reason)}" for name, reason in rows[:MAX_NAMED])
    return f"<h2>{escape(title)}</h2><table>{''.join(lines)}</table>{more}"


def _section(title: str, source: Indexed, pictures: Iterable[tuple[int, str]]) -> str:
    """Thumbnails with names, and what is to be said of them."""
    figures = "".join(_figure(source, index, remark) for index, remark in pictures)
    return f"<h2>{escape(title)}</h2><div class=grid>{figures}</div>" if figures else ""


def _figure(source: Indexed, index: int, remark: str) -> str:
    picture, size = _thumbnail(source, index)
    shown = f"<img alt='' src='{picture}'>" if picture else "<div class=none>nothing to see</div>"
    said = f"<br><b>{escape(remark)}</b>" if remark else ""
    caption = f"<span class=path>{escape(source.name(index))}</span> {size}{said}"
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _thumbnail(source: Indexed, index: int) -> tuple[str, str]:
    """The picture as far as it can be decoded, as a data address, and its size; empty if there is nothing."""
    try:
        data = source.read(index)
        try:
            image = open_rgb(data)
        except UnreadableImage:
            image = _remains(data)
    except Exception:  # whatever damaged bytes lead to: it is on this page because of it
        return "", ""
    size = f"{image.width} x {image.height}"
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}", size


def _remains(data: bytes) -> Image.Image:
    """What can be decoded of a damaged picture. Raises anything."""
    strict, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        image = open_header(data)
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableImage("too large to look at")
        return image.convert("RGB")
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = strict
