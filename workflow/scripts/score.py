"""What each test row says about a model: its likelihood, and the statistics of its answer.

In:  likelihood/<model>.parquet, generate/<model>.parquet, split/test.parquet, and the section `score`
Out: scores/<model>.parquet: a line for each row of the likelihood, by row_id: row_id, family, label, source, the
     counts and nats, and for rows with an answer a column <module>_<statistic> for each statistic (null elsewhere).
     The signatures of the metrics stand in the file's own metadata.

Rows hold statistics, not scores: BLEU of a corpus is no mean of its rows, and with the statistics it can be computed
of any part of the corpus, or of a thousand resampled ones, without a look at the texts.
"""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune import metrics
from snaketune.job import StageError, run
from snaketune.rows import read_table, write_table

KEYS = ("row_id", "family", "label", "source")
COUNTS = ("n_tokens", "n_bytes", "nll", "nll_text", "n_tokens_full", "nll_full", "n_correct")


def score(likelihood: str, generated: str, test: str, scores: str, settings: dict[str, Any]) -> str:
    """Write the statistics of one model's test rows. Raises StageError where the files speak of different rows."""
    rows = _sorted(read_table(likelihood, columns=["row_id", *COUNTS]), "the likelihood")
    answers = _sorted(read_table(generated, columns=["row_id", "reference", "output"]), "the answers")
    known = _sorted(read_table(test, columns=list(KEYS)), "the test split")
    if not rows.num_rows or not answers.num_rows:
        raise StageError("there is nothing to score: no test row has a likelihood and an answer")
    _finite(rows)

    places = _places(rows, known, "has a likelihood, but is no row of the test split")
    table = known.take(places).select(list(KEYS))
    for name in COUNTS:
        table = table.append_column(name, rows[name])
    modules = metrics.load(settings)
    answered = _places(answers, rows, "has an answer, but no likelihood")
    outputs, references = answers["output"].to_pylist(), answers["reference"].to_pylist()
    for module, measure in modules.items():
        for name, values in measure.statistics(outputs, references).items():
            table = table.append_column(f"{module}_{name}", _spread(values, answered, table.num_rows))
    stamp = {"signatures": json.dumps(metrics.signatures(modules), sort_keys=True, ensure_ascii=False)}
    write_table(table, scores, table.schema.with_metadata(stamp))
    return f"{table.num_rows:,} rows, {answers.num_rows:,} answers: perplexity, {', '.join(modules)}"


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


def _finite(rows: pa.Table) -> None:
    for name in ("nll", "nll_text", "nll_full"):
        bad = rows["row_id"].filter(pc.invert(pc.fill_null(pc.is_finite(rows[name]), False)))
        if len(bad):
            raise StageError(
                f"the column {name} is not a number in {len(bad):,} rows, the first {bad[0]}: the model gives nan or "
                "infinite losses; train again with a lower `train.learning_rate`, or with `train.precision: fp32`"
            )


def _spread(values: np.ndarray, places: np.ndarray, rows: int) -> pa.Array:
    """Values at their places, null elsewhere."""
    column, missing = np.zeros(rows), np.ones(rows, dtype=bool)
    column[places], missing[places] = values, False
    return pa.array(column, mask=missing)


if __name__ == "__main__":
    run(
        lambda job: score(
            job.input.likelihood, job.input.generated, job.input.test, job.output.scores, job.params.settings
        ),
        snakemake,
    )
