"""All runs and variants beside each other, those that can be compared.

In:  metrics.json of each run, the template
Out: leaderboard.csv (a line a run, every metric with its interval) and leaderboard.html

Numbers on different test rows say nothing about each other, so runs are grouped by the hash of their test split.
Within a group the best stands first by bits per byte, which does not hang on the tokenizer as perplexity does; on the
page a reader may sort by any column. The page shows the leading metrics, the table all.
"""

import csv
import json
import math
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from snaketune.job import StageError, run
from snaketune.pages.metric_groups import main
from snaketune.pages.pages import ordered, render

SORTED_BY = ("bits_per_byte", "perplexity")
COLUMNS = (
    ("", "tuned", None),
    ("_low", "tuned_ci95", 0),
    ("_high", "tuned_ci95", 1),
    ("_base", "base", None),
    ("_delta", "delta", None),
    ("_delta_low", "ci95", 0),
    ("_delta_high", "ci95", 1),
    ("_p", "p", None),
    ("_n", "n", None),
)


def leaderboard(files: list[str], table: str, page: str, template: str) -> str:
    """Write both files. Raises StageError where two files speak of one run."""
    runs = [_read(Path(path), Path(page).parent) for path in files]
    names = [entry["run"] for entry in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StageError(f"two metrics.json speak of the run `{twice[0]}`: give the runs different names")
    groups = grouped(runs)
    _write_csv(Path(table), groups)
    Path(page).write_text(render(template, groups=groups), encoding="utf-8", errors="replace")
    apart = f" on {len(groups)} different test sets" if len(groups) > 1 else ""
    best = f"; best: {groups[0]['runs'][0]['run']}" if len(groups) == 1 and len(runs) > 1 else ""
    return f"{len(runs):,} run{'s' * (len(runs) != 1)}{apart}{best}"


def grouped(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of equal test data together: the largest group first, those of unknown test data each alone at the end."""
    by_test: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in runs:
        by_test.setdefault((entry["test"], "" if entry["test"] else entry["run"]), []).append(entry)
    ranked = sorted(by_test.items(), key=lambda item: (not item[0][0], -len(item[1]), item[0]))
    return [_group(test, members) for (test, _), members in ranked]


def _group(test: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    sort = next((name for name in SORTED_BY if all(_value(entry, name) is not None for entry in members)), None)
    members = sorted(members, key=lambda entry: (_value(entry, sort) if sort else 0.0, entry["run"]))
    names = ordered({name: None for entry in members for name in entry["metrics"]})
    best = {}
    for name in names:
        found = [(value, entry) for entry in members if (value := _value(entry, name)) is not None]
        if len({value for value, _ in found}) > 1:
            directions = {entry["metrics"][name]["higher_is_better"] for _, entry in found}
            if directions in ({True}, {False}):
                best[name] = (max if True in directions else min)(value for value, _ in found)
    signatures = {name: sorted({str(entry["signatures"].get(name)) for entry in members}) for name in names}
    return {
        "test": test,
        "rows": members[0]["rows"],
        "runs": members,
        "metrics": names,
        "shown": [name for name in names if main(name)],
        "sort": sort,
        "best": best,
        "mixed": {name: found for name, found in signatures.items() if len(found) > 1},
    }


def _value(entry: dict[str, Any], metric: str) -> float | None:
    value = entry["metrics"].get(metric, {}).get("tuned")
    return value if value is not None and math.isfinite(value) else None


def _read(path: Path, home: Path) -> dict[str, Any]:
    result = json.loads(path.read_text(encoding="utf-8"))
    test = result.get("test") or {}
    return {
        "run": result["run"],
        "metrics": result["metrics"],
        "signatures": result.get("signatures") or {},
        "test": test.get("sha256") or "",
        "rows": test.get("rows"),
        "report": quote(Path(os.path.relpath(path.parent / "report.html", home)).as_posix()),
    }


def _write_csv(path: Path, groups: list[dict[str, Any]]) -> None:
    """One line a run; floats as Python writes them, so that nothing is lost. An absent number is an empty cell."""
    names = ordered({name: None for group in groups for name in group["metrics"]})
    with path.open("w", encoding="utf-8", newline="", errors="replace") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["test_sha256", "test_rows", "rank", "run", *(n + end for n in names for end, _, _ in COLUMNS)])
        for group in groups:
            for rank, entry in enumerate(group["runs"], start=1):
                cells = [_cell(entry["metrics"].get(n, {}), key, at) for n in names for _, key, at in COLUMNS]
                out.writerow([group["test"], group["rows"], rank, entry["run"], *cells])


def _cell(metric: dict[str, Any], key: str, at: int | None) -> Any:
    value = metric.get(key)
    return value if at is None or value is None else value[at]


if __name__ == "__main__":
    run(
        lambda job: leaderboard(list(job.input.metrics), job.output.table, job.output.page, job.input.template),
        snakemake,
    )
