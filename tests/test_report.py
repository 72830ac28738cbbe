"""What a person looks at says what the files say, and no text of the data can do anything there."""

from __future__ import annotations

import copy
import json
import math
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from card import card
from curves import draw
from leaderboard import leaderboard
from manifest import PACKAGES, manifest
from report import report
from snaketune.config import load
from snaketune.history import read_history, verdict
from snaketune.pages import code_block, code_span, number, short
from snaketune.rows import LEDGER, QUARANTINE
from snaketune.samples import choose

TEMPLATES = Path(__file__).parent.parent / "workflow" / "report"
HOSTILE = (
    '</script><img src="http://evil.example/x" onerror="alert(1)"><script>alert(2)</script>{{ 7 * 7 }} `|\x1b\u202e'
)
CONFIG = {
    "run": "demo",
    "source": {"files": ["data/*.jsonl"]},
    "model": {"base": "openai-community/gpt2", "revision": "607a30d783dfa663caf39e06633721c8d4cfcd7e"},
}
HEADINGS = ["Metrics", "Loss curves", "Rows", "Samples", "Splits and tokens", "Training", "Settings", "Versions"]
DROPS = {
    ("ingest", "quarantine"): 3,
    ("clean", "empty"): 4,
    ("dedup", "exact_duplicate"): 5,
    ("dedup", "near_duplicate"): 6,
}
KEPT = {"train": 60, "validation": 8, "test": 9}


def metric(base: float, tuned: float, spread: float, higher: bool, n: int = 9) -> dict[str, Any]:
    """An entry of metrics.json."""
    delta = tuned - base
    return {
        "base": base,
        "tuned": tuned,
        "delta": delta,
        "p": 0.0009,
        "n": n,
        "wins": n - 2,
        "ties": 1,
        "losses": 1,
        "ci95": [delta - spread, delta + spread],
        "base_ci95": [base - spread, base + spread],
        "tuned_ci95": [tuned - spread, tuned + spread],
        "higher_is_better": higher,
    }


METRICS = {
    "perplexity": metric(404.2, 43.1, 4.0, False),
    "bits_per_byte": metric(2.61, 1.9, 0.05, False),
    "bleu": metric(0.13, 1.13, 0.1, True),
    "rougeL": metric(8.5, 8.4, 0.6, True),
}


def ledger(path: Path) -> None:
    lines: list[tuple[str, str, bool, str | None]] = []
    for (stage, rule), count in DROPS.items():
        lines += [(stage, rule, False, None)] * count
    for split, count in KEPT.items():
        lines += [("tokenize", "truncated" if i == 0 else "", True, split) for i in range(count)]
    rows = [
        {"row_id": f"{i:032x}", "source": "a.jsonl", "line": i + 1, "stage": s, "rule": r, "kept": k, "split": p}
        for i, (s, r, k, p) in enumerate(lines)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=LEDGER), path)


def history(path: Path, validation: list[float], per: int = 10) -> None:
    lines: list[dict[str, float]] = []
    for i, loss in enumerate(validation):
        for step in range(i * per + 2, (i + 1) * per + 1, 2):
            rate = 5e-5 * (1 - step / (per * len(validation) + 1))
            lines.append(
                {"step": step, "epoch": step / 20, "loss": 5 - step / 40, "grad_norm": 1.0, "learning_rate": rate}
            )
        lines.append({"step": (i + 1) * per, "epoch": (i + 1) * per / 20, "eval_loss": loss, "eval_tokens": 999})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def answers(folder: Path, count: int, text: str) -> None:
    (folder / "generate").mkdir()
    (folder / "scores").mkdir()
    for who in ("base", "tuned"):
        rows = [
            {
                "row_id": f"{i:032x}",
                "prompt": f"{text} p{i}",
                "reference": f"{text} r{i}",
                "n_tokens": 7,
                "output": f"{text} {who} {i} " + "long " * 300 * (i == 0),
                "stopped": "length" if i else "eos",
            }
            for i in range(count)
        ]
        names = ["row_id", "prompt", "reference", "output", "stopped"]
        schema = pa.schema([*((n, pa.string()) for n in names), ("n_tokens", pa.int64())])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "generate" / f"{who}.parquet")
        losses = random.Random(who)
        scored = {
            "row_id": pa.array([f"{i:032x}" for i in range(count)], pa.string()),
            "label": pa.array([text] * count, pa.string()),
            "nll": pa.array([losses.uniform(20, 40) for _ in range(count)], pa.float64()),
            "n_tokens": pa.array([10] * count, pa.int64()),
        }
        pq.write_table(pa.table(scored), folder / "scores" / f"{who}.parquet")


