"""The model card: metadata that parses, numbers that are in the files, texts that break nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from card import card
from runs import HOSTILE, METRICS, TEMPLATES, make_run
from snaketune.pages.pages import code_block, code_span


def make_card(folder: Path, change: Callable[[dict[str, Any]], None] = lambda settings: None) -> str:
    files = make_run(folder)
    settings = json.loads(Path(files["metrics"]).read_text())["settings"]
    change(settings)
    inputs = {name: files[name] for name in ("metrics", "summary", "tokens")}
    card(inputs | {"template": str(TEMPLATES / "model_card.md.j2")}, str(folder / "README.md"), settings)
    return (folder / "README.md").read_text(encoding="utf-8")


def front_matter(text: str) -> dict[str, Any]:
    _, head, _ = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(head)


def test_the_model_card_opens_with_metadata_that_the_hub_reads(tmp_path: Path) -> None:
    head = front_matter(make_card(tmp_path))
    assert head["library_name"] == "transformers"
    assert head["pipeline_tag"] == "text-generation"
    assert head["base_model"] == "openai-community/gpt2"
    (model,) = head["model-index"]
    values = {entry["type"]: entry["value"] for entry in model["results"][0]["metrics"]}
    assert values["perplexity"] == 43.1
    assert set(values) == set(METRICS)


def test_a_folder_is_not_named_as_a_base_model_of_the_hub(tmp_path: Path) -> None:
    def local(settings: dict[str, Any]) -> None:
        settings["model"] |= {"base": "resources/tiny-gpt", "revision": None}

    text = make_card(tmp_path, local)
    assert "base_model" not in front_matter(text)
    assert "`resources/tiny-gpt`" in text


def test_the_model_card_gives_the_validation_perplexity_and_the_recipe(tmp_path: Path) -> None:
    text = make_card(tmp_path)
    assert f"{math.exp(3.7):.2f}" in text
    for fact in ("60 sequences", "720", "5e-05", 'pipeline("text-generation", model="."'):
        assert fact in text, fact


def test_no_setting_breaks_the_model_card(tmp_path: Path) -> None:
    def hostile(settings: dict[str, Any]) -> None:
        settings["source"]["files"] = ["---\n# x\n" + HOSTILE]
        settings["model"] |= {"base": "``` ---\n" + HOSTILE, "revision": "r\n---"}
        settings["tokenize"]["separator"] = '\n```\n"""---\n'

    text = make_card(tmp_path, hostile)
    assert front_matter(text)["library_name"] == "transformers"
    assert [line for line in text.splitlines() if line.startswith("# ")] == ["# demo"]
    code = re.search(r"(`{3,})python\n(.*?)\n\1\n", text, re.DOTALL)
    assert code
    compile(code.group(2), "card", "exec")


def test_a_code_span_holds_any_text() -> None:
    assert code_span("a`b") == "``a`b``"
    assert code_span("``") == "``` `` ```"
    assert code_span("one\n\ntwo") == "`one two`"
    assert code_block("x\n```\ny").startswith("````\n")
