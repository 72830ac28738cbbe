"""A Hugging Face Hub on this machine: what its real client asks when it downloads, and when it uploads without Xet."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

REVISION = "0123456789abcdef0123456789abcdef01234567"
LICENSES = ("mit", "apache-2.0")


class Answers(BaseHTTPRequestHandler):
    """What both servers need."""

    def answer(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, content: Any, status: int = 200, **headers: str) -> None:
        self.answer(json.dumps(content).encode(), {"Content-Type": "application/json", **headers}, status)

    def log_message(self, *_: object) -> None:
        pass


class Downloads(Answers):
    """The calls that a snapshot and `load_dataset` make: the commit, the files of a folder, a file."""

    files: dict[str, bytes]  # of maker/known

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        folder = path.partition(f"/tree/{REVISION}")[2].strip("/")
        name = path.partition(f"/resolve/{REVISION}/")[2]
        if "maker/known" not in path:
            self.answer(b"", {"X-Error-Code": "RepoNotFound"}, status=404)
        elif "/tree/" in path:
            self.answer_json(self._list(folder, "recursive=true" in query.lower()))
        elif "/resolve/" in path and name in self.files:
            content = self.files[name]
            self.answer(content, {"ETag": f'"{_sha1(content)}"', "X-Repo-Commit": REVISION})
        elif path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in self.files]
            self.answer_json({"id": "maker/known", "sha": REVISION, "siblings": siblings})
        else:
            self.answer(b"", {"X-Error-Code": "EntryNotFound"}, status=404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _list(self, folder: str, deep: bool) -> list[dict[str, object]]:
        inside = {name: content for name, content in self.files.items() if deep or os.path.dirname(name) == folder}
        folders = {os.path.dirname(name) for name in self.files} - {"", folder}
        return [
            *({"type": "file", "path": name, "size": len(made), "oid": _sha1(made)} for name, made in inside.items()),
            *({"type": "directory", "path": name, "oid": "0" * 40} for name in folders if not folder),
        ]


@dataclass
class Repository:
    """A repository, as the uploads have left it."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=lambda: [REVISION])


@dataclass
class Shelf:
    """What the server of uploads knows: repositories, names that it will not give, and who may write."""

    token: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    readers: set[str] = field(default_factory=set)  # tokens that may not write
    objects: dict[str, bytes] = field(default_factory=dict)  # large files, by sha256
    asked: list[str] = field(default_factory=list)


class Uploads(Answers):
    """The calls that `create_repo` and `create_commit` make. What it refuses, it repeats, the token too."""

    shelf: Shelf

    def do_GET(self) -> None:
        name = self.path.partition("/api/models/")[2].removesuffix("/revision/main")
        if not self._known():
            return
        if (repository := self.shelf.repositories.get(name)) is None:
            self.answer_json({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})
            return
        siblings = [{"rfilename": path} for path in repository.files]
        about = {"id": name, "sha": repository.commits[-1], "private": repository.private, "siblings": siblings}
        self.answer_json(about)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._known():
            return
        self.shelf.asked.append(self.path)
        if self.path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif self.path == "/lfs/verify":
            self.answer_json({}, 200 if json.loads(body)["oid"] in self.shelf.objects else 404)
        elif self._sent in self.shelf.readers:
            self._refuse(403, "you must have write access")
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif "/preupload/" in self.path:
            self.answer_json({"files": [self._mode(file) for file in json.loads(body)["files"]]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            self.answer_json({"transfer": "basic", "objects": list(map(self._action, json.loads(body)["objects"]))})
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self.answer_json({"error": "unknown"}, 404)

    def do_PUT(self) -> None:
        """A large file: the client sends no token here, the address is secret."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = hashlib.sha256(content).hexdigest()
        same = self.path == f"/lfs/{oid}"
        if same:
            self.shelf.objects[oid] = content
        self.answer(b"", {"ETag": f'"{oid}"'}, 200 if same else 400)

    @property
    def _sent(self) -> str:
        return (self.headers["Authorization"] or "").removeprefix("Bearer ")

    @property
    def _name(self) -> str:
        return re.findall(r"[\w-]+/[\w-]+(?=/preupload|/commit|\.git)", self.path)[0]

    @property
    def _repository(self) -> Repository:
        return self.shelf.repositories[self._name]

    def _known(self) -> bool:
        known = self._sent == self.shelf.token or self._sent in self.shelf.readers
        if not known:
            self._refuse(401, "Invalid credentials in Authorization header")
        return known

    def _refuse(self, status: int, why: str) -> None:
        self.answer_json({"error": f"{why}: {self._sent}"}, status, **{"X-Error-Message": f"{why}"})

    def _validate(self, card: str) -> None:
        given = yaml.safe_load(card.split("---\n")[1]).get("license")
        wrong = given is not None and given not in LICENSES
        errors = [{"message": f'"license" must be one of {", ".join(LICENSES)}'}] if wrong else []
        self.answer_json({"errors": errors, "warnings": []}, 400 if wrong else 200)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.shelf.taken or name in self.shelf.repositories:
            self._refuse(409, "You already created this repo")
            return
        self.shelf.repositories[name] = Repository(wanted["visibility"] == "private")
        self.answer_json({"url": f"http://{self.headers['Host']}/{name}", "name": name})

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith(".safetensors")
        there = self._repository.files.get(file["path"])
        oid = there and (hashlib.sha256(there).hexdigest() if large else _sha1(b"blob %d\0" % len(there) + there))
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def _action(self, wanted: dict[str, Any]) -> dict[str, Any]:
        here = f"http://{self.headers['Host']}/lfs"
        actions = {"upload": {"href": f"{here}/{wanted['oid']}"}, "verify": {"href": f"{here}/verify"}}
        return wanted | ({} if wanted["oid"] in self.shelf.objects else {"actions": actions})

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        repository = self._repository
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                repository.files[value["path"]] = self.shelf.objects[value["oid"]]
            elif key == "deletedFile":
                del repository.files[value["path"]]
        repository.commits.append(f"{len(repository.commits):040x}")
        place = f"http://{self.headers['Host']}/{self._name}/commit/{repository.commits[-1]}"
        self.answer_json({"commitOid": repository.commits[-1], "commitUrl": place})


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server that runs in a thread."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