def make_run(folder: Path, rows: int = 9, quarantined: int = 3, text: str = HOSTILE) -> dict[str, Any]:
    """The files of a small run, as the stages write them; returns the inputs of the report."""
    settings = load(CONFIG)["demo"]
    settings["report"]["title"] = text
    (folder / "metrics.json").write_text(
        json.dumps({"run": "demo", "settings": settings, "signatures": {"bleu": "nrefs:1|" + text}, "metrics": METRICS})
    )
    ledger(folder / "ledger.parquet")
    bad = [
        {"row_id": "0", "source": text, "line": i + 1, "reason": f"broken: {text}", "head": text}
        for i in range(quarantined)
    ]
    pq.write_table(pa.Table.from_pylist(bad, schema=QUARANTINE), folder / "quarantine.parquet")
    history(folder / "history.jsonl", [4.0, 3.7, 3.9])
    draw(str(folder / "history.jsonl"), str(folder / "curves.svg"))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    answers(folder, rows, text)
    for split, count in KEPT.items():
        counts = {"rows": count, "tokens": count * 40, "trained_tokens": count * 12, "truncated": 1, "dropped": 0}
        (folder / f"{split}.json").write_text(json.dumps({**counts, "max_length": 128, "sha256": "00"}))
    about = {
        "packages": {"torch": "2.13.0", "accelerate": None},
        "python": "3.11.9",
        "inputs": {},
        "code": {},
        "config": {},
    }
    (folder / "manifest.json").write_text(json.dumps(about))
    names = {
        n: str(next(folder.glob(f"{n}.*"))) for n in ("metrics", "ledger", "quarantine", "history", "summary", "curves")
    }
    return {
        **names,
        "answers": [str(folder / "generate" / f"{who}.parquet") for who in ("base", "tuned")],
        "scores": [str(folder / "scores" / f"{who}.parquet") for who in ("base", "tuned")],
        "tokens": [str(folder / f"{split}.json") for split in KEPT],
        "manifest": str(folder / "manifest.json"),
        "template": str(TEMPLATES / "report.html.j2"),
    }


SUMMARY = {
    "parameters": 4_300_000,
    "trainable_parameters": 4_300_000,
    "steps": 30,
    "epochs": 1.5,
    "best_step": 20,
    "best_eval_loss": 3.7,
    "stopped": "finished",
    "precision": "fp32",
    "tokens_per_step": 900.5,
    "packing_efficiency": 0.97,
    "fingerprint": "ab",
}


def rendered(folder: Path, **changes: Any) -> str:
    files = make_run(folder, **changes)
    settings = json.loads(Path(files["metrics"]).read_text())["settings"]
    report(files, str(folder / "report.html"), settings)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return rendered(tmp_path_factory.mktemp("run"))


def inert(html: str) -> None:
    """No script, handler, embedded thing or outside address in any element, and no style that fetches."""
    tree = HTMLParser(html)
    assert not tree.css("script, img, iframe, object, embed, link, base, form")
    for node in tree.css("*"):
        for name, value in node.attributes.items():
            assert not name.startswith("on"), f"<{node.tag} {name}>"
            if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                assert not re.match(r"\s*([a-z]+:|//)", value or "", re.IGNORECASE), f"<{node.tag} {name}={value}>"
    for style in tree.css("style"):
        assert not re.search(r"@import|url\(|expression\(", style.text())


def test_hostile_text_does_nothing_in_the_report(page: str) -> None:
    inert(page)
    assert "&lt;/script&gt;&lt;img src=" in page
    assert "<img" not in page
    assert "{{ 7 * 7 }}" in page
    assert "\x1b" not in page


