"""Bases of the Hub that are named with their revision, in one word, as a search over several of them needs it."""

import json
from pathlib import Path

import pytest

from snaketune import config
from snaketune.dag import Dag

REVISION = "0123456789abcdef0123456789abcdef01234567"
SOURCE = {"files": "tests/*.py", "format": "text", "shard_mb": 1000}


def test_a_name_with_its_commit_is_both():
    model = {"base": f"maker/known@{REVISION}"}
    (settings,) = config.load({"run": "one", "source": SOURCE, "model": model}).values()
    assert (settings["model"]["base"], settings["model"]["revision"]) == ("maker/known", REVISION)


def test_a_folder_may_have_the_sign_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("mine@home").mkdir()
    (settings,) = config.load({"run": "one", "source": SOURCE, "model": {"base": "mine@home"}}).values()
    assert (settings["model"]["base"], settings["model"]["revision"]) == ("mine@home", None)


def test_a_search_tries_several_models_of_the_hub(tmp_path: Path):
    tried = [f"maker/known@{REVISION}", f"maker/other@{REVISION[::-1]}"]
    given = {"run": "one", "source": SOURCE, "model": {"base": "first/of-all", "revision": "abc"}}
    given["tune"] = {"method": "grid", "trials": 2, "generation": 2, "space": {"model.base": tried}}
    proposed = [{"number": number, "values": {"model.base": base}} for number, base in enumerate(tried)]
    folder = tmp_path / "one/tune"
    folder.mkdir(parents=True)
    (folder / "generation-00.json").write_text(json.dumps({"trials": proposed}))
    dag = Dag(config.load(given), Path(), tmp_path)
    bases = [dag.base(name)[0] for name in ("one", "one-trial-000", "one-trial-001")]
    assert bases == [
        "resources/hub/first--of-all/abc",
        f"resources/hub/maker--known/{REVISION}",
        f"resources/hub/maker--other/{REVISION[::-1]}",
    ]
    assert dag.owner("one-trial-001", "tokens") == "one-trial-001", "another model may have another tokenizer"
    assert dag.owner("one-trial-001", "split") == "one"
