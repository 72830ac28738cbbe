"""The micro example, built once, and copies of it for the tests that change something."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import micro
from snaketune.kernels import forget_stale

forget_stale()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro example after one whole run. Not to be changed: take a copy with `workspace`."""
    folder = micro.make(tmp_path_factory.mktemp("micro") / "built")
    micro.snakemake(folder)
    return folder


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the built micro example with its time stamps and Snakemake's records."""

    def copy() -> Path:
        target = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(built, target, symlinks=True)
        return target

    return copy