def test_the_report_forbids_scripts_and_every_outside_source(page: str) -> None:
    policy = HTMLParser(page).css_first('meta[http-equiv="Content-Security-Policy"]').attributes["content"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_every_section_has_its_heading_and_its_place_in_the_contents(page: str) -> None:
    tree = HTMLParser(page)
    assert [node.text(strip=True) for node in tree.css("h2")] == HEADINGS
    targets = [node.attributes["href"] for node in tree.css("nav a")]
    assert targets == [f"#{node.attributes['id']}" for node in tree.css("main > section")]
    ids = [node.attributes["id"] for node in tree.css("[id]")]
    assert len(ids) == len(set(ids))


def test_the_verdict_comes_first_and_holds_the_numbers(page: str) -> None:
    first = HTMLParser(page).css_first(".verdict").text()
    assert "Perplexity fell from 404 to 43.1" in first
    assert (
        "95\u00a0% interval of the difference \u2212365.1 to \u2212357.1, p\u00a0<\u00a00.001, over 9 test rows"
        in first
    )


def test_an_interval_that_holds_zero_is_not_sold_as_a_gain(page: str) -> None:
    verdicts = {row.css_first("th").text(): row.css_first('[data-name="Verdict"]').text() for row in metric_rows(page)}
    assert [text for name, text in verdicts.items() if name.startswith("ROUGE-L")] == ["unclear"]
    assert [text for name, text in verdicts.items() if name.startswith("Perplexity")] == ["better"]


def metric_rows(html: str) -> list[Any]:
    return HTMLParser(html).css("#metrics tbody tr")


def test_kept_and_dropped_rows_add_up_to_the_raw_rows(page: str) -> None:
    raw = sum(DROPS.values()) + sum(KEPT.values())
    assert f"{sum(KEPT.values())} + {sum(DROPS.values())} = {raw}" in page
    rows = [
        [int(row.css_first(f'[data-name="{name}"]').text()) for name in ("Rows in", "Dropped", "Rows out")]
        for row in HTMLParser(page).css(".funnel tbody tr")
    ]
    assert rows[0][0] == raw
    assert rows[-1][2] == sum(KEPT.values())
    assert all(entering - dropped == leaving for entering, dropped, leaving in rows)
    assert all(before[2] == after[0] for before, after in pairwise(rows))


def test_each_rule_that_dropped_rows_is_named_with_its_count(page: str) -> None:
    text = HTMLParser(page).css_first(".funnel").text()
    for (_, rule), count in DROPS.items():
        assert f"{rule.replace('_', ' ')} {count}" in text


def test_a_quarantine_of_another_run_is_noticed(page: str, tmp_path: Path) -> None:
    assert "not of this run" not in page
    assert "not of this run" in rendered(tmp_path, quarantined=2)


def test_a_long_answer_is_folded_and_still_whole(page: str) -> None:
    assert any(("long " * 300).strip() in node.text() for node in HTMLParser(page).css("details.fold .text"))


def test_samples_show_base_tuned_and_reference_and_say_how_they_were_chosen(page: str) -> None:
    samples = HTMLParser(page).css(".sample")
    assert len(samples) == 8
    assert {node.css_first("h3").text() for node in samples} == {
        "Tuning won most",
        "Tuning lost most",
        "Drawn at random",
    }
    for node in samples:
        assert [h.text().split(",")[0] for h in node.css(".answers h4")] == ["Base", "Tuned", "Reference"]


def test_the_rows_shown_are_those_that_won_and_lost_most_by_rouge_l() -> None:
    rows = [f"{i:032x}" for i in range(5)]
    texts = [{"row_id": row, "prompt": None, "reference": row, "output": row, "n_tokens": 1} for row in rows]
    scores = {"base": [0.0, 0.5, 0.2, 0.3, 0.1], "tuned": [0.9, 0.1, 0.2, 0.6, 0.1]}
    tables = {who: pa.table({"row_id": rows, "rouge_rougeL": values}) for who, values in scores.items()}
    measure, shown = choose({who: pa.Table.from_pylist(texts) for who in scores}, tables, 4, seed=1)
    assert measure == "ROUGE-L"
    assert [(sample["kind"], rows.index(sample["row_id"])) for sample in shown[:3]] == [
        ("won", 0),
        ("won", 3),
        ("lost", 1),
    ]
    assert shown[3]["kind"] == "random"
    assert shown[0]["tuned_value"] == pytest.approx(90)


def test_no_row_is_shown_twice(page: str) -> None:
    rows = [
        re.search(r"[pr](\d+)$", node.css_first(".answers div:last-child .text").text())
        for node in HTMLParser(page).css(".sample")
    ]
    assert len({match.group(1) for match in rows if match}) == len(rows)


def test_a_run_without_quarantine_and_samples_has_a_report(tmp_path: Path) -> None:
    html = rendered(tmp_path, rows=0, quarantined=0)
    inert(html)
    assert "No sample is shown" in html
    assert [node.text(strip=True) for node in HTMLParser(html).css("h2")] == HEADINGS


def test_the_report_holds_the_complete_settings_as_yaml(page: str) -> None:
    shown = HTMLParser(page).css_first("#settings pre").text()
    loaded = yaml.safe_load(shown.replace("\u241b", ""))
    expected = load(CONFIG)["demo"]
    assert {**loaded, "report": None} == {**expected, "report": None}


def test_the_same_files_make_the_same_report(page: str, tmp_path: Path) -> None:
    assert rendered(tmp_path) == page


def test_the_curves_are_well_formed_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    history(tmp_path / "history.jsonl", [4.0, 3.7, 3.9])
    words = [draw(str(tmp_path / "history.jsonl"), str(tmp_path / f"{i}.svg")) for i in range(2)]
    first, second = ((tmp_path / f"{i}.svg").read_bytes() for i in range(2))
    assert first == second
    root = ET.fromstring(first)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert root.findtext(f"{space}desc") == words[0]
    assert len(root.findall(f"{space}path")) == 3
    assert "best 3.700 at step 20" in [node.text for node in root.findall(f"{space}text")]


def test_ten_thousand_steps_stay_a_small_drawing(tmp_path: Path) -> None:
    history(tmp_path / "history.jsonl", [4.0, 3.7, 3.9], per=10_000)
    draw(str(tmp_path / "history.jsonl"), str(tmp_path / "curves.svg"))
    assert (tmp_path / "curves.svg").stat().st_size < 20_000


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        ([4.0, 3.7, 3.5, 3.3], "still learning"),
        ([4.0, 3.7, 3.5, 3.499], "levelled off"),
        ([4.0, 3.5, 3.6, 3.9], "began to overfit"),
        ([4.0, 3.5, 3.51, 3.51], "stood still"),
        ([3.5, 3.9, 4.2], "made the model worse"),
        ([3.5, math.nan], "diverged"),
        ([3.5], "one point shows no course"),
        ([], "No validation loss"),
    ],
)
def test_the_curves_are_read_in_words(tmp_path: Path, validation: list[float], words: str) -> None:
    history(tmp_path / "history.jsonl", validation)
    assert words in verdict(read_history(tmp_path / "history.jsonl"))
    draw(str(tmp_path / "history.jsonl"), str(tmp_path / "curves.svg"))
    ET.fromstring((tmp_path / "curves.svg").read_bytes())


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


