"""Hook of MkDocs: pages from files outside docs/, the tutorial notebook as a page, and links between them.

The Markdown files are written for a repository browser, where links out of docs/ work. On the site, a link to a file
that is a page leads to the page; of any other link out of docs/, only the text is kept.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = "docs/tutorial.ipynb"
# File of the repository -> page of the site.
PAGES = {
    "data/README.md": "data_sets.md",
    "README.md": "models.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    NOTEBOOK: "tutorial.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of `PAGES` and the pictures of the notebook."""
    for source, target in PAGES.items():
        if source != NOTEBOOK:
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, target, content=_section(text) if source == "README.md" else text))
    text, pictures = render(json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8")))
    files.append(File.generated(config, PAGES[NOTEBOOK], content=text))
    for name, content in pictures.items():
        files.append(File.generated(config, name, content=content))
    files.append(File.generated(config, "highlight.css", content=_colours()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to pages, or into plain text."""
    sources = {target: source for source, target in PAGES.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def replaced(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        if not path:
            return match[0]
        linked = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        page_of_link = PAGES.get(linked, linked.removeprefix("docs/") if linked.startswith("docs/") else None)
        return f"[{text}]({page_of_link}{anchor})" if page_of_link else text

    return LINK.sub(replaced, markdown)


def render(notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"tutorial_{len(pictures)}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![Output of the cell above]({name})")
            else:
                printed = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def _section(readme: str) -> str:
    """The models and the state of their reproduction, as a page."""
    models = readme.split("## Models\n", 1)[1].split("\n## ", 1)[0]
    return f"# Models and papers\n{models}"


def _colours() -> str:
    """Style sheet of highlighted code, for light and dark pages."""
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="monokai").get_style_defs("[data-bs-theme=dark] .highlight")
    return f"{light}\n{dark}\n"
