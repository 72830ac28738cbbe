"""The tuned model in, a repository of the Hugging Face Hub out; nothing runs this but the wish for published.json.

In:  the model's folder, the model card of the run (a variant may share the model and have a card of its own)
Out: published.json: the repository, the commit, and a hash of every file in it

All files arrive in one commit, so that nobody meets weights without their card, or half of the weights. What goes up is
named by its kind: safetensors, the tokenizer, the configuration, code that the model needs; nothing else that may lie
in the folder. The token is that of HF_TOKEN or of this machine's login; the configuration has no place for one, and
where the Hub's answers are repeated here, it is cut out of them.
"""

import json
import re
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

from snaketune.job import StageError, run

KINDS = (".safetensors", ".json", ".jinja", ".txt", ".model", ".py")
WEIGHTS = (".safetensors", ".safetensors.index.json")
CARD = "README.md"
MOST_WORDS = 400  # characters of the Hub's own words
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
REMEDIES = {
    401: "the Hub does not accept this token: make a new one that may write (https://huggingface.co/settings/tokens), "
    "and put it into HF_TOKEN or log in again with `hf auth login`",
    403: "this token may not write there: take one that may, or name another `publish.repo`",
    404: "there is no such repository for this token: take a token that may write there, or another `publish.repo`",
    409: "the name is taken by something that this token cannot open as a model: name another `publish.repo`",
}


def publish(model: str, card: str, published: str, settings: dict[str, Any]) -> str:
    """Upload a model; `settings` holds run, repo and private. Raises StageError in words, and never with the token."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HTTPError  # of the HTTP library that this version of the Hub's client is on

    repo = settings["repo"]
    if not NAME.fullmatch(repo or ""):
        raise StageError(
            f"`publish.repo` is {json.dumps(repo)}; set it to the repository that the model is to go to, as <user or "
            "organisation>/<name>"
        )
    if not (token := get_token()):
        raise StageError(
            f"there is no token to publish {repo} with: put one that may write into HF_TOKEN, or log in with "
            "`hf auth login`"
        )
    files = contents(Path(model), Path(card))
    try:
        commit = upload(HfApi(), files, settings)
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        words = in_words(error, repo).replace(token, "<token>")
        raise StageError(words) from None  # what came before it may hold the token
    hashes = {}
    for name, path in files.items():
        with path.open("rb") as file:
            hashes[name] = file_digest(file, "sha256").hexdigest()
    about = {"repo": repo, "commit": commit, "files": hashes}
    Path(published).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in files.values())
    return f"{repo} at {commit[:12]}: {len(files)} files, {size / 1e6:,.0f} MB"


def contents(model: Path, card: Path) -> dict[str, Path]:
    """What is published: the name in the repository -> the file. The card is that of the run, not of the folder."""
    found = {path.relative_to(model): path for path in sorted(model.rglob("*")) if path.is_file()}
    shown = {name: path for name, path in found.items() if not any(part.startswith(".") for part in name.parts)}
    return {name.as_posix(): path for name, path in shown.items() if path.suffix in KINDS} | {CARD: card}


def upload(api: Any, files: Mapping[str, Path], settings: dict[str, Any]) -> str:
    """Make the repository if there is none, and put the files into it in one commit; the commit's id.

    Weights of an older upload that this model does not have are deleted: `from_pretrained` would load them too.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import RepositoryNotFoundError

    repo, private = settings["repo"], settings["private"]
    try:
        there = api.repo_info(repo)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private)
        there = api.repo_info(repo)
    if private and not there.private:
        raise StageError(
            f"{repo} can be read by everybody, and `publish.private` is true: set it to false, or make the repository "
            "private on the Hub"
        )
    old = [file.rfilename for file in there.siblings or []]
    operations = [CommitOperationDelete(name) for name in old if name.endswith(WEIGHTS) and name not in files]
    operations += [CommitOperationAdd(name, path) for name, path in files.items()]
    return api.create_commit(repo, operations, commit_message=f"{settings['run']}, made with snaketune").oid


def in_words(error: Exception, repo: str) -> str:
    """What went wrong at the Hub, and what to do."""
    cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error  # of an upload in a thread
    told = getattr(cause, "server_message", None) or str(cause)
    said = " ".join(told.split())[:MOST_WORDS]
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status in REMEDIES:
        remedy = REMEDIES[status]
    elif isinstance(cause, ValueError):
        remedy = "if it is the card's metadata that the Hub refuses, correct `publish.license`, `language` and `tags`"
    elif status is None:
        remedy = "check the network, HF_ENDPOINT, and that HF_HUB_OFFLINE is not set; then run this again"
    else:
        remedy = "the fault may be the Hub's: run this again later"
    return f"{repo} cannot be published ({type(cause).__name__}: {said}): {remedy}"


if __name__ == "__main__":
    run(
        lambda job: publish(job.params.model, job.input.card, job.output.published, job.params.settings),
        snakemake,
    )
