"""The report of a run: one page that a person can read, send, print, and check against the files beside it.

In:  metrics.json, ledger.parquet, ingest/quarantine.parquet, train/{history.jsonl,summary.json,curves.svg},
     generate/{base,tuned}.parquet, scores/{base,tuned}.parquet, tokens/<split>.json, manifest.json, the templates
Out: report.html, self-contained: no script, no font, no picture from elsewhere

The order is that of a reader's questions: did it work, by how much and how surely; how did the training go; which
rows went in and which did not, and why; what does the model say now; with which settings can I have this again.
"""

import itertools
import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from markupsafe import Markup

from snaketune.job import run
from snaketune.pages.funnel import funnel, ledger_counts, quarantined
from snaketune.pages.history import read_history, verdict
from snaketune.pages.pages import interval, label, ordered, outcome, p_value, render, short, tracks
from snaketune.pages.samples import choose

SPLITS = ("train", "validation", "test")
FEW_ROWS = 50


def report(files: Mapping[str, Any], page: str, settings: dict[str, Any], data_page: str = "data.html") -> str:
    """Write the page. `files` names the inputs; `answers`, `scores` and `tokens` are lists, told apart by file name.

    `settings` is the complete configuration of the run, `data_page` the way from this page to the data report.
    """
    result = _json(files["metrics"])
    metrics, history = result["metrics"], read_history(files["history"])
    counts = ledger_counts(files["ledger"])
    stages = funnel(counts)
    measure, shown = choose(
        {Path(path).stem: pq.read_table(path) for path in files["answers"]},
        {Path(path).stem: pq.read_table(path) for path in files["scores"]},
        settings["report"]["samples"],
        settings["seed"],
    )
    html = render(
        files["template"],
        title=settings["report"]["title"] or result["run"],
        run=result["run"],
        data_page=data_page,
        settings=settings,
        headline=headline(metrics),
        metrics={name: metrics[name] | {"outcome": outcome(metrics[name])} for name in ordered(metrics)},
        signatures=result.get("signatures") or {},
        cautions=cautions(metrics),
        tracks=tracks(metrics),
        curves=Markup(Path(files["curves"]).read_text(encoding="utf-8")),
        verdict=verdict(history),
        funnel=stages,
        splits=splits(counts, [Path(path) for path in files["tokens"]]),
        quarantine=quarantined(files["quarantine"], stages),
        samples=shown,
        measure=measure,
        summary=_json(files["summary"]),
        examples=[example | {"tokens": _runs(example)} for example in _json(files["preflight"])["examples"]],
        yaml=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100),
        manifest=_json(files["manifest"]),
    )
    Path(page).write_text(html, encoding="utf-8", errors="replace")
    return headline(metrics)[0]


def headline(metrics: dict[str, dict[str, Any]]) -> list[str]:
    """The verdict, in two sentences at most: what became of the perplexity, and of the other metrics."""
    sentences = []
    if entry := metrics.get("perplexity"):
        sentences.append(_perplexity(entry))
    others = [name for name in ordered(metrics) if name not in ("perplexity", "perplexity_full", "bits_per_byte")]
    by = {kind: [n for n in others if outcome(metrics[n]) == kind] for kind in ("better", "worse", "unclear")}
    if others:
        parts = [f"{len(names)} got {kind}" for kind in ("better", "worse") if (names := by[kind])]
        if by["unclear"]:
            parts.append(f"{len(by['unclear'])} {'shows' if len(by['unclear']) == 1 else 'show'} no clear difference")
        firsts = [name for name in ("bleu", "rougeL", "exact_match") if name in others][:2]
        numbers = ", ".join(f"{label(n)} {short(metrics[n]['base'])} → {short(metrics[n]['tuned'])}" for n in firsts)
        scores = (
            f"Of {len(others)} scores of accuracy and of the answers" if len(others) > 1 else f"Of {label(others[0])}"
        )
        sentences.append(f"{scores}, {', '.join(parts)}{f' ({numbers})' if numbers else ''}.")
    return sentences or ["No metric was computed."]


def _perplexity(entry: dict[str, Any]) -> str:
    base, tuned, kind = short(entry["base"]), short(entry["tuned"]), outcome(entry)
    bounds = interval(entry.get("ci95"), "perplexity", sign=True)
    proof = f"95\u00a0% interval of the difference {bounds}, p\u00a0{_relation(entry)}"
    rows = f"over {entry['n']:,} test row{'s' * (entry['n'] != 1)}"
    if kind == "unclear":
        return f"Perplexity went from {base} to {tuned}, no clear difference ({proof}, {rows})."
    verb = "fell" if kind == "better" else "rose"
    return f"Perplexity {verb} from {base} to {tuned} ({proof}, {rows})."


def _relation(entry: dict[str, Any]) -> str:
    text = p_value(entry.get("p"))
    return text if text.startswith("<") else f"=\u00a0{text}"


def cautions(metrics: dict[str, dict[str, Any]]) -> list[str]:
    """What a careful reader must know before quoting the numbers."""
    found = []
    rows = [entry["n"] for entry in metrics.values()]
    if rows and min(rows) < FEW_ROWS:
        found.append(f"Only {min(rows):,} test rows carry some of these numbers: intervals from so few are too narrow.")
    return found


def splits(counts: list[dict[str, Any]], manifests: list[Path]) -> list[dict[str, Any]]:
    """Rows of each split by the ledger, beside what tokenization made of them."""
    tokens = {path.stem: _json(path) for path in manifests}
    kept = {name: sum(c["rows"] for c in counts if c["kept"] and c["split"] == name) for name in (*SPLITS, *tokens)}
    return [
        {"name": name, "kept": kept[name], **tokens[name]}
        for name in dict.fromkeys((*SPLITS, *tokens))
        if name in tokens
    ]


def _runs(example: dict[str, Any]) -> list[tuple[bool, str]]:
    """The text of a row in runs of tokens that are all trained, or all not."""
    pairs = zip(example["trained"], example["tokens"], strict=True)
    runs = itertools.groupby(pairs, key=operator.itemgetter(0))
    return [(trained, "".join(token for _, token in run)) for trained, run in runs]


def _json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


INPUTS = ("metrics", "ledger", "quarantine", "history", "summary", "curves", "preflight", "answers", "scores", "tokens")


if __name__ == "__main__":
    run(
        lambda job: report(
            {name: job.input[name] for name in (*INPUTS, "manifest", "template")},
            job.output.page,
            job.params.settings,
            job.params.data_page,
        ),
        snakemake,
    )
