"""The model card: metadata that the Hub reads, numbers that are in the files, texts that break nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from markdown_it import MarkdownIt
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from card import card
from runs import HOSTILE, METRICS, TEMPLATES, evaluation, make_run, metric
from snaketune.pages.pages import code_block, code_span, label

PROBES = {
    "general": {"file": "mine.jsonl", "sha256": "ab" * 32, "passages": 61},
    "bias": {"file": "shipped", "sha256": "cd" * 32, "axes": 7, "templates": 24, "prompts": 8},
}
NO_PROBES = {"bias": None, "probes": {"general": None, "bias": None}}


def make_card(
    folder: Path, change: Callable[[dict[str, Any]], None] = lambda settings: None, **result: dict[str, Any]
) -> str:
    """The card of a small run; `change` alters its settings, `result` the keys of metrics.json."""
    files = make_run(folder, metrics={"probes": PROBES} | result)
    settings = json.loads(Path(files["metrics"]).read_text())["settings"]
    change(settings)
    inputs = {name: files[name] for name in ("metrics", "summary", "tokens")}
    card(inputs | {"template": str(TEMPLATES / "model_card.md.j2")}, str(folder / "README.md"), settings)
    return (folder / "README.md").read_text(encoding="utf-8")


def front_matter(text: str) -> dict[str, Any]:
    _, head, _ = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(head)


def shown(text: str) -> HTMLParser:
    """The card as a page: Markdown with tables, and with HTML let through."""
    _, _, body = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)
    return HTMLParser(MarkdownIt("commonmark", {"html": True}).enable("table").render(body))


def rows(page: HTMLParser, heading: str, folded: bool = False) -> dict[str, list[str]]:
    """The rows of the first table whose first column has a heading: first cell -> the others."""
    for table in page.css("details table" if folded else "body > table"):
        lines = [[cell.text().strip() for cell in line.css("th, td")] for line in table.css("tr")]
        if lines[0][0] == heading:
            return {line[0]: line[1:] for line in lines[1:]}
    raise AssertionError(f"no table of {heading}")


def test_the_hubs_own_library_reads_the_metadata(tmp_path: Path) -> None:
    def told(settings: dict[str, Any]) -> None:
        settings["publish"] |= {"license": "mit", "language": ["en", "no"], "tags": ["summaries", "snaketune"]}

    data = ModelCard(make_card(tmp_path, told)).data
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("transformers", "text-generation", "demo")
    assert data.base_model == "openai-community/gpt2"
    assert (data.license, data.language) == ("mit", ["en", "no"])
    assert data.tags == ["snaketune", "fine-tuned", "summaries"]
    values = {result.metric_type: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in values.items()} == {
        name: entry["tuned"] for name, entry in METRICS.items()
    }
    about = {"task_type": "text-generation", "task_name": "Text generation", "metric_name": "Perplexity"}
    assert values["perplexity"] == EvalResult(
        **about, dataset_type="demo", dataset_name="test split of demo", dataset_split="test",
        metric_type="perplexity", metric_value=43.1,
    )  # fmt: skip


def test_numbers_of_the_probes_are_not_those_of_the_test_split(tmp_path: Path) -> None:
    results = ModelCard(make_card(tmp_path)).data.eval_results
    texts = {result.metric_type: (result.dataset_name, result.dataset_split) for result in results}
    assert texts["general_perplexity"] == ("general probe, mine.jsonl", None)
    assert texts["bias_likelihood_gap"] == ("bias probe, shipped", None)
    assert {names for name, names in texts.items() if name in ("bleu", "politeness")} == {
        ("test split of demo", "test")
    }


def test_a_data_set_of_the_hub_is_named_with_its_revision(tmp_path: Path) -> None:
    def hub(settings: dict[str, Any]) -> None:
        settings["source"] |= {"hub": "maker/data", "hub_config": "en", "hub_split": "train", "revision": "ab12"}

    data = ModelCard(make_card(tmp_path, hub)).data
    assert data.datasets == ["maker/data"]
    first = data.eval_results[0]
    assert (first.dataset_type, first.dataset_config, first.dataset_revision) == ("maker/data", "en", "ab12")


def test_what_nobody_told_is_in_no_metadata(tmp_path: Path) -> None:
    text = make_card(tmp_path)
    assert not {"license", "language", "datasets"} & front_matter(text).keys()
    assert "whoever publishes this model must state it" in text


def test_a_number_that_is_none_is_left_out_of_the_metadata_and_a_dash_in_the_table(tmp_path: Path) -> None:
    own = metric(1, 2, 1, True) | dict.fromkeys(("tuned", "delta", "p", "ci95", "tuned_ci95"))
    text = make_card(tmp_path, metrics=METRICS | {"own": own})
    assert "own" not in {result.metric_type for result in ModelCard(text).data.eval_results}
    assert rows(shown(text), "Metric")["own ↑"] == ["1.000 (0.000 to 2.000)", "– (–)", "– (–)", "–", "9"]


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


def test_a_model_from_scratch_is_compared_with_an_untrained_one(tmp_path: Path) -> None:
    made = {"n_layer": 4, "n_head": 4, "n_embd": 256, "n_positions": 512, "vocab_size": 6144}
    text = make_card(tmp_path, lambda settings: settings["model"].update(base=None, revision=None, from_scratch=made))
    assert "a new model of the GPT-2 architecture (4 layers, 4 heads, width 256, 512 positions)" in text
    assert "| Metric | Untrained | This model |" in text
    assert {"snaketune", "pretrained"} == set(front_matter(text)["tags"])


def test_the_usage_names_the_repository_where_one_is_set(tmp_path: Path) -> None:
    text = make_card(tmp_path, lambda settings: settings["publish"].update(repo="me/demo"))
    assert 'pipeline("text-generation", model="me/demo"' in text


def test_leading_metrics_stand_in_the_first_table_and_the_others_are_folded(tmp_path: Path) -> None:
    page = shown(make_card(tmp_path))
    first, others = rows(page, "Metric"), rows(page, "Metric", folded=True)
    leading = ["perplexity ↓", "bits_per_byte ↓", "bleu ↑", "rougeL ↑", "f1_macro ↑", "politeness ↑"]
    assert list(first) == [f"{label(name)} {arrow}" for name, arrow in map(str.split, leading)]
    assert list(others) == [f"{label('token_accuracy_top5')} ↑", f"{label('distinct_2')} –"], (
        "a dash where neither direction is better"
    )
    assert first["Perplexity ↓"] == [
        "404.2 (400.2 to 408.2)", "43.10 (39.10 to 47.10)", "−361.1 (−365.1 to −357.1)", "<\u00a00.001", "9",
    ]  # fmt: skip
    assert "2 more metrics" in page.css_first("details").text()


def test_calibration_is_told_and_its_bins_are_folded(tmp_path: Path) -> None:
    empty = {"n": 0, "confidence": None, "accuracy": None}
    base = [empty] * 8 + [
        {"n": 30, "confidence": 0.85, "accuracy": 0.7},
        {"n": 10, "confidence": 0.95, "accuracy": 0.8},
    ]
    tuned = [empty] * 9 + [{"n": 1200, "confidence": 0.95, "accuracy": 0.9512}]
    edges = [number / 10 for number in range(11)]
    page = shown(make_card(tmp_path, calibration={"edges": edges, "base": base, "tuned": tuned}))
    assert rows(page, "Probability of the likeliest token", folded=True) == {
        "80.0\u00a0% to 90.0\u00a0%": ["30", "70.0\u00a0%", "0", "–"],
        "90.0\u00a0% to 100.0\u00a0%": ["10", "80.0\u00a0%", "1,200", "95.1\u00a0%"],
    }, "a bin without tokens is left out"
    assert "87.5\u00a0% mean confidence, 72.5\u00a0% of the tokens right" in page.css_first("body").text()


def test_the_classes_of_a_classifier_are_shown_with_their_labels_whatever_they_hold(tmp_path: Path) -> None:
    found = rows(shown(make_card(tmp_path)), "Class")
    assert found["b"] == ["4", *["40.00 → 60.00 (+11.00 to +29.00)"] * 3]
    assert len(found) == 2
    assert "Classes" not in shown(make_card(tmp_path, classes=None)).text()


def test_what_was_forgotten_and_bias_stand_in_the_limits_with_their_intervals(tmp_path: Path) -> None:
    text = make_card(
        tmp_path, bias={"age": evaluation("x")["bias"]["x"] | {"output_difference": metric(9, 5, 1, False)}}
    )
    _, limits = text.split("## Limits")
    assert (
        "rose from 60.00 to 75.00 (95\u00a0% interval of the difference +11.00 to +19.00, over 40 passages)" in limits
    )
    assert "61 passages of `mine.jsonl`." in limits
    assert "24 templates and 8 prompts that are part of snaketune." in limits
    axes = rows(shown(text), "Axis")
    assert axes == {
        "All": ["0.310 → 0.270 (−0.130 to +0.050)", "–"],
        "age": ["0.300 → 0.200 (−0.150 to −0.050)", "9.00 → 5.00 (−5.00 to −3.00)"],
    }
    groups = rows(shown(text), "Axis", folded=True)
    assert groups["age"] == ["x", "+0.100 (−0.100 to +0.300)", "−0.200 (−0.400 to 0.000)", "24"]
    assert "A small gap proves no fairness" in limits


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    kept = {name: entry for name, entry in METRICS.items() if not name.startswith(("general", "bias"))}
    text = make_card(tmp_path, metrics=kept, classes=None, **NO_PROBES)
    assert "- Whether general language was forgotten was not measured.\n- Bias was not measured.\n" in text
    assert not re.search(r"^### ", text, re.MULTILINE)
    assert len(ModelCard(text).data.eval_results) == len(kept)


def test_examples_for_the_base_model_alone_are_told(tmp_path: Path) -> None:
    text = make_card(tmp_path, lambda settings: settings["generate"].update(few_shot=3))
    assert "Before each prompt the base model was shown 3 pairs of the train split, and this model none." in text


@pytest.mark.parametrize("word", [HOSTILE, "a|b\n\n| c", "</details>\n\n<script>", "`" * 5, "---\n# x"])
def test_no_text_breaks_the_model_card(tmp_path: Path, word: str) -> None:
    def hostile(settings: dict[str, Any]) -> None:
        settings["source"]["files"] = ["---\n# x\n" + word]
        settings["model"] |= {"base": "``` ---\n" + word, "revision": "r\n---"}
        settings["tokenize"]["separator"] = '\n```\n"""---\n' + word
        settings["publish"] = {"repo": word, "private": True, "license": word, "language": [word], "tags": [word]}

    found = evaluation(word)
    about = {kind: facts | {"file": word} for kind, facts in PROBES.items()}
    changes = {key: found[key] for key in ("classes", "bias")} | {"probes": about}
    text = make_card(tmp_path, hostile, metrics=METRICS | {word: metric(1, 2, 1, None)}, **changes)
    assert ModelCard(text).data.tags == ["snaketune", "fine-tuned", word]
    page = shown(text)
    assert not page.css("script, img, a, hr")
    assert [node.text() for node in page.css("h1")] == ["demo"]
    tame = {key: evaluation("x")[key] for key in ("classes", "bias")}
    plain = shown(make_card(tmp_path, metrics=METRICS | {"own": metric(1, 2, 1, None)}, **tame))
    for mark in ("h2", "h3", "details", "table", "tr", "td", "li"):
        assert len(page.css(mark)) == len(plain.css(mark)), mark
    code = re.search(r"(`{3,})python\n(.*?)\n\1\n", text, re.DOTALL)
    assert code
    compile(code.group(2), "card", "exec")


def test_a_code_span_holds_any_text() -> None:
    assert code_span("a`b") == "``a`b``"
    assert code_span("``") == "``` `` ```"
    assert code_span("one\n\ntwo") == "`one two`"
    assert code_block("x\n```\ny").startswith("````\n")
