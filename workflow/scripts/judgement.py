"""What people judged: how often the tuned model's answer is preferred, how sure that is, and whether people agree.

In:  the collected files of the judges (none is fine), judge/key.json
Out: judgement.json

The item is the unit, not the single vote: two votes on one item are not two independent witnesses. The choice with
the most votes counts for an item; where several choices have the most, it is a tie. `votes` counts items so.

- The win rate is that of the tuned model among the items that are decided, with Wilson's 95 % interval; ties stand
  apart, because counting them as halves would make them look like evidence.
- p is that of the exact two-sided sign test on the decided items.
- alpha is Krippendorff's, nominal, over the sides as they were chosen: a, b or tie. Judges who always take the first
  answer would seem to agree on the model, because all see the same sides; they do not agree on the sides beyond chance.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from snaketune.job import StageError, run
from snaketune.pages.judge_files import Vote, collected
from snaketune.scoring.agreement import alpha, majority, sign_test, wilson

DIGITS = 6  # after the point
OUTCOMES = ("tuned", "base", "tie")


def judgement(files: list[str], key: str, out: str, settings: dict[str, Any]) -> str:
    """Write judgement.json from the files of the judges; settings: run.

    Raises StageError for a file that does not belong to the page, and for a key of another run.
    """
    page = json.loads(Path(key).read_text(encoding="utf-8"))
    if page["run"] != settings["run"]:
        raise StageError(f"{key} is of the run {page['run']!r}, not {settings['run']!r}. Remove it, and run again")
    votes = collected(files, page)
    rows = _rows(votes, page["items"])
    counts = Counter(majority({name: row[name] for name in OUTCOMES}) for row in rows)
    wins, losses = counts["tuned"], counts["base"]
    agreed, why = alpha({judge: {item: vote.choice for item, vote in by.items()} for judge, by in votes.items()})
    document = {
        "page": page["page"],
        "run": page["run"],
        "judges": [_judge(name, by_item, page["items"]) for name, by_item in votes.items()],
        "items": len(page["items"]),
        "judged": len(rows),
        "shared": sum(row["tuned"] + row["base"] + row["tie"] > 1 for row in rows),
        "equal": page["equal"],
        "votes": {name: counts[name] for name in OUTCOMES},
        "win_rate": _rate(wins, wins + losses),
        "p": round(sign_test(wins, losses), DIGITS) if wins + losses else None,
        "alpha": agreed if agreed is None else round(agreed, DIGITS) + 0.0,
        "alpha_missing": why,
        "rows": rows,
    }
    Path(out).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return _sentence(document)


def _rows(votes: dict[str, dict[str, Vote]], items: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The judged items by row id: how many judges chose each model, and what they noted."""
    rows = []
    for item in items:
        cast = {judge: by_item[item["item"]] for judge, by_item in votes.items() if item["item"] in by_item}
        if cast:
            counts = Counter(_chosen(vote, item) for vote in cast.values())
            notes = [{"judge": judge, "note": vote.note} for judge, vote in cast.items() if vote.note]
            rows.append({"row_id": item["row_id"], **{name: counts[name] for name in OUTCOMES}, "notes": notes})
    return sorted(rows, key=lambda row: row["row_id"])


def _judge(name: str, by_item: dict[str, Vote], items: list[dict[str, str]]) -> dict[str, Any]:
    counts = Counter(_chosen(by_item[item["item"]], item) for item in items if item["item"] in by_item)
    return {"name": name, "n": len(by_item), **{outcome: counts[outcome] for outcome in OUTCOMES}}


def _chosen(vote: Vote, item: dict[str, str]) -> str:
    """The model that a vote is for."""
    if vote.choice == "tie":
        return "tie"
    return "tuned" if vote.choice == item["tuned"] else "base"


def _rate(wins: int, decided: int) -> dict[str, Any] | None:
    if not decided:
        return None
    return {"value": round(wins / decided, DIGITS), "ci95": [round(bound, DIGITS) for bound in wilson(wins, decided)]}


def _sentence(document: dict[str, Any]) -> str:
    if not document["judges"]:
        return f"nobody has judged the {document['items']:,} pairs yet"
    votes, rate, judges = document["votes"], document["win_rate"], len(document["judges"])
    by = f"{judges:,} judge{'s' * (judges > 1)}, {document['judged']:,} of {document['items']:,} pairs"
    if rate is None:
        return f"{by}: no preference, {votes['tie']:,} ties"
    low, high = rate["ci95"]
    return (
        f"{by}: tuned preferred in {votes['tuned']:,}, base in {votes['base']:,}, {votes['tie']:,} ties; "
        f"win rate {rate['value']:.0%} ({low:.0%} to {high:.0%})"
    )


if __name__ == "__main__":
    run(
        lambda job: judgement(list(job.input.votes), job.input.key, job.output.judgement, job.params.settings),
        snakemake,
        light=True,
    )
