"""What each test row says about a model: its likelihood, and the statistics of its answer.

In:  likelihood/<model>.parquet, generate/<model>.parquet, split/test.parquet, the files of the training split, and the
     section `score`
Out: scores/<model>.parquet: a line for each row of the likelihood, by row_id: row_id, family, label, source, kind
     ("text": no prompt, "pair", "chat"), the numbers of the likelihood, and for rows with an answer n_prompt_tokens and
     a column <measure>_<statistic> for each statistic (null elsewhere). The file's own metadata, as JSON, has

     signatures  {metric: how it was computed}
     classes     what `classification` tells apart, in the order of its columns; null without it
     own         {metric: {"value", "groups", ...}} of a user's own metrics that have no statistics by row
     windows     those of the likelihood

Rows hold statistics, not scores: BLEU of a corpus is no mean of its rows, and with the statistics it can be computed
of any part of the corpus, or of a thousand resampled ones, without a look at the texts.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snaketune.job import StageError, run
from snaketune.rows import read_table, write_table
from snaketune.scoring import classes as classification
from snaketune.scoring import measures, own
from snaketune.scoring.likelihood import Likelihood
from snaketune.scoring.measures import Answers, Measure

KEYS = ("row_id", "family", "label", "source")
ANSWERS = ("row_id", "prompt", "reference", "output", "n_prompt_tokens")


def score(likelihood: str, generated: str, test: str, scores: str, settings: dict[str, Any], train: list[str]) -> str:
    """Write the statistics of one model's test rows; `train`: Parquet files of the rows that were trained on.

    Raises StageError where the files speak of different rows, and where a measure cannot be taken of these answers.
    """
    schema = pq.read_schema(likelihood)
    named = [field.name for field in schema if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)]
    rows = _sorted(read_table(likelihood, columns=["row_id", *named]), "the likelihood")
    answered = _sorted(read_table(generated, columns=list(ANSWERS)), "the answers")
    known = _sorted(read_table(test, columns=[*KEYS, "prompt", "messages"]), "the test split")
    if not rows.num_rows or not answered.num_rows:
        raise StageError("there is nothing to score: no test row has a likelihood and an answer")
    _finite(rows, named)

    known = known.take(_places(rows, known, "has a likelihood, but is no row of the test split"))
    places = _places(answered, rows, "has an answer, but no likelihood")
    answers = _answers(answered, known.take(places), train)
    labels = classification.found(settings, answers)
    loaded = measures.load(settings, labels)

    columns = {name: known[name] for name in KEYS} | {"kind": _kinds(known)} | {name: rows[name] for name in named}
    columns["n_prompt_tokens"] = _spread(answered["n_prompt_tokens"].to_numpy(), places, rows.num_rows)
    for name, values in _statistics(loaded, answers).items():
        columns[name] = _spread(values, places, rows.num_rows)
    stamp = _stamp(schema, settings, loaded, labels, answers, known["family"].take(places).to_pylist())
    table = pa.table(columns)
    write_table(table, scores, table.schema.with_metadata(stamp))
    names = ["perplexity", *loaded, *json.loads(stamp["own"])]
    return f"{table.num_rows:,} rows, {len(places):,} answers: {', '.join(names)}"


def _sorted(table: pa.Table, what: str) -> pa.Table:
    """The table by row_id, each of which must stand there once."""
    ids = table["row_id"]
    if pc.count_distinct(ids).as_py() != table.num_rows:
        counts = pc.value_counts(ids).flatten()
        twice = counts[0].filter(pc.greater(counts[1], 1))[0]
        raise StageError(f"the row {twice} stands more than once in {what}: run the stage before again")
    return table.sort_by("row_id").combine_chunks()


def _places(wanted: pa.Table, among: pa.Table, fault: str) -> np.ndarray:
    """Where the rows of one table stand in another: int [rows of `wanted`]."""
    places = pc.index_in(wanted["row_id"], value_set=among["row_id"].combine_chunks())
    if places.null_count:
        first = wanted["row_id"].filter(pc.is_null(places))[0]
        raise StageError(
            f"{places.null_count:,} of {wanted.num_rows:,} rows do not fit: {first} {fault}. "
            "The files come from different splits: run the stages before again"
        )
    return places.to_numpy()


def _finite(rows: pa.Table, named: list[str]) -> None:
    for name in named:
        bad = rows["row_id"].filter(pc.invert(pc.fill_null(pc.is_finite(rows[name]), False)))
        if len(bad):
            raise StageError(
                f"the column {name} is not a number in {len(bad):,} rows, the first {bad[0]}: the model gives nan or "
                "infinite losses; train again with a lower `train.learning_rate`, or with `train.precision: fp32`"
            )


def _answers(answered: pa.Table, known: pa.Table, train: list[str]) -> Answers:
    """The answers and what is known of their rows, side by side."""
    return Answers(
        outputs=answered["output"].to_pylist(),
        references=answered["reference"].to_pylist(),
        prompts=pc.fill_null(answered["prompt"], "").to_pylist(),
        labels=known["label"].to_pylist(),
        train=tuple(train),
    )


def _kinds(known: pa.Table) -> pa.ChunkedArray:
    """What each row is: a conversation, a prompt and its completion, or plain text."""
    pair = pc.if_else(pc.is_valid(known["prompt"]), "pair", "text")
    return pc.if_else(pc.is_valid(known["messages"]), "chat", pair)


def _statistics(loaded: Mapping[str, Measure], answers: Answers) -> dict[str, np.ndarray]:
    """<measure>_<statistic> -> float64 [answers]."""
    found = {}
    for measure, part in loaded.items():
        try:
            statistics = part.statistics(answers)
        except ValueError as error:
            raise StageError(f"`score`: {measure} cannot be taken of these answers: {error}") from error
        found |= {f"{measure}_{name}": values for name, values in statistics.items()}
    return found


def _stamp(
    likelihood: pa.Schema,
    settings: Mapping[str, Any],
    loaded: Mapping[str, Measure],
    labels: list[str] | None,
    answers: Answers,
    families: list[str],
) -> dict[str, str]:
    """The metadata of the scores."""
    windows = (likelihood.metadata or {}).get(b"windows", b"").decode()
    read = Likelihood(json.loads(windows)) if windows else Likelihood()
    signatures = read.signature() | measures.signatures(loaded)
    others = own.corpus_scores(settings.get("own", ()), answers, families, list(signatures))
    signatures |= {metric: score["signature"] for metric, score in others.items()}
    stamp = {"signatures": signatures, "classes": labels, "own": others}
    written = {key: json.dumps(value, sort_keys=True, ensure_ascii=False) for key, value in stamp.items()}
    return written | ({"windows": windows} if windows else {})


def _spread(values: np.ndarray, places: np.ndarray, rows: int) -> pa.Array:
    """Values at their places, null elsewhere; of the type of `values`."""
    column, missing = np.zeros(rows, dtype=values.dtype), np.ones(rows, dtype=bool)
    column[places], missing[places] = values, False
    return pa.array(column, mask=missing)


if __name__ == "__main__":
    run(
        lambda job: score(
            job.input.likelihood,
            job.input.generated,
            job.input.test,
            job.output.scores,
            job.params.settings,
            [job.input.train],
        ),
        snakemake,
        light=not snakemake.params.settings["own"],  # evaluate brings pandas
    )
