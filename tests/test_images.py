"""The two descriptions of the image say the same, and what they say is the lock. Building them needs a registry."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCKER = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
APPTAINER = (ROOT / "snaketune.def").read_text()


def installed(text: str) -> tuple[set[str], list[str]]:
    """Debian packages, and what pip installs, in order; the optional ones of arguments left out."""
    debian = re.findall(r"apt-get install -y --no-install-recommends ([a-z0-9 .+-]+)", text)
    python = re.findall(r"pip install ((?:--\S+ )*-r \S+)", text)
    return {name for names in debian for name in names.split()}, python


def test_docker_and_apptainer_install_the_same_on_the_same_base() -> None:
    assert installed(DOCKER) == installed(APPTAINER)
    base = re.search(r"^ARG BASE=(\S+)$", DOCKER, re.MULTILINE)
    assert base
    assert f"\nFrom: {base[1]}\n" in APPTAINER
    assert base[1].startswith("python:3.11"), "the Python of the lock"


def test_both_install_the_lock_and_check_that_it_fits_together() -> None:
    debian, python = installed(DOCKER)
    assert {"gcc", "git"} <= debian
    assert len(python) == 1
    assert python[0].endswith("-r /opt/snaketune/requirements.lock")
    for text in (DOCKER, APPTAINER):
        assert re.search(r"requirements\.lock\s+/opt/snaketune/requirements\.lock", text), "it is copied there"
        assert "pip check" in text


def test_the_image_has_the_name_that_the_workflow_asks_for() -> None:
    named = re.search(r"docker-daemon://(\S+?)\"", (ROOT / "Snakefile").read_text())
    assert named
    assert f"docker build -t {named[1]} ." in DOCKER
    assert f"version {named[1].partition(':')[2]}" in APPTAINER


def test_a_container_does_not_run_as_root_unless_asked() -> None:
    users = re.findall(r"^USER (\S+)$", DOCKER, re.MULTILINE)
    assert users == ["1000"], "as a number: Kubernetes can tell that it is not root"


def test_nothing_of_the_folder_goes_into_the_image_but_the_lock() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["*", "!requirements.lock"]
