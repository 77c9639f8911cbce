"""Names of result files: unique, and short enough for every file system."""

from __future__ import annotations

from lic_train.config.resolvers import register_resolvers
from lic_train.evaluate.run import new_stem


def test_long_names_are_shortened_and_remain_different(tmp_path):
    folders = "/".join(letter * 50 for letter in "abcd")
    stems: dict[str, str] = {}
    for name in (f"{folders}/{'x' * 60}1.png", f"{folders}/{'x' * 60}2.png", "写" * 90 + ".png"):
        stems[name] = new_stem(name, stems)
        (tmp_path / f".{stems[name]}.json.{2**31}.tmp").touch()  # the longest name that is written
        (tmp_path / f"{'s' * 64}_{stems[name]}.png").touch()
    assert len(set(stems.values())) == 3
    assert new_stem("kodim01.png", {}) == "kodim01"


def test_names_of_a_search_contain_no_plus():
    from omegaconf import OmegaConf

    register_resolvers()
    names = [OmegaConf.create({"x": x, "name": "lr_${short:${x}}"}).name for x in (10000, 0.5, 1e-7, 123456)]
    assert names == ["lr_1e04", "lr_0.5", "lr_1e-07", "lr_1.235e05"]
