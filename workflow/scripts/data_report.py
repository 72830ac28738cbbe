"""What became of the raw rows: one page that a person can read, send, print, and check against the files beside it.

In:  ledger.parquet, ingest/{quarantine,rows-<shard>}.parquet, clean/{findings-<shard>.parquet,effects-<shard>.json},
     dedup/{clusters,evidence}.parquet, decontaminate/hits-<shard>.parquet, the splits, split/leaks.{json,parquet},
     tokens/<split>.json, the templates
Out: data.html, self-contained: no script, no font, no picture from elsewhere

The order is that of a reader's questions: how much is left, and does anything leak; which rows went, at which stage, by
which rule, and what did they look like; what was changed in the others; what is in them.
Tables are read batch by batch, and all texts that are shown are found in one pass over the raw rows.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from snaketune.job import run
from snaketune.pages import likeness, survey
from snaketune.pages.funnel import examples, funnel, ledger_counts, quarantined
from snaketune.pages.pages import percent, render
from snaketune.pages.tallies import over, tally

SPLITS = ("train", "validation", "test")
MOST_TERMS = 20
# What must not be in two splits, for people.
CHECKS = {"row_id": "raw row", "text": "text, by its words", "prompt_words": "prompt, by its words"}
LISTS = ("raw", "findings", "effects", "hits", "splits", "tokens")
SINGLE = ("ledger", "quarantine", "clusters", "evidence", "checks", "nearest", "template")


def data_report(files: Mapping[str, Any], page: str, settings: dict[str, Any]) -> str:
    """Write the page. `files` names the inputs, those of LISTS as lists; `settings` is the run's configuration."""
    counts = ledger_counts(files["ledger"])
    stages = funnel(counts)
    rules = [rule for stage in stages["stages"] for rule in stage["reasons"] if rule["stage"] != "ingest"]
    splits = dict(zip(SPLITS, files["splits"], strict=True))
    leaks = checks(_json(files["checks"]))
    figures = survey.length_figures(survey.lengths(splits))
    dedup = settings["dedup"]
    html = render(
        files["template"],
        title=settings["run"],
        run=settings["run"],
        settings=settings,
        headline=headline(stages, leaks, settings),
        cautions=cautions(leaks, settings),
        funnel=stages,
        rules=shown(rules, files),
        effects=effects(files["effects"]),
        findings=findings(files["findings"]),
        sources=likeness.duplicates_by_source(files["ledger"]),
        clusters=likeness.cluster_sizes(files["clusters"]),
        pairs=_drawn(likeness.pairs(files["evidence"], dedup["threshold"])),
        curve=[(j, likeness.chance_found(j, dedup["bands"], dedup["rows_per_band"])) for j in likeness.S_CURVE],
        lengths=[_drawn(figure) for figure in figures],
        tokens=[{"split": Path(path).stem, **_json(path)} for path in files["tokens"]],
        languages=survey.languages(splits),
        labels=survey.labels(splits),
        ties=survey.ties(splits),
        splits=kept_by_split(counts),
        leaks=leaks,
        nearest=_drawn(likeness.nearest(files["nearest"], settings["leaks"]["similarity"])),
        contamination=likeness.contamination(files["hits"]),
        quarantine=quarantined(files["quarantine"], stages),
    )
    Path(page).write_text(html, encoding="utf-8", errors="replace")
    return headline(stages, leaks, settings)[0]


