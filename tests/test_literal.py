"""Paths on the command line are literal text: every path reaches the configuration as it was typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from lic_train.config.command_line import prepare
from lic_train.config.compose import compose
from lic_train.config.literal import PATH_KEYS, literal, opened, sealed

PATHS = [
    "/plain", "relative/path", "/with space", "/[brackets]", "/a=b", "/#1", "/it's", '/"quoted"', "/é/写真/фото",
    "/a,b", "/a;b", "/a:b", "/{00..99}.tar", "/shard-*.tar", "/(x)", "/100%", "/back\\slash", "/trailing\\", "/a&b",
    "s3://bucket/a b", "/ü ñ's, [x]=(1)#2", "123", "true", "/tab\tx", "-x", "@x", "/x\\'y",
]  # fmt: skip


def value_of(override: str) -> object:
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize("path", PATHS)
def test_path_is_literal_also_in_every_process_that_is_started(path: str) -> None:
    for key in PATH_KEYS:
        once = literal(f"{key}={path}")
        assert str(value_of(once)) == path
        assert literal(once) == once  # a started process receives it again


@pytest.mark.parametrize("path", PATHS)
def test_path_is_the_same_in_every_job_of_a_sweep(path: str) -> None:
    once = literal(f"data.root={path}")
    words = OverridesParser.create().parse_overrides(["lambda=0.01,0.02", once, sealed(once)])
    jobs = BasicSweeper.split_arguments(words, max_batch_size=None)[0]
    assert len(jobs) == 2
    for job in jobs:
        for word in job[1:]:
            OverridesParser.create().parse_override(word)  # the sweeper composes it once more
            assert str(value_of(literal(opened(word)))) == path


def test_command_line_of_a_sweep_hides_the_path_from_the_default_model() -> None:
    words = prepare(["-m", "model=cwam,iblic", "data=folder", "data.root=/it's [1]"])
    assert words[-1].startswith("data.root=choice(")
    (element,) = BasicSweeper.split_arguments([OverridesParser.create().parse_override(words[-1])], None)[0][0]
    assert value_of(opened(element)) == "/it's [1]"


def test_special_values_keep_their_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert value_of(literal("data.root=~/photographs")) == "/home/me/photographs"
    assert value_of(literal("data.root=[/a b,~/c,'/d,e']")) == ["/a b", "/home/me/c", "/d,e"]
    assert value_of(literal("init_from=null")) is None
    assert literal("output=outputs/${name}") == "output=outputs/${name}"
    assert literal(r"output=outputs/$\{name\}") == r"output=outputs/$\{name\}"
    assert literal("data.root=choice(/a,/b)") == "data.root=choice(/a,/b)"
    assert literal("name=a b") == "name=a b"
    assert literal("data.root") == "data.root"


def test_composed_configuration_has_the_path(tmp_path: Path) -> None:
    odd = tmp_path / "é [1], it's=#2"
    cfg = compose(["data=folder", f"data.root={odd}", f"output={odd}/run", "eval=kodak", f"eval.root=[{tmp_path},~]"])
    assert (cfg.data.root, cfg.output) == (str(odd), f"{odd}/run")
    assert list(cfg.eval.root) == [str(tmp_path), str(Path.home())]
