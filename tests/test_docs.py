"""README and docs/: links, images, command lines, the models table, the API page, the example package, the site."""

from __future__ import annotations

import argparse
import csv
import functools
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lic_train.cli import COMMANDS
from lic_train.config.names import check_names
from lic_train.models.base import find_model
from tests.conftest import ROOT

PAGES = sorted(
    [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")),
        ROOT / "lic_train/models/README.md",
    ]
)
NOTEBOOK = ROOT / "docs/tutorial.ipynb"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:(?:srun|torchrun) .*?)?(lic|(?:python )?train\.py) (.+)$")
# Subcommands that take overrides, and the configuration that the overrides belong to.
CONFIGURED = {"train": "config", "evaluate": "evaluate", "complexity": "complexity", "zoo": "zoo"}

each_page = pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=lambda page: str(page.relative_to(ROOT)))


@functools.cache
def text_of(page: Path) -> str:
    """The text of a page, or of the Markdown cells of a notebook."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def prose_of(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def anchors_of(page: Path) -> set[str]:
    """Names of the headings, as GitHub and MkDocs write them into addresses."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_lines() -> Iterator[tuple[str, str, list[str]]]:
    """Page, subcommand and arguments of every command line in a fenced block."""
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for language, block in FENCE.findall(text_of(page)):
            lines = block.splitlines() if language in ("", "bash") else []
            for program, rest in (match.groups() for line in lines if (match := COMMAND.match(line))):
                words = shlex.split(rest, comments=True)
                if program != "lic":
                    yield page.name, "train", words
                elif words[0] == "data":
                    yield page.name, " ".join(words[:2]), words[2:]
                else:
                    yield page.name, words[0], words[1:]


def test_readme_is_short() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 140


@each_page
def test_links_and_images_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose_of(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page if not path else page.parent / path
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors_of(linked), target


def test_every_page_is_linked_from_the_readme_or_the_overview() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in (ROOT / "README.md", ROOT / "docs/index.md", ROOT / "CONTRIBUTING.md")
        for target in LINK.findall(text_of(page))
    }
    assert {page for page in PAGES if page.parent.name == "docs"} - linked == {ROOT / "docs/index.md"}


def test_command_lines_name_existing_subcommands() -> None:
    found = list(command_lines())
    assert len(found) > 50
    assert {name for _, name, _ in found} <= set(COMMANDS)
    assert set(COMMANDS) <= {name for _, name, _ in found}, "every subcommand has an example"


@pytest.mark.parametrize("name", CONFIGURED)
def test_overrides_in_command_lines_exist(name: str) -> None:
    checked = 0
    for _, subcommand, words in command_lines():
        elsewhere = any(word.startswith(("--config-dir", "hydra.searchpath")) for word in words)  # the example package
        if subcommand == name and not elsewhere:
            overrides = [word for word in words if "=" in word and not word.startswith("-")]
            check_names(overrides, CONFIGURED[name])
            checked += len(overrides)
    assert checked


def test_command_lines_parse() -> None:
    for page, subcommand, words in command_lines():
        prefix = COMMANDS[subcommand].prefix
        parser = parser_of(subcommand)
        try:
            parser.parse_args([*prefix, *words]) if prefix else parser.parse_intermixed_args(words)
        except SystemExit:
            pytest.fail(f"{page}: lic {subcommand} {shlex.join(words)}")


@functools.cache
def parser_of(subcommand: str) -> argparse.ArgumentParser:
    command = COMMANDS[subcommand]
    module, _, function = (command.parser or f"{command.module}:parser").partition(":")
    return getattr(importlib.import_module(module), function)()


def test_readme_lists_every_model() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", text_of(ROOT / "README.md").split("## Models")[1], re.MULTILINE)
    assert sorted(rows) == sorted(path.stem for path in (ROOT / "conf/model").glob("*.yaml"))


def test_objects_of_the_api_page_exist() -> None:
    names = re.findall(r"^::: (\S+)$", text_of(ROOT / "docs/api.md"), re.MULTILINE)
    assert names
    for name in names:
        resolve(name)


def resolve(name: str) -> object:
    """The module or object of a dotted name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


# ---- the package of docs/adding_a_model.md ----


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the package that the page describes, as an installed distribution."""
    page = text_of(ROOT / "docs/adding_a_model.md")
    files = dict(re.findall(r"^\*\*`([\w./]+)`\*\*\n\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert len(files) == 4
    for name, content in {**files, "my_codecs/__init__.py": "", "my_codecs/conf/__init__.py": ""}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    project = tomllib.loads(files["pyproject.toml"])["project"]
    metadata = tmp_path / "my_codecs-0.1.0.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: my-codecs\nVersion: 0.1.0\n")
    entries = "\n".join(f"{key} = {value}" for key, value in project["entry-points"]["lic_train.models"].items())
    metadata.joinpath("entry_points.txt").write_text(f"[lic_train.models]\n{entries}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_codecs"]:
        del sys.modules[name]


def test_example_model_refuses_invalid_widths(example: Path) -> None:
    with pytest.raises(ValueError, match="N, M: expected positive numbers, got 0 and 4"):
        find_model({"_target_": "my_codecs.plain_mean.PlainMean"})(N=0, M=4)


def test_example_model_trains_and_codes(example: Path) -> None:
    overrides = ["model=plain_mean", "model.N=8", "model.M=12", "lambda=0.0067", "steps=2", "logger=csv", "crop=64"]
    overrides += ["hydra.searchpath=[pkg://my_codecs.conf]", "eval.limit=1", "validate.crops=2", "trainer.log_every=1"]
    path = os.pathsep.join([str(example), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lic_train", "train", *overrides]
    done = subprocess.run(command, cwd=example, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    run = example / "outputs/plain_mean/plain_mean/lambda_0.0067"
    assert len(list(csv.DictReader((run / "metrics.csv").open()))) == 2
    rows = json.loads((run / "eval/heldout.json").read_text())["rows"]
    assert [row["equal"] for row in rows] == [True]


# ---- the site ----


def test_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="the optional dependencies [docs] are not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "site").glob("*.html")}
    assert {f"{page.stem}.html" for page in PAGES if page.parent.name == "docs"} <= set(pages)
    for name, page in pages.items():
        assert not re.search(r'<(?:script|img|link)[^>]+(?:src|href)="https?://', page), f"{name} loads from a server"