def headline(stages: dict[str, Any], leaks: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """The verdict: how much came in and how much stays; why most of the rest went; whether anything leaks."""
    kept, raw, left, chars = (stages[name] for name in ("kept", "raw", "chars_kept", "chars"))
    sentences = [
        f"Of {raw:,} raw row{'s' * (raw != 1)}, {kept:,} stay{'s' * (kept == 1)} ({percent(kept, raw)}), with {left:,} "
        f"of {chars:,} characters ({percent(left, chars)})."
    ]
    rules = [rule for stage in stages["stages"] for rule in stage["reasons"]]
    if rules:
        most = max(rules, key=lambda rule: rule["rows"])
        why = (most["rule"] or "no rule given").replace("_", " ")
        sentences.append(
            f"The commonest reason to drop a row: {why}, {most['rows']:,} row{'s' * (most['rows'] != 1)} "
            f"({percent(most['rows'], raw)})."
        )
    else:
        sentences.append("No row was dropped.")
    if leaks["equal"] or leaks["near"]:
        sentences.append(
            f"The leak check found {leaks['equal']:,} rows of one split in another, and {leaks['near']:,} pairs of a "
            f"train row and a validation or test row that are alike from {settings['leaks']['similarity']:g} on."
        )
    else:
        sentences.append(
            "The leak check passed: no validation or test row is equal, related, or alike from "
            f"{settings['leaks']['similarity']:g} on to a train row."
        )
    return sentences


def cautions(leaks: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What a careful reader must know before using the rows."""
    found = []
    if leaks["equal"] or leaks["near"]:
        found.append(
            "Scores on test rows that leak measure memory. `leaks.near: report` let the run go on; `fail` stops it."
        )
    if settings["decontaminate"]["files"] and settings["decontaminate"]["action"] == "report":
        found.append("Rows that hold text of the given test sets are reported below, and stay.")
    return found


def shown(rules: list[dict[str, Any]], files: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rules that dropped rows, each with a few of them and the heads of their raw texts."""
    chosen = examples(files["ledger"], rules)
    heads = survey.heads(files["raw"], [row for rows in chosen.values() for row in rows])
    return [
        rule
        | {
            "examples": [
                row | {"head": heads.get((row["row_id"], row["source"], row["line"]), "")}
                for row in chosen.get((rule["stage"], rule["rule"]), [])
            ]
        }
        for rule in rules
    ]


def effects(paths: list[str]) -> dict[str, Any]:
    """What each step of cleaning changed, over all shards; and the languages of the kept rows, where it told them."""
    steps: dict[str, dict[str, Any]] = {}
    languages: Counter[str] = Counter()
    for path in paths:
        content = _json(path)
        for step in content["steps"]:
            mine = steps.setdefault(
                step["step"], {"step": step["step"], "rows": 0, "chars_before": 0, "chars_after": 0}
            )
            for name in ("rows", "chars_before", "chars_after"):
                mine[name] += step[name]
        languages.update(content.get("languages", {}))
    return {"steps": list(steps.values()), "languages": sorted(languages.items(), key=lambda pair: (-pair[1], pair[0]))}


def findings(paths: list[str]) -> list[dict[str, Any]]:
    """What was found in the rows, by rule and kind: rows and hits; of each rule the commonest kinds."""
    counts = tally(over(paths, ["rule", "kind", "count"]), ["rule", "kind"], [("count", "sum")]).to_pylist()
    rules: dict[str, list[dict[str, Any]]] = {}
    for count in sorted(counts, key=lambda row: (-row["rows"], row["kind"])):
        rules.setdefault(count["rule"], []).append(count)
    return [
        {"rule": rule, "kinds": kinds[:MOST_TERMS], "more": max(0, len(kinds) - MOST_TERMS)}
        for rule, kinds in sorted(rules.items())
    ]


def kept_by_split(counts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kept rows and characters of each split."""
    return [
        {
            "split": split,
            **{key: sum(c[key] for c in counts if c["kept"] and c["split"] == split) for key in ("rows", "chars_kept")},
        }
        for split in SPLITS
    ]


def checks(content: dict[str, Any]) -> dict[str, Any]:
    """The leak checks by name, with the rows that each pair of splits shares; those that only tell stand apart."""
    tables = {}
    for part in ("checks", "told"):
        names: dict[str, dict[str, int]] = {}
        for entry in content[part]:
            names.setdefault(entry["name"], {})[entry["pair"]] = entry["count"]
        tables[part] = [{"name": CHECKS.get(name, name), "pairs": pairs} for name, pairs in names.items()]
    pairs = list(dict.fromkeys(entry["pair"] for part in ("checks", "told") for entry in content[part]))
    near = content["near"]
    within = near["validation_test"]["pairs"]
    found = sum(sum(check["pairs"].values()) for check in tables["checks"])
    return tables | {"between": pairs, "near": near["pairs"], "within": within, "equal": found}


def _drawn(values: dict[str, Any]) -> dict[str, Any]:
    """Values whose figure is known to be SVG of our own."""
    return values | {"figure": Markup(values["figure"]) if values["figure"] else None}


def _json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(
        lambda job: data_report(
            {name: list(job.input.get(name, [])) for name in LISTS} | {name: job.input[name] for name in SINGLE},
            job.output.page,
            job.params.settings,
        ),
        snakemake,
        light=True,
    )
