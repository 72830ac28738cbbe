"""Fetching from the Hub: its real clients against a server on this machine that speaks the Hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

SCRIPTS = Path(__file__).parent.parent / "workflow/scripts"
REVISION = "0123456789abcdef0123456789abcdef01234567"
MODEL = {
    "config.json": b'{"model_type": "gpt2"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights" * 100,
    "pytorch_model.bin": b"a pickle, which could run code",
    "modeling_evil.py": b"raise SystemExit",
}
DATA = {"data/train.jsonl": b'{"text": "one"}\n{"text": "two"}\n', "data/test.jsonl": b'{"text": "three"}\n'}


class Hub(BaseHTTPRequestHandler):
    """The calls that a snapshot and `load_dataset` make: the commit, the files of a folder, a file."""

    files = MODEL | DATA

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        folder = path.partition(f"/tree/{REVISION}")[2].strip("/")
        name = path.partition(f"/resolve/{REVISION}/")[2]
        if "maker/known" not in path:
            self._answer(b"", {"X-Error-Code": "RepoNotFound"}, status=404)
        elif "/tree/" in path:
            self._answer(json.dumps(self._list(folder, "recursive=true" in query.lower())).encode())
        elif "/resolve/" in path and name in self.files:
            content = self.files[name]
            self._answer(content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": REVISION})
        elif path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in self.files]
            self._answer(json.dumps({"id": "maker/known", "sha": REVISION, "siblings": siblings}).encode())
        else:
            self._answer(b"", {"X-Error-Code": "EntryNotFound"}, status=404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _list(self, folder: str, deep: bool) -> list[dict[str, object]]:
        inside = {name: content for name, content in self.files.items() if deep or os.path.dirname(name) == folder}
        folders = {os.path.dirname(name) for name in self.files} - {"", folder}
        return [
            *({"type": "file", "path": name, "size": len(made), "oid": _oid(made)} for name, made in inside.items()),
            *({"type": "directory", "path": name, "oid": "0" * 40} for name in folders if not folder),
        ]

    def _answer(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of the server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


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
