"""One Slurm for all tests of this folder, or the reason why they are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from tests.slurm import cluster


@pytest.fixture(scope="session", autouse=True)
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two nodes, which Slurm's commands find; jobs take the environment of the test over, one thread each."""
    if reason := cluster.why_not():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, cluster.started(tmp_path_factory.mktemp("slurm")):
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        yield
