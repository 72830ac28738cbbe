"""Fetching from the Hub: its real clients against a server on this machine that speaks the Hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hub import REVISION, Downloads, served

SCRIPTS = Path(__file__).parent.parent / "workflow/scripts"
MODEL = {
    "config.json": b'{"model_type": "gpt2"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights" * 100,
    "pytorch_model.bin": b"a pickle, which could run code",
    "modeling_evil.py": b"raise SystemExit",
}
DATA = {"data/train.jsonl": b'{"text": "one"}\n{"text": "two"}\n', "data/test.jsonl": b'{"text": "three"}\n'}


class Hub(Downloads):
    """Has a model and a data set in one repository."""

    files = MODEL | DATA


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of the server."""
    with served(Hub) as address:
        yield address


def fetch(stage: str, out: Path, hub: str, settings: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """Run a stage in a process of its own, whose Hub is the server."""
    program = f"import sys, json; from {stage} import {stage}; print({stage}(sys.argv[1], json.loads(sys.argv[2])))"
    home = str(out.parent.parent / "hf")
    environment = os.environ | {"HF_ENDPOINT": hub, "PYTHONPATH": str(SCRIPTS), "HF_HOME": home}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", program, str(out), json.dumps(settings)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)


def fetch_model(folder: Path, hub: str, base: str = "maker/known", remote: bool = False) -> subprocess.CompletedProcess:
    """Fetch a model into <folder>/model."""
    settings = {"base": base, "revision": REVISION, "trust_remote_code": remote}
    return fetch("fetch_base", folder / "model/manifest.json", hub, settings)


def test_a_model_is_fetched_as_safetensors_without_pickles_and_code(hub: str, tmp_path: Path) -> None:
    done = fetch_model(tmp_path, hub)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "model/manifest.json").read_text())
    assert set(manifest["files"]) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert manifest["files"]["model.safetensors"] == hashlib.sha256(MODEL["model.safetensors"]).hexdigest()
    assert not {path.suffix for path in (tmp_path / "model").rglob("*")} & {".bin", ".py"}


def test_code_comes_along_only_when_it_is_trusted(hub: str, tmp_path: Path) -> None:
    assert fetch_model(tmp_path, hub, remote=True).returncode == 0
    assert (tmp_path / "model/modeling_evil.py").exists()


def test_an_unknown_model_is_a_sentence(hub: str, tmp_path: Path) -> None:
    done = fetch_model(tmp_path, hub, base="maker/unknown")
    assert done.returncode != 0
    assert f"maker/unknown at {REVISION} cannot be fetched" in done.stderr
    assert not (tmp_path / "model/manifest.json").exists()


def test_a_model_without_safetensors_is_refused(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "files", {name: MODEL[name] for name in ("config.json", "pytorch_model.bin")})
    done = fetch_model(tmp_path, hub)
    assert done.returncode != 0
    assert "has no safetensors" in done.stderr


@pytest.mark.parametrize(("split", "texts"), [("train", ["one", "two"]), ("test", ["three"])])
def test_a_split_of_a_data_set_becomes_one_parquet_file(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, texts: list[str]
) -> None:
    monkeypatch.setattr(Hub, "files", DATA)
    settings = {"hub": "maker/known", "hub_config": None, "hub_split": split, "revision": REVISION}
    out = tmp_path / "data/rows.parquet"
    done = fetch("fetch_data", out, hub, settings)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(out)["text"].to_pylist() == texts


def test_an_unknown_data_set_is_a_sentence(hub: str, tmp_path: Path) -> None:
    settings = {"hub": "maker/unknown", "hub_config": None, "hub_split": "train", "revision": REVISION}
    done = fetch("fetch_data", tmp_path / "data/rows.parquet", hub, settings)
    assert done.returncode != 0
    assert f"maker/unknown at {REVISION} cannot be read" in done.stderr
