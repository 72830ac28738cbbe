"""Finished runs as the pages read them: small real files, with hostile text in every place that data reaches."""

from __future__ import annotations

import json
import random
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
    example = {"row_id": "0", "before": 3, "after": 0, "tokens": [text, "a", text], "trained": [False, True, True]}
    (folder / "preflight.json").write_text(json.dumps({"examples": [example]}))
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
        n: str(next(folder.glob(f"{n}.*")))
        for n in ("metrics", "ledger", "quarantine", "history", "summary", "curves", "preflight")
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
