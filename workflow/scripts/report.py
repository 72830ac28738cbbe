"""The report of a run: one page that a person can read, send, print, and check against the files beside it.

In:  metrics.json, errors.json, judgement.json, ledger.parquet, ingest/quarantine.parquet,
     train/{history.jsonl,summary.json,curves.svg,preflight.json}, tokens/<split>.json, manifest.json, the templates;
     spread.json where the run has seeds or folds
Out: report.html, self-contained: no font, no picture, no script from elsewhere; its one script sorts tables

The order is that of a reader's questions: did it work, by how much and how surely; how did the training go; which
rows went in and which did not, and why; what does the model say now, and where does it fail; what do people say; with
which settings can I have this again.
"""

import itertools
import json
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from snaketune.job import run
from snaketune.pages import calibration, errors, spread
from snaketune.pages.funnel import funnel, ledger_counts, quarantined
from snaketune.pages.history import read_history, verdict
from snaketune.pages.lineage import lineage
from snaketune.pages.metric_groups import groups, tracks
from snaketune.pages.pages import ordered, outcome, render
from snaketune.pages.verdicts import cautions, checks_in_words, forgetting, headline, judged_in_words
from snaketune.scoring.gates import judged

SPLITS = ("train", "validation", "test")


def report(
    files: Mapping[str, Any],
    page: str,
    settings: dict[str, Any],
    data_page: str = "data.html",
    judge_page: str = "judge/page.html",
) -> str:
    """Write the page. `files` names the inputs; `tokens` is a list, told apart by file name; `spread` may be
    missing or None, and nothing is said of seeds and folds then.

    `settings` is the complete configuration of the run; `data_page` and `judge_page` are the ways from this page to
    the data report and to the page for judges. Raises StageError where `checks` names a metric that there is not.
    """
    result, found, votes = (_json(files[name]) for name in ("metrics", "errors", "judgement"))
    metrics, history = result["metrics"], read_history(files["history"])
    counts = ledger_counts(files["ledger"])
    stages = funnel(counts)
    checks = judged(result, settings["checks"])
    several = _json(files["spread"]) if files.get("spread") else None
    html = render(
        files["template"],
        title=settings["report"]["title"] or result["run"],
        run=result["run"],
        data_page=data_page,
        judge_page=judge_page,
        settings=settings,
        headline=headline(metrics),
        checks=checks,
        checked=checks_in_words(checks),
        metrics={name: metrics[name] | {"outcome": outcome(metrics[name])} for name in ordered(metrics)},
        signatures=result.get("signatures") or {},
        groups=groups(metrics),
        cautions=[
            *cautions(metrics, found["failures"], settings["generate"]["few_shot"]),
            *spread.cautions(several, metrics),
        ],
        spread=spread.parts(several),
        tracks=tracks(metrics),
        curves=Markup(Path(files["curves"]).read_text(encoding="utf-8")),
        verdict=verdict(history),
        funnel=stages,
        splits=splits(counts, [Path(path) for path in files["tokens"]]),
        quarantine=quarantined(files["quarantine"], stages),
        samples=errors.samples(found),
        measure=found["measure"],
        slices=errors.slices(found),
        failures=errors.failures(found),
        reliability=_reliability(result["calibration"]),
        classes=result["classes"],
        forgetting=forgetting(metrics),
        bias=result["bias"],
        probes=result["probes"],
        judgement=votes,
        judged=judged_in_words(votes),
        summary=_json(files["summary"]),
        examples=[example | {"tokens": _runs(example)} for example in _json(files["preflight"])["examples"]],
        yaml=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100),
        manifest=(manifest := _json(files["manifest"])),
        lineage=lineage(manifest, settings),
    )
    Path(page).write_text(html, encoding="utf-8", errors="replace")
    return headline(metrics)[0]


def splits(counts: list[dict[str, Any]], manifests: list[Path]) -> list[dict[str, Any]]:
    """Rows of each split by the ledger, beside what tokenization made of them."""
    tokens = {path.stem: _json(path) for path in manifests}
    kept = {name: sum(c["rows"] for c in counts if c["kept"] and c["split"] == name) for name in (*SPLITS, *tokens)}
    return [
        {"name": name, "kept": kept[name], **tokens[name]}
        for name in dict.fromkeys((*SPLITS, *tokens))
        if name in tokens
    ]


def _reliability(found: dict[str, Any]) -> dict[str, Any] | None:
    words = calibration.in_words(found)
    if not words:
        return None
    return {"drawing": calibration.reliability(found, words), "words": words, "table": calibration.table(found)}


def _runs(example: dict[str, Any]) -> list[tuple[bool, str]]:
    """The text of a row in runs of tokens that are all trained, or all not."""
    pairs = zip(example["trained"], example["tokens"], strict=True)
    runs = itertools.groupby(pairs, key=operator.itemgetter(0))
    return [(trained, "".join(token for _, token in run)) for trained, run in runs]


def _only(found: str | Sequence[str] | None) -> str | None:
    """The path among an input that Snakemake gives as a path, as a list with one, as an empty list, or not at all."""
    return next(iter([found] if isinstance(found, str) else found or []), None)


def _json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


INPUTS = (
    "metrics",
    "errors",
    "judgement",
    "ledger",
    "quarantine",
    "history",
    "summary",
    "curves",
    "preflight",
    "tokens",
)


if __name__ == "__main__":
    run(
        lambda job: report(
            {name: job.input[name] for name in (*INPUTS, "manifest", "template")}
            | {"spread": _only(job.input.get("spread"))},
            job.output.page,
            job.params.settings,
            job.params.data_page,
            job.params.judge_page,
        ),
        snakemake,
    )
