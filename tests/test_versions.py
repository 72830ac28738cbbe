"""An environment that is not the lock's, or not the one that made earlier results, is told in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy
import pyarrow
import pytest

from manifest import manifest
from snaketune import versions

ROOT = Path(__file__).parent.parent


def lock_of(folder: Path, **changed: str) -> Path:
    """A lock of what is installed, but for some packages."""
    found = {name: number for name, number in versions.installed().items() if number} | changed
    lock = folder / "requirements.lock"
    lock.write_text("# a comment\n" + "".join(f"{name}=={number.split('+')[0]}\n" for name, number in found.items()))
    return lock


def made_with(folder: Path, run: str, lock: Path, **changed: str) -> None:
    """A run's manifest, as the workflow writes it, but for some versions."""
    path = folder / "results" / run / "manifest.json"
    path.parent.mkdir(parents=True)
    manifest([], [str(lock)], str(path), {"run": run})
    facts = json.loads(path.read_text())
    facts["python"] = changed.pop("python", facts["python"])
    facts["packages"] |= changed
    path.write_text(json.dumps(facts))


def told(folder: Path, lock: Path, *runs: str) -> str | None:
    return versions.warning(lock, runs, folder / "results")


def test_the_installed_versions_are_those_that_the_packages_say() -> None:
    found = versions.installed()
    assert found["numpy"] == numpy.__version__
    assert found["pyarrow"] == pyarrow.__version__
    assert tuple(found) == versions.PACKAGES
    assert versions.locked(ROOT / "requirements.lock").keys() == set(versions.PACKAGES), "the lock pins every one"


def test_nothing_is_said_where_the_environment_is_the_one_of_the_lock_and_of_the_results(tmp_path: Path) -> None:
    lock = lock_of(tmp_path)
    assert told(tmp_path, lock, "never-ran") is None
    made_with(tmp_path, "mine", lock)
    assert told(tmp_path, lock, "mine") is None


def test_a_package_that_is_not_the_locks_is_named_with_both_versions_and_what_to_do(tmp_path: Path) -> None:
    line = told(tmp_path, lock_of(tmp_path, numpy="1.0.0"), "mine")
    assert line is not None
    assert f"numpy 1.0.0, now {numpy.__version__}" in line
    assert "pip install -r" in line
    assert "pyarrow" not in line
    assert "\n" not in line


def test_results_of_another_version_are_named_with_their_run(tmp_path: Path) -> None:
    lock = lock_of(tmp_path)
    made_with(tmp_path, "mine", lock, **{"rouge-score": "0.0.1"})
    made_with(tmp_path, "unchanged", lock)
    line = told(tmp_path, lock, "mine", "unchanged")
    assert line is not None
    assert f"mine in {tmp_path}/results/ was made with rouge-score 0.0.1, now {version('rouge_score')}" in line
    assert "unchanged" not in line
    assert "--forceall" in line
    assert "requirements.lock" not in line, "the lock is met"


def test_runs_that_differ_alike_share_a_sentence_and_long_lists_are_cut(tmp_path: Path) -> None:
    lock = lock_of(tmp_path)
    old = dict.fromkeys(("numpy", "pandas", "pyarrow", "numba", "torch"), "0.0.1")
    runs = [f"run-{number}" for number in range(5)]
    for run in runs:
        made_with(tmp_path, run, lock, **old)
    line = told(tmp_path, lock, *runs)
    assert line is not None
    assert line.count("was made with") == 1
    assert "run-0, run-1, run-2 and 2 more" in line
    assert line.count("0.0.1") == 3
    assert line.count("and 2 more") == 2


def test_results_of_another_lock_are_not_told_for_snakemake_makes_them_anew(tmp_path: Path) -> None:
    lock = lock_of(tmp_path)
    made_with(tmp_path, "mine", lock, numpy="0.0.1")
    assert told(tmp_path, lock, "mine") is not None
    lock.write_text(lock.read_text() + "# newer\n")
    assert told(tmp_path, lock, "mine") is None


def test_the_build_of_torch_is_not_the_locks_business_but_that_of_results(tmp_path: Path) -> None:
    assert versions.differences({"torch": "2.13.0"}, {"torch": "2.13.0+cu130"}, builds=False) == []
    assert versions.differences({"torch": "2.13.0+cpu"}, {"torch": "2.13.0+cu130"}) == [
        "torch 2.13.0+cpu, now 2.13.0+cu130"
    ]


def test_another_patch_of_python_is_none_and_another_minor_version_is_one(tmp_path: Path) -> None:
    assert versions.differences({"python": "3.11.2"}, {"python": "3.11.9"}) == []
    assert versions.differences({"python": "3.11.2"}, {"python": "3.12.0"}) == ["python 3.11.2, now 3.12.0"]


def test_names_are_compared_as_pip_does_and_what_is_gone_is_missing(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("rouge_score==0.1.2\nPyArrow==1.0 ; python_version > '3'\nunknown==3\n-e git+https://host/x\n")
    assert versions.locked(lock) == {"rouge-score": "0.1.2", "pyarrow": "1.0"}
    assert versions.differences({"peft": "0.21.2"}, {"peft": None}) == ["peft 0.21.2, now missing"]
    assert versions.differences({"trl": "1.0"}, {"peft": "1.0"}) == [], "what is not compared any more"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"packages": 3, "code": {}}', '{"packages": {}, "code": []}'])
def test_a_manifest_that_cannot_be_read_is_no_manifest(tmp_path: Path, text: str) -> None:
    lock = lock_of(tmp_path)
    path = tmp_path / "results/mine/manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert told(tmp_path, lock, "mine") is None


def test_a_manifest_of_a_workflow_elsewhere_is_found_by_the_content_of_its_lock(tmp_path: Path) -> None:
    lock = lock_of(tmp_path)
    path = tmp_path / "results/mine/manifest.json"
    path.parent.mkdir(parents=True)
    code = {"../elsewhere/requirements.lock": sha256(lock.read_bytes()).hexdigest()}
    path.write_text(json.dumps({"packages": {"numpy": "0.1"}, "code": code, "python": None}))
    assert "numpy 0.1" in (told(tmp_path, lock, "mine") or "")


def test_no_package_is_imported_for_it() -> None:
    """Python itself is asked which modules are there afterwards."""
    code = "import sys; from snaketune import versions; versions.installed(); print(*sys.modules)"
    environment = {"PYTHONPATH": str(ROOT / "workflow/scripts"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert not {"numpy", "torch", "snakemake", "pyarrow"} & set(done.stdout.split())
