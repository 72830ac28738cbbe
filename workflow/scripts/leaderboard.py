"""All runs and variants beside each other, those that can be compared: their numbers, their cost, their settings.

In:  of each run metrics.json, and where they are known scores/tuned.parquet, manifest.json, train/summary.json,
     train/speed.jsonl; the template; {resamples, seed}
Out: leaderboard.html, and leaderboard.csv with a line a run:

    test_sha256, test_rows    which test split; runs of one hash were scored on the same rows
    rank                      in its group, from 1; empty for seeds and folds, and what cannot be ranked
    run                       its name
    <metric>                  of the tuned model; _low, _high: its 95 % interval; _base: of the base model;
                              _delta: tuned less base, with _delta_low, _delta_high, _p; _n: rows
    <metric>_best             the best run of the column in the group; _best_delta: this run less that one, with
                              _best_delta_low, _best_delta_high, _best_p; empty where the two cannot be compared
    parent                    the run whose seed or fold this is
    seconds ... processes     what the training cost, as train/summary.json and train/speed.jsonl tell it
    on_front                  whether no run of the group is both better and cheaper; empty where it is not known
    config_reference          the run that its settings are held against
    config_differences        JSON: dotted key -> {"from", "to"}; an entry that is missing: the key is

Numbers on different test rows say nothing about each other, so runs are grouped by the hash of their test split.
Within a group the best stands first by bits per byte, which does not hang on the tokenizer as perplexity does; on the
page a reader may sort by any column. The page shows the leading metrics, the table all.

Seconds and memory come from speed.jsonl, which is a measurement; the page and the table change with it, and with
nothing else that a clock tells.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snaketune.job import StageError, run
from snaketune.pages import leaderboard_cost as cost
from snaketune.pages import leaderboard_settings as configs
from snaketune.pages.leaderboard_best import Comparison, against_best
from snaketune.pages.leaderboard_groups import Group, grouped
from snaketune.pages.leaderboard_pareto import pareto
from snaketune.pages.leaderboard_runs import Run, read
from snaketune.pages.leaderboard_table import Part, write
from snaketune.pages.pages import outcome, render


def leaderboard(
    runs: Sequence[Mapping[str, str]], table: str, page: str, template: str, settings: Mapping[str, int]
) -> str:
    """Write both files. Raises StageError where two files speak of one run.

    runs: the files of each run, by `metrics`, `scores`, `manifest`, `summary`, `speed` and `report`; all but the first
    may be missing, which means that they are not known.
    """
    found = [read(files, Path(page).parent) for files in runs]
    names = [entry.name for entry in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StageError(f"two metrics.json speak of the run `{twice[0]}`: give the runs different names")
    groups = grouped(found)
    parts, views = zip(*(_part(group, found, settings) for group in groups), strict=True) if groups else ((), ())
    write(Path(table), parts)
    Path(page).write_text(render(template, groups=views), encoding="utf-8", errors="replace")
    return _sentence(groups)


def _part(group: Group, runs: Sequence[Run], settings: Mapping[str, int]) -> tuple[Part, dict[str, Any]]:
    """What was found out about a group, and how the page sees it."""
    comparison, figure = against_best(group, settings), pareto(group)
    differences = configs.differences(group, runs)
    part = Part(
        group=group,
        comparison=comparison,
        front=figure["front"] if figure else None,
        missing=figure["missing"] if figure else [],
        differences=differences,
    )
    view = {
        "group": group,
        "comparison": comparison,
        "compared": [name for name in group.metrics if name in comparison.best],
        "held": [entry for entry in group.runs if _held(entry.name, comparison)],
        "verdict": _verdict(part),
        "figure": figure,
        "costs": cost.table([(entry.name, entry.cost) for entry in group.runs]),
        "differences": configs.table(differences),
        "reference": next((entry.run for entry in differences if entry.against is None), None),
    }
    return part, view


def _held(name: str, comparison: Comparison) -> bool:
    """Whether a run is held against the best of any column, or is one."""
    return name in comparison.best.values() or any(name in entries for entries in comparison.entries.values())


def _verdict(part: Part) -> dict[str, Any] | None:
    """The best run by the metric of the ranking, and the runs of which it is not sure that they are worse."""
    group, comparison = part.group, part.comparison
    if group.sort not in group.best:
        return None
    best = comparison.best.get(group.sort)
    entries = comparison.entries.get(group.sort, {})
    near = [name for name in group.ranks if name in entries and outcome(entries[name]) != "worse"]
    return {
        "best": best or group.best[group.sort][0],
        "near": near,
        "compared": sum(name in entries for name in group.ranks),
    }


def _sentence(groups: Sequence[Group]) -> str:
    runs = [entry for group in groups for entry in group.runs]
    tests = len({entry.test or entry.name for entry in runs})
    apart = f" on {tests} different test sets" if tests > 1 else ""
    best = f"; best: {next(iter(groups[0].ranks))}" if len(groups) == 1 and len(groups[0].ranks) > 1 else ""
    return f"{len(runs):,} run{'s' * (len(runs) != 1)}{apart}{best}"


if __name__ == "__main__":
    run(
        lambda job: leaderboard(
            list(job.params.runs), job.output.table, job.output.page, job.input.template, job.params.settings
        ),
        snakemake,
        light=True,
    )
