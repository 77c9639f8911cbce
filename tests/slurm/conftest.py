"""A Slurm instance for all tests of this folder; they are skipped if it cannot be started."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from tests.slurm import cluster


@pytest.fixture(scope="session", autouse=True)
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start Slurm with two nodes; jobs inherit the environment of the test and use one thread each."""
    if reason := cluster.why_not():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, cluster.started(tmp_path_factory.mktemp("slurm")):
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        yield
