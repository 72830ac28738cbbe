"""Where the tuned model is better and worse than the base, and how: rows, parts of the data, kinds of failure.

In:  scores/{base,tuned}.parquet, generate/{base,tuned}.parquet, likelihood/{base,tuned}.parquet, split/test.parquet,
     the train split, the folder of the model (its tokenizer), and {rows, format, seed, score, compare,
     trust_remote_code}
Out: errors.json

    measure          what ranked the rows: "ROUGE-L" (0-100) or "loss" (nats per token of the reference)
    rows             those that tuning won most, lost most, and some drawn by seed (snaketune.scoring.picks), each with
                     both answers; `tokens`: the tokens that the models were scored on (of plain text the whole text),
                     at most 400, with the nats that each cost; tokens_left_out: how many more there are; `nearest`: of
                     won and lost rows, the train row that is most like it
    slices           base against tuned on parts of the test split (snaketune.scoring.slices)
    slices_left_out  how many parts of a column, and rows in them, were too small
    failures         how answers fail, whatever they should have said (snaketune.scoring.failures)
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.job import StageError, run
from snaketune.rows import batches, read_table
from snaketune.scoring import measures
from snaketune.scoring.bootstrap import DIGITS, paired
from snaketune.scoring.failures import SIDES, failures
from snaketune.scoring.nearest import nearest
from snaketune.scoring.picks import measured, pick
from snaketune.scoring.slices import slices
from snaketune.tokens.pieces import pieces

TOKENS = 400  # shown of a row
NATS_DIGITS = 4
SLICED = ("rouge", "bleu")  # measures of answers that slices show, beside the likelihood
ANSWERED = ["row_id", "prompt", "reference", "output", "n_tokens", "stopped"]


def errors(files: Mapping[str, Any], out: str, settings: dict[str, Any]) -> str:
    """Write errors.json.

    files: scores, answers, likelihoods ([base, tuned] each), test, train (Parquet), tokenizer (the model's folder).
    Raises StageError where the files of base and tuned speak of different rows.
    """
    scores = paired(*(read_table(path) for path in files["scores"]))
    answers = _answers(files["answers"], scores[0]["row_id"])
    answered = [table.take(pc.index_in(answers[0]["row_id"], value_set=table["row_id"])) for table in scores]
    measure, *values = measured(*answered)
    gains = (values[1] - values[0]) * (-1 if measure == "loss" else 1)
    row_ids = answers[0]["row_id"].to_pylist()
    picked = pick(row_ids, gains, settings["rows"], settings["seed"])

    wanted = [name for name in SLICED if name in settings["score"]["metrics"]]
    loaded = measures.load(settings["score"] | {"metrics": wanted, "own": []})
    made, small = slices(*scores, loaded, settings["compare"]["resamples"], settings["seed"])
    decode = _decoder(Path(files["tokenizer"]), settings["trust_remote_code"])
    document = {
        "measure": measure,
        "rows": _rows(picked, answers, answered[0], values, files, decode),
        "slices": made,
        "slices_left_out": small,
        "failures": failures(*answers, settings["format"]),
    }
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(text, encoding="utf-8")
    return _sentence(document)


def _answers(paths: Sequence[str], scored: pa.ChunkedArray) -> list[pa.Table]:
    """The answers of base and tuned to the same rows, by row_id."""
    tables = [read_table(path, ANSWERED).sort_by("row_id").combine_chunks() for path in paths]
    if not tables[0]["row_id"].equals(tables[1]["row_id"]):
        raise StageError("base and tuned answered different rows: generate both with the same `generate.limit`")
    if not pc.all(pc.is_in(tables[0]["row_id"], value_set=scored)).as_py():
        raise StageError("some answers are to rows that have no scores: score again, on one test split")
    return tables


def _rows(
    picked: list[tuple[str, int]],
    answers: list[pa.Table],
    scores: pa.Table,
    values: list[np.ndarray],
    files: Mapping[str, Any],
    decode: Callable[[Sequence[int]], str],
) -> list[dict[str, Any]]:
    """The rows that are shown: `picked` are their kinds and places in answers, scores and values."""
    row_ids = [answers[0]["row_id"][place].as_py() for _, place in picked]
    tokens = _tokens(files["likelihoods"], row_ids, decode)
    near = _nearest([row for row, (kind, _) in zip(row_ids, picked, strict=True) if kind != "random"], files)
    rows = []
    for row_id, (kind, place) in zip(row_ids, picked, strict=True):
        row = {"kind": kind, "row_id": row_id}
        row |= {name: scores[name][place].as_py() for name in ("label", "source")}
        row |= {name: answers[0][name][place].as_py() for name in ("prompt", "reference")}
        for side, table, value in zip(SIDES, answers, values, strict=True):
            said = {name: table[name][place].as_py() for name in ("output", "n_tokens", "stopped")}
            known = np.isfinite(value[place])
            row[side] = said | {"value": round(float(value[place]), DIGITS) if known else None}
        rows.append(row | tokens[row_id] | {"nearest": near.get(row_id)})
    return rows


def _tokens(
    paths: Sequence[str], row_ids: list[str], decode: Callable[[Sequence[int]], str]
) -> dict[str, dict[str, Any]]:
    """The scored tokens of rows, their texts and what each model paid for them: `tokens`, `tokens_left_out`."""
    base, tuned = (_chosen(path, ["row_id", "token_ids", "token_nll"], row_ids) for path in paths)
    found = {}
    for row_id in row_ids:
        ids = base[row_id]["token_ids"]
        if ids != tuned[row_id]["token_ids"]:
            raise StageError(
                f"base and tuned were scored on different tokens of the row {row_id}: compute the likelihood of both "
                "again, with one tokenizer"
            )
        shown = min(len(ids), TOKENS)
        costs = ([round(nats, NATS_DIGITS) for nats in side[row_id]["token_nll"][:shown]] for side in (base, tuned))
        lines = zip(pieces(decode, ids, 0, shown), *costs, strict=True)
        listed = [dict(zip(("text", *SIDES), line, strict=True)) for line in lines]
        found[row_id] = {"tokens": listed, "tokens_left_out": len(ids) - shown}
    return found


def _decoder(folder: Path, trust_remote_code: bool) -> Callable[[Sequence[int]], str]:
    """Ids to text by the model's tokenizer, special tokens and spaces kept."""
    if (folder / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)
    from snaketune.tokens.tokenizer import open_tokenizer

    slow = open_tokenizer(folder, trust_remote_code)
    return lambda ids: slow.decode(ids, clean_up_tokenization_spaces=False)


def _nearest(row_ids: list[str], files: Mapping[str, Any]) -> dict[str, dict[str, Any] | None]:
    texts = _chosen(files["test"], ["row_id", "prompt", "completion"], row_ids)
    columns = {name: pa.array([texts[row_id][name] for row_id in row_ids], pa.string()) for name in _TEXTS}
    return dict(zip(row_ids, nearest(pa.table(columns), files["train"]), strict=True))


_TEXTS = ("prompt", "completion")


def _chosen(path: str, columns: list[str], row_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Some rows of a table, by their ids. Raises StageError where one is not there."""
    wanted = pa.array(sorted(row_ids), pa.string())
    parts = [batch.filter(pc.is_in(batch["row_id"], value_set=wanted)) for batch in batches(path, columns)]
    found = {row["row_id"]: row for part in parts for row in part.to_pylist()}
    if missing := [row_id for row_id in wanted.to_pylist() if row_id not in found]:
        raise StageError(f"{path} lacks the row {missing[0]}: the files come from different splits, run again")
    return found


def _sentence(document: dict[str, Any]) -> str:
    counts = [sum(row["kind"] == kind for row in document["rows"]) for kind in ("won", "lost", "random")]
    worst = max(document["failures"], key=lambda failure: failure["tuned"])
    failing = f"{worst['tuned']:,} of {worst['of']:,} tuned answers are {worst['kind'].replace('_', '-')}"
    return (
        f"rows by {document['measure']}: {counts[0]} won, {counts[1]} lost, {counts[2]} at random; "
        f"slices: {len(document['slices'])}; " + (failing if worst["tuned"] else "no tuned answer fails in a known way")
    )


FILES = ("scores", "answers", "likelihoods", "test", "train")


if __name__ == "__main__":
    run(
        lambda job: errors(
            {name: job.input[name] for name in FILES} | {"tokenizer": job.params.model},
            job.output.errors,
            job.params.settings,
        ),
        snakemake,
        light=True,
    )
