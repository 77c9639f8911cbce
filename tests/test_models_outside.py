"""Models of other distributions, declared as entry points of the group lic_train.models."""

from __future__ import annotations

import sys

import pytest

from lic_train.models.base import build, find_model

MODEL = """
from torch import nn

from lic_train.models.base import Codec


class Doubled(Codec):
    downsampling_factor = 2

    def __init__(self, N: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, N, 1)


class Other(Codec):
    pass


settings = {"N": 4}
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a distribution with one model file and the given entry points."""

    def write(*values: str) -> None:
        folder, metadata = tmp_path / "outside_models", tmp_path / "outside_models-1.0.dist-info"
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "doubled.py").write_text(MODEL)
        (folder / "undeclared.py").write_text("raise RuntimeError('imported without a declaration')")
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-models\nVersion: 1.0\n")
        entries = "".join(f"model{i} = {value}\n" for i, value in enumerate(values))
        (metadata / "entry_points.txt").write_text(f"[lic_train.models]\n{entries}")

    monkeypatch.syspath_prepend(str(tmp_path))
    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "outside_models"]:
        del sys.modules[name]


@pytest.mark.parametrize("value", ["outside_models.doubled:Doubled", "outside_models.doubled"])
def test_declared_model_is_found_and_built(install, value):
    install(value)
    config = {"_target_": "outside_models.doubled.Doubled", "N": 4}
    assert find_model(config).downsampling_factor == 2
    assert build(config).layer.weight.shape == (4, 3, 1, 1)


def test_model_of_an_undeclared_module_raises_without_import(install):
    install("outside_models.doubled:Doubled")
    with pytest.raises(ValueError, match=r"declared entry point.*outside_models\.doubled\.Doubled") as caught:
        find_model({"_target_": "outside_models.undeclared.Doubled"})
    assert "got 'outside_models.undeclared.Doubled'" in str(caught.value)
    assert not [name for name in sys.modules if name.startswith("outside_models")]


def test_undeclared_class_of_a_declared_module_raises(install):
    install("outside_models.doubled:Doubled")
    with pytest.raises(ValueError, match=r"got 'outside_models\.doubled\.Other'"):
        find_model({"_target_": "outside_models.doubled.Other"})


@pytest.mark.parametrize(
    "target", ["outside_models.doubled.submodule.Doubled", "outside_models.Doubled", "outside.Doubled"]
)
def test_neighbour_of_a_declared_module_raises(install, target):
    install("outside_models.doubled")
    with pytest.raises(ValueError, match="declared entry point"):
        find_model({"_target_": target})


@pytest.mark.parametrize("name", ["settings", "nn"])
def test_declared_object_that_is_no_codec_raises(install, name):
    install("outside_models.doubled", f"outside_models.doubled:{name}")
    with pytest.raises(ValueError, match=r"expected a subclass of lic_train\.models\.base\.Codec"):
        find_model({"_target_": f"outside_models.doubled.{name}"})


def test_declared_class_that_does_not_exist_raises(install):
    install("outside_models.doubled:Missing")
    with pytest.raises(ValueError, match=r"expected an existing model, got 'outside_models\.doubled\.Missing'"):
        find_model({"_target_": "outside_models.doubled.Missing"})


@pytest.mark.parametrize("target", ["os.system", "lic_train.files.checkpoint.Metadata", "", "Codec"])
def test_other_targets_raise(target):
    with pytest.raises(ValueError, match=r"expected lic_train\.models\.<file>\.<Class> or a declared entry point"):
        find_model({"_target_": target})


def test_entry_point_of_another_group_is_not_accepted(install, tmp_path):
    install()
    entries = "[console_scripts]\nmodel = outside_models.doubled:Doubled\n"
    (tmp_path / "outside_models-1.0.dist-info" / "entry_points.txt").write_text(entries)
    with pytest.raises(ValueError, match="declared entry point"):
        find_model({"_target_": "outside_models.doubled.Doubled"})