def test_numbers_are_written_as_people_read_them() -> None:
    assert [number(v) for v in (43.117, -0.5, -0.001, 12345.6, None, math.inf)] == [
        "43.12",
        "\u22120.50",
        "0.00",
        "12,346",
        "\u2013",
        "∞",
    ]
    assert [short(v) for v in (404.2, 43.117, 0.1349, 12345.6)] == ["404", "43.1", "0.135", "12,346"]


def test_the_manifest_hashes_inputs_code_and_folders(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("abc")
    (tmp_path / "code.py").write_text("")
    out = tmp_path / "manifest.json"
    manifest([str(tmp_path / "raw")], [str(tmp_path / "code.py")], str(out), {"run": "demo"})
    found = json.loads(out.read_text())
    # Of FIPS 180-2, appendix B.1, and of the empty text.
    assert list(found["inputs"].values()) == ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]
    assert list(found["code"].values()) == ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
    assert set(found["packages"]) == set(PACKAGES)
    assert found["config"] == {"run": "demo"}
    assert {"cpu", "cores", "memory_gib", "gpus"} <= set(found["hardware"])
    assert "commit" in found


def write_metrics(folder: Path, run: str, tuned: float, test: str | None = None) -> str:
    metrics = copy.deepcopy(METRICS) | {"bits_per_byte": metric(2.61, tuned, 0.05, False)}
    (folder / run).mkdir()
    result = {"run": run, "settings": {}, "signatures": {"bleu": "v"}, "metrics": metrics}
    (folder / run / "metrics.json").write_text(
        json.dumps(result | ({"test": {"sha256": test, "rows": 9}} if test else {}))
    )
    return str(folder / run / "metrics.json")


def board(folder: Path, files: list[str]) -> tuple[pa.Table, HTMLParser]:
    import pyarrow.csv

    leaderboard(files, str(folder / "l.csv"), str(folder / "l.html"), str(TEMPLATES / "leaderboard.html.j2"))
    html = (folder / "l.html").read_text(encoding="utf-8")
    inert(html)
    return pyarrow.csv.read_csv(folder / "l.csv"), HTMLParser(html)


def test_the_leaderboard_keeps_runs_of_different_test_data_apart(tmp_path: Path) -> None:
    files = [
        write_metrics(tmp_path, run, 1.9, test) for run, test in (("a", "aa"), ("b", "bb"), ("c", "aa"), ("d", None))
    ]
    table, tree = board(tmp_path, files)
    assert table["run"].to_pylist() == ["a", "c", "b", "d"]
    groups = [[node.text(strip=True) for node in t.css("tbody th a")] for t in tree.css("table")]
    assert groups == [["a", "c"], ["b"], ["d"]]


def test_the_best_run_stands_first(tmp_path: Path) -> None:
    files = [write_metrics(tmp_path, run, bits, "aa") for run, bits in (("a", 2.0), ("b", 1.5), ("c", 1.8))]
    table, tree = board(tmp_path, files)
    assert table["run"].to_pylist() == ["b", "c", "a"]
    assert table["bits_per_byte"].to_pylist() == [1.5, 1.8, 2.0]
    assert table["bits_per_byte_low"].to_pylist() == pytest.approx([1.45, 1.75, 1.95])
    assert tree.css_first("tbody th a").attributes["href"] == "b/report.html"


def test_the_order_of_the_files_changes_nothing_on_the_leaderboard(tmp_path: Path) -> None:
    files = [write_metrics(tmp_path, run, 1.9, "aa") for run in "abc"]
    first = board(tmp_path, files)[0]
    assert board(tmp_path, files[::-1])[0].equals(first)
