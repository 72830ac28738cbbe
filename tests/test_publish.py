"""Publishing: the Hub's real client against a server on this machine that speaks the protocol of uploads."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub import REVISION, Repository, Shelf, Uploads, served

SCRIPTS = Path(__file__).parent.parent / "workflow/scripts"
TOKEN = "hf_plantedPlantedPlanted"
MODEL = {
    "config.json": b'{"model_type": "gpt2"}',
    "generation_config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 4000,
    "tokenizer.json": '{"naïve": 1}'.encode(),
    "adapter/adapter_model.safetensors": b"adapter",
}
CARD = b"---\nlicense: mit\n---\n\n# demo\n"
SETTINGS = {"run": "demo", "repo": "maker/demo", "private": True}
# As a job runs it: the failure in words on standard error, no other than StageError expected.
PROGRAM = """
import json, sys, logging
logging.basicConfig(level="DEBUG")
from publish import publish
from types import SimpleNamespace
from snaketune.job import run
model, card, out, settings, log = sys.argv[1:]
job = SimpleNamespace(log=[log], wildcards={"run": "demo"}, rule="publish")
run(lambda job: publish(model, card, out, json.loads(settings)), job)
"""


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(TOKEN)


@pytest.fixture
def hub(shelf: Shelf) -> Iterator[str]:
    """The address of a server with an empty shelf."""
    with served(type("Hub", (Uploads,), {"shelf": shelf})) as address:
        yield address


class Published:
    """What a job of the rule has left: its words, its log, published.json."""

    def __init__(self, folder: Path, hub: str, token: str | None = TOKEN, **settings: Any) -> None:
        model, card, out, log = (folder / name for name in ("model", "card/README.md", "published.json", "a.log"))
        for path, content in {model / name: content for name, content in MODEL.items()}.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (model / "README.md").write_text("the card of another run")
        (model / "training_args.bin").write_bytes(b"a pickle")
        (model / ".cache").mkdir(exist_ok=True)
        (model / ".cache/secret.json").write_text("{}")
        card.parent.mkdir(exist_ok=True)
        card.write_bytes(CARD)
        out.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "hf"), "HF_DEBUG": "1"}
        environment |= {"PYTHONPATH": str(SCRIPTS)} | ({"HF_TOKEN": token} if token else {})
        arguments = [str(model), str(card), str(out), json.dumps(SETTINGS | settings), str(log)]
        command = [sys.executable, "-c", PROGRAM, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
        self.worked = done.returncode == 0
        self.words, self.log = done.stdout + done.stderr, log.read_text()
        self.about = json.loads(out.read_text()) if out.exists() else None
        assert self.worked == (self.about is not None), self.words
        for path in folder.rglob("*"):
            assert not path.is_file() or b"hf_planted" not in path.read_bytes(), f"{path} holds the token"
        assert "hf_planted" not in self.words


def test_what_arrives_is_the_model_with_the_card_of_the_run_byte_for_byte(tmp_path: Path, hub: str, shelf: Shelf):
    done = Published(tmp_path, hub)
    assert done.worked, done.words
    repository = shelf.repositories["maker/demo"]
    assert repository.files == MODEL | {"README.md": CARD}, "no pickle, nothing hidden, not the card of another run"
    assert repository.private
    assert done.about == {
        "repo": "maker/demo",
        "commit": repository.commits[-1],
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in repository.files.items()},
    }
    assert f"maker/demo at {repository.commits[-1][:12]}: 6 files, 1 MB" in done.words


def test_all_comes_in_one_commit_and_the_same_again_makes_none(tmp_path: Path, hub: str, shelf: Shelf):
    first = Published(tmp_path, hub)
    assert len(shelf.repositories["maker/demo"].commits) == 2
    second = Published(tmp_path, hub)
    assert len(shelf.repositories["maker/demo"].commits) == 2
    assert second.about == first.about


def test_weights_of_an_older_model_go_and_other_files_stay(tmp_path: Path, hub: str, shelf: Shelf):
    old = {"model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": b"{}", "picture.png": b"p"}
    shelf.repositories["maker/demo"] = Repository(True, dict(old))
    assert Published(tmp_path, hub).worked
    assert shelf.repositories["maker/demo"].files == MODEL | {"README.md": CARD, "picture.png": b"p"}


def test_a_public_repository_is_made_and_used_only_where_that_is_wanted(tmp_path: Path, hub: str, shelf: Shelf):
    assert Published(tmp_path / "open", hub, private=False).worked
    assert not shelf.repositories["maker/demo"].private
    done = Published(tmp_path / "closed", hub, private=True)
    assert not done.worked
    assert "maker/demo can be read by everybody, and `publish.private` is true" in done.words
    assert len(shelf.repositories["maker/demo"].commits) == 2


@pytest.mark.parametrize("repo", [None, "demo", "maker/demo/x", "maker/de mo"])
def test_a_missing_or_odd_repository_is_asked_for(tmp_path: Path, hub: str, shelf: Shelf, repo: str | None):
    done = Published(tmp_path, hub, repo=repo)
    assert f"`publish.repo` is {json.dumps(repo)}; set it to the repository" in done.words
    assert not shelf.asked


def test_without_a_token_nothing_is_asked_of_the_hub(tmp_path: Path, hub: str, shelf: Shelf):
    done = Published(tmp_path, hub, token=None)
    assert "there is no token to publish maker/demo with: put one that may write into HF_TOKEN" in done.words
    assert not shelf.asked


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda shelf: setattr(shelf, "token", "hf_other"), "the Hub does not accept this token"),
        (lambda shelf: shelf.readers.add(TOKEN), "this token may not write there"),
        (lambda shelf: shelf.taken.add("maker/demo"), "the name is taken"),
    ],
    ids=["401", "403", "409"],
)
def test_what_the_hub_refuses_is_told_with_what_to_do(tmp_path: Path, hub: str, shelf: Shelf, change: Any, words: str):
    change(shelf)
    done = Published(tmp_path, hub)
    assert "maker/demo cannot be published" in done.words
    assert words in done.words
    assert "<token>" in done.words, "the server repeats the token, and we do not"
    assert "Traceback" not in done.words + done.log
    assert all(repository.commits == [REVISION] for repository in shelf.repositories.values())


def test_a_licence_that_the_hub_does_not_know_stops_before_anything_is_uploaded(
    tmp_path: Path, hub: str, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(globals(), "CARD", CARD.replace(b"mit", b"mine"))
    done = Published(tmp_path, hub)
    assert '"license" must be one of' in done.words
    assert "correct `publish.license`" in done.words
    assert not shelf.objects


def test_a_hub_that_cannot_be_reached_is_told_with_what_to_check(tmp_path: Path):
    done = Published(tmp_path, "http://127.0.0.1:9")
    assert "maker/demo cannot be published (ConnectError" in done.words
    assert "check the network, HF_ENDPOINT, and that HF_HUB_OFFLINE is not set" in done.words


def test_a_large_file_that_does_not_arrive_leaves_no_commit(
    tmp_path: Path, hub: str, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Uploads, "do_PUT", lambda self: self.answer(b"", status=403))
    done = Published(tmp_path, hub)
    assert "maker/demo cannot be published (HfHubHTTPError" in done.words
    assert shelf.repositories["maker/demo"].commits == [REVISION]
