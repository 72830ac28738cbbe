"""Finished runs as the pages read them: small real files, with hostile text in every place that data reaches."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from curves import draw
from report import report
from snaketune.config import load
from snaketune.rows import LEDGER, QUARANTINE

TEMPLATES = Path(__file__).parent.parent / "workflow" / "report"
HOSTILE = (
    '</script><img src="http://evil.example/x" onerror="alert(1)"><script>alert(2)</script>{{ 7 * 7 }} `|\x1b\u202e'
)
CONFIG = {
    "run": "demo",
    "source": {"files": ["data/*.jsonl"]},
    "model": {"base": "openai-community/gpt2", "revision": "607a30d783dfa663caf39e06633721c8d4cfcd7e"},
    "checks": {"perplexity": {"max": 50}, "bleu": {"min": 5}, "rougeL": {"min_delta": 0, "certain": True}},
}
HEADINGS = [
    *("Metrics", "Loss curves", "Rows", "Samples", "Errors", "Calibration", "Classes", "Bias and forgetting"),
    *("Human judgement", "Splits and tokens", "Training", "Settings", "Versions", "Lineage", "Signatures"),
]
DROPS = {
    ("ingest", "quarantine"): 3,
    ("clean", "empty"): 4,
    ("dedup", "exact_duplicate"): 5,
    ("dedup", "near_duplicate"): 6,
}
KEPT = {"train": 60, "validation": 8, "test": 9}


def metric(base: float, tuned: float, spread: float, higher: bool | None, n: int = 9) -> dict[str, Any]:
    """An entry of metrics.json; one of which neither direction is better has no wins."""
    delta = tuned - base
    rows = dict.fromkeys(("wins", "ties", "losses")) if higher is None else {"wins": n - 2, "ties": 1, "losses": 1}
    return {
        "base": base,
        "tuned": tuned,
        "delta": delta,
        "p": 0.0009,
        "n": n,
        **rows,
        "ci95": [delta - spread, delta + spread],
        "base_ci95": [base - spread, base + spread],
        "tuned_ci95": [tuned - spread, tuned + spread],
        "higher_is_better": higher,
    }


METRICS = {
    "perplexity": metric(404.2, 43.1, 4.0, False),
    "bits_per_byte": metric(2.61, 1.9, 0.05, False),
    "token_accuracy_top5": metric(30.0, 41.0, 1.0, True),
    "bleu": metric(0.13, 1.13, 0.1, True),
    "rougeL": metric(8.5, 8.4, 0.6, True),
    "distinct_2": metric(61.0, 44.0, 3.0, None),
    "f1_macro": metric(31.0, 55.0, 9.0, True),
    "general_perplexity": metric(60.0, 75.0, 4.0, False, n=40),
    "bias_likelihood_gap": metric(0.31, 0.27, 0.09, False, n=24),
    "politeness": metric(0.2, 0.4, 0.1, True),
}


def evaluation(text: str) -> dict[str, Any]:
    """What metrics.json holds beside the metrics."""
    tenths = [round(0.1 * number, 1) for number in range(11)]
    empty = {"n": 0, "confidence": None, "accuracy": None}
    bins = {
        side: [{"n": 10 * n, "confidence": n / 10 + 0.05, "accuracy": n / 10 + off} if n else empty for n in range(10)]
        for side, off in (("base", -0.1), ("tuned", 0.045))
    }
    classes = [text, "b"]
    group = {name: value for name, value in metric(0.1, -0.2, 0.2, None, n=24).items() if "ci95" in name}
    axis = {"gap": metric(0.3, 0.2, 0.05, False), "output_difference": None}
    return {
        "calibration": {"edges": tenths, **bins},
        "classes": {
            "labels": classes,
            "confusion": {side: [[3, 1, 1], [0, 4, 0]] for side in ("base", "tuned")},
            "per_class": {
                name: {"support": 5 - place}
                | {score: metric(40.0, 60.0, 9.0, True) for score in ("precision", "recall", "f1")}
                for place, name in enumerate(classes)
            },
        },
        "bias": {text: axis | {"groups": {text: group | {"base": 0.1, "tuned": -0.2, "n": 24}}}},
        "probes": {"general": {"file": text, "sha256": "ab" * 32, "passages": 40}, "bias": None},
    }


def errors(rows: int, text: str) -> dict[str, Any]:
    """errors.json: a third each of the rows won, lost and random; the first has a long answer, the second none."""
    kinds = ["won", "won", "won", "lost", "lost", "lost", "random", "random"][:rows]
    made = []
    for number, kind in enumerate(kinds):
        reference = f"{text} r{number}"
        said = {0: f"{text} {number} " + "long " * 20_000, 1: ""}.get(number, f"{text} {number}")
        answer = {"output": said, "n_tokens": 7, "stopped": "length" if number else "eos"}
        costs = ((4.0, 1.0), (3.0, 1.0), (2.0, 6.0))
        tokens = [
            {"text": piece, "base": before, "tuned": after}
            for piece, (before, after) in zip(("Once " * (number == 2) + text, " ", f"r{number}"), costs, strict=True)
        ]
        near = {"row_id": "f" * 32, "prompt": text, "completion": text, "similarity": 0.25}
        made.append(
            {"kind": kind, "row_id": f"{number:032x}", "label": text, "source": text, "reference": reference}
            | {"prompt": None if number == 2 else f"{text} p{number}"}
            | {"base": answer | {"value": 10.0 + number}, "tuned": answer | {"value": None if number == 7 else 20.0}}
            | {"tokens": tokens, "tokens_left_out": 3 * (number == 0), "nearest": near if kind != "random" else None}
        )
    parts = [(text, "source", 4, 50.0), ("9 to 20 tokens", "length", 30, 7.0), ("100 tokens", "length", 5, 300.0)]
    failure = {"base": 4, "tuned": 3, "of": rows, "meaning": text}
    return {
        "measure": "ROUGE-L",
        "rows": made,
        "slices": [
            {"by": by, "value": value, "n": n, "metrics": {"perplexity": metric(400.0, 400.0 - delta, 4.0, False, n=n)}}
            for value, by, n, delta in parts
        ],
        "slices_left_out": [{"by": "label", "values": 2, "rows": 3}],
        "failures": [
            failure | {"kind": kind, "examples": [{"row_id": "0" * 32, "side": "tuned", "output": text}]}
            for kind in ("truncated", "empty")
        ],
    }


def judgement(text: str) -> dict[str, Any]:
    """judgement.json of two judges."""
    note = {"judge": text, "note": text}
    return {
        "judges": [{"name": text, "n": 9}, {"name": "b", "n": 8}],
        "items": 9,
        "judged": 9,
        "votes": {"tuned": 7, "base": 1, "tie": 1},
        "win_rate": {"value": 0.875, "ci95": [0.53, 0.98]},
        "p": 0.07,
        "alpha": 0.41,
        "alpha_missing": None,
        "rows": [{"row_id": "0" * 32, "tuned": 2, "base": 0, "tie": 0, "notes": [note]}],
    }


NOBODY = {"judges": [], "items": 9, "judged": 0, "votes": {"tuned": 0, "base": 0, "tie": 0}, "win_rate": None}
NOBODY |= {"p": None, "alpha": None, "rows": []}


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


def make_run(
    folder: Path,
    rows: int = 9,
    quarantined: int = 3,
    text: str = HOSTILE,
    spread: dict[str, Any] | None = None,
    **changes: dict[str, Any],
) -> dict[str, Any]:
    """The files of a small run, as the stages write them; returns the inputs of the report.

    spread: what spread.json holds; None: there is no such file.
    changes: keys of metrics.json, errors.json or judgement.json with other values, each by the name of its file.
    """
    settings = load(CONFIG)["demo"]
    settings["report"]["title"] = text
    result = {"run": "demo", "settings": settings, "signatures": {"bleu": "nrefs:1|" + text}, "metrics": METRICS}
    documents = {"metrics": result | evaluation(text), "errors": errors(rows, text), "judgement": judgement(text)}
    for name, content in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(content | changes.get(name, {})), encoding="utf-8")
    ledger(folder / "ledger.parquet")
    bad = [
        {"row_id": "0", "source": text, "line": i + 1, "reason": f"broken: {text}", "head": text}
        for i in range(quarantined)
    ]
    pq.write_table(pa.Table.from_pylist(bad, schema=QUARANTINE), folder / "quarantine.parquet")
    history(folder / "history.jsonl", [4.0, 3.7, 3.9])
    draw(str(folder / "history.jsonl"), str(folder / "curves.svg"))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    example = {"row_id": "0", "before": 3, "after": 0, "tokens": [text, "a", text], "trained": [False, True, True]}
    (folder / "preflight.json").write_text(json.dumps({"examples": [example]}))
    for split, count in KEPT.items():
        counts = {"rows": count, "tokens": count * 40, "trained_tokens": count * 12, "truncated": 1, "dropped": 0}
        (folder / f"{split}.json").write_text(json.dumps({**counts, "max_length": 128, "sha256": "00"}))
    about = {
        "packages": {"torch": "2.13.0", "accelerate": None},
        "python": "3.11.9",
        "inputs": {text: "0a" * 32},
        "code": {"Snakefile": "1b" * 32, "workflow/a.py": "2c" * 32},
        "commit": "3d" * 20 + "+",
        "config": {},
    }
    (folder / "manifest.json").write_text(json.dumps(about))
    names = {
        n: str(next(folder.glob(f"{n}.*")))
        for n in (
            "metrics",
            "errors",
            "judgement",
            *("ledger", "quarantine", "history", "summary", "curves", "preflight"),
        )
    }
    if spread is not None:
        (folder / "spread.json").write_text(json.dumps(spread), encoding="utf-8")
        names["spread"] = str(folder / "spread.json")
    return {
        **names,
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
    "method": "full",
    "learns": "all 4.3 M parameters learn",
    "device": "cpu",
    "processes": 1,
    "parallel": "single",
    "attention": "varlen",
    "compiled": False,
    "pass_sequences": 8,
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


def inert(html: str) -> None:
    """No script but ours, no handler, embedded thing or outside address in any element, no style that fetches.

    Ours is sort.js to the byte, stands once, and is the only one that the page's policy allows; or there is none.
    """
    tree = HTMLParser(html)
    policy = tree.css_first('meta[http-equiv="Content-Security-Policy"]').attributes["content"] or ""
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    scripts = re.findall(r"<script\b([^>]*)>(.*?)</script", html, re.IGNORECASE | re.DOTALL)
    assert len(scripts) == len(tree.css("script")) <= 1
    assert ("script-src" in rules) == bool(scripts)
    for attributes, text in scripts:
        assert not attributes
        assert text == (TEMPLATES / "sort.js").read_text(encoding="utf-8")
        assert rules["script-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert not tree.css("img, iframe, object, embed, link, base, form")
    for node in tree.css("*"):
        for name, value in node.attributes.items():
            assert not name.startswith("on"), f"<{node.tag} {name}>"
            if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                assert not re.match(r"\s*([a-z]+:|//)", value or "", re.IGNORECASE), f"<{node.tag} {name}={value}>"
    for style in tree.css("style"):
        assert not re.search(r"@import|url\(|expression\(", style.text())
