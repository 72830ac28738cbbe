"""A page on which people judge: the answers of base and tuned side by side, blind.

In:  generate/base.parquet, generate/tuned.parquet, the template (with judge.js and style.css beside it)
Out: judge/page.html   self-contained; it is what the judges are given
     judge/key.json    which side is which; it is not given to the judges

Rows are drawn by the hash of seed and row, so that more rows are the same ones and others. A row whose two answers
are the same text has nothing to judge: it is left out, and counted as `equal` in the key and on the page.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from snaketune.job import StageError, run
from snaketune.pages.judge_page import Pair, digest, item_id, judge_page, ordered, page_id
from snaketune.rows import batches, read_table


def judge(answers: list[str], page: str, key: str, settings: dict[str, Any], template: str) -> str:
    """Write the page and its key. `answers`: the tables of base and tuned; settings: rows, seed, run.

    Raises StageError where the two tables answer other rows.
    """
    seed = settings["seed"]
    base, tuned = (read_table(path, ["row_id", "output"]) for path in answers)
    asked, differ = _compared(base, tuned, answers)
    drawn = sorted(differ, key=lambda row: digest(16, "row", seed, row))[: settings["rows"]]
    pairs, sides = _pairs(answers, drawn, seed)

    Path(page).parent.mkdir(parents=True, exist_ok=True)
    equal = asked - len(differ)
    Path(page).write_text(judge_page(template, settings["run"], pairs, equal), encoding="utf-8")
    name = page_id(settings["run"], pairs)
    document = {
        "page": name,
        "run": settings["run"],
        "seed": seed,
        "answered": asked,
        "equal": equal,
        "items": [
            {"item": item_id(name, pair.row_id), "row_id": pair.row_id, "tuned": side}
            for pair, side in zip(pairs, sides, strict=True)
        ],
    }
    Path(key).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    same = f"; left out as equal on both sides: {equal:,}" if equal else ""
    return f"{len(pairs):,} pairs to judge, of {asked:,} rows{same}"


def _compared(base: pa.Table, tuned: pa.Table, paths: list[str]) -> tuple[int, list[str]]:
    """How many rows were answered, and the ids of those that were answered differently."""
    ids = pc.unique(base["row_id"])
    other = pc.unique(tuned["row_id"])
    lacking = len(ids) + len(other) - 2 * pc.sum(pc.is_in(ids, other)).as_py() if len(ids) else len(other)
    if lacking:
        raise StageError(
            f"{paths[0]} and {paths[1]} answer other rows ({lacking:,} stand in one of them only), so that they "
            "cannot be judged side by side. Remove both, and generate again"
        )
    texts = [side["output"].take(pc.index_in(ids, side["row_id"])) for side in (base, tuned)]
    return len(ids), ids.filter(pc.not_equal(*texts)).to_pylist()


def _pairs(answers: list[str], drawn: list[str], seed: int) -> tuple[list[Pair], list[str]]:
    """The pairs in the order of `drawn`, and the side on which the tuned answer of each stands, "a" or "b"."""
    columns = ["row_id", "prompt", "reference", "output"]
    wanted = pa.array(drawn, pa.string())
    base, tuned = (
        {
            row["row_id"]: row
            for table in batches(path, columns)
            for row in table.filter(pc.is_in(table["row_id"], wanted)).to_pylist()
        }
        for path in answers
    )
    pairs, sides = [], []
    for row in drawn:
        a, b = ordered(seed, row, (base[row]["output"], tuned[row]["output"]))
        pairs.append(Pair(row, base[row]["prompt"], base[row]["reference"], a, b))
        sides.append("a" if a == tuned[row]["output"] else "b")
    return pairs, sides


if __name__ == "__main__":
    run(
        lambda job: judge(
            list(job.input.answers),
            job.output.page,
            job.output.key,
            job.params.settings,
            job.input.template,
        ),
        snakemake,
        light=True,
    )
