"""Test rows dealt to several jobs: ranges that cost alike, and tables that together are those of one job."""

import itertools
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import models
from answer_runs import SETTINGS
from generate import generate
from join import join
from likelihood import likelihood
from likelihood_runs import same
from snaketune import rows as tables
from snaketune.job import StageError
from snaketune.model.batches import Rows
from snaketune.model.dealt import DealtRows, borders, rows_of, sizes_of, texts_of
from snaketune.rows import SPLIT, write_table
from token_runs import tokenize

LIKELIHOOD = {"trust_remote_code": False, "special_tokens": "text", "window": 24, "stride": 9}
ROWS = models.pairs(9) + models.texts(6, low=2, high=60) + [(None, "never"), ("river", "stone")]


def in_order(rows, base, folder, **settings):
    """The token folder of rows that stand in the order of their ids, as those of a split do."""
    folder.mkdir(parents=True)
    split = models.split(rows, folder / "test.parquet")
    write_table(pq.read_table(split).sort_by("row_id"), split, SPLIT)
    return tokenize(split, base, folder, "test", models.TOKENIZE | settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, and rows of every kind as tokens in two files: long texts have several rows each."""
    folder = tmp_path_factory.mktemp("dealt")
    base = models.base(folder / "base")
    return base, in_order(ROWS, base, folder / "tokens", shards=2)


def by_parts(stage, count, folder, settings):
    """The table that is joined of `count` parts, and what was said of each part."""
    paths = [str(folder / f"parts/base-{number:05d}.parquet") for number in range(count)]
    Path(paths[0]).parent.mkdir(parents=True)
    parts = [settings | {"part": {"number": number, "of": count}} for number in range(count)]
    told = [stage(out, part) for out, part in zip(paths, parts, strict=True)]
    join(paths, str(folder / "base.parquet"))
    return folder / "base.parquet", told


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 40])
def test_the_borders_leave_no_row_out_and_no_part_empty_that_could_have_one(parts):
    draw = random.Random(parts)
    for count in (1, 2, 3, 6, 7, 8, 39, 40, 41, 200):
        for most in (1, 3, 1000):
            costs = np.array([draw.randint(1, most) for _ in range(count)])
            cuts = borders(costs, parts).tolist()
            sizes = np.diff(cuts)
            assert (len(cuts), cuts[0], cuts[-1]) == (parts + 1, 0, count)
            assert (sizes[: min(parts, count)] > 0).all()
            assert (sizes[count:] == 0).all()


def test_the_parts_cost_alike():
    costs = np.array([random.Random(number).randint(1, 100) for number in range(5000)])
    cuts = borders(costs, 8)
    shares = [costs[first:end].sum() for first, end in itertools.pairwise(cuts)]
    assert max(shares) - min(shares) <= 2 * costs.max()
    assert borders(np.array([1, 1, 1, 1, 1, 1, 1, 1000]), 2).tolist() == [0, 7, 8]
    assert borders(np.array([1000, 1, 1, 1, 1, 1, 1, 1]), 2).tolist() == [0, 1, 8]


def test_a_row_costs_its_tokens_to_read_and_its_prompt_and_the_longest_answer_to_be_answered(made):
    _, tokens = made
    sizes, rows = sizes_of(tokens), Rows(tokens)
    assert len(rows) > len(ROWS), "some texts have several rows"
    whole = dict.fromkeys(rows.row_ids, 0)
    for row_id, length in zip(rows.row_ids, rows.lengths.tolist(), strict=True):
        whole[row_id] += length
    assert sizes.reading().tolist() == list(whole.values())
    prompts = {row_id: int(length) for row_id, length in zip(rows.row_ids, rows.prompt_lengths, strict=True)}
    assert sizes.answering(5, 6).tolist() == [(length or 5) + 6 for length in prompts.values()]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_rows_of_all_jobs_are_the_rows_and_no_text_is_torn(made, count):
    _, tokens = made
    sizes, rows = sizes_of(tokens), Rows(tokens)
    parts = [rows_of(tokens, sizes, sizes.reading(), {"number": number, "of": count}) for number in range(count)]
    assert [row_id for part in parts for row_id in part.row_ids] == rows.row_ids
    assert np.concatenate([part.lengths for part in parts]).tolist() == rows.lengths.tolist()
    assert np.concatenate([part.prompt_lengths for part in parts]).tolist() == rows.prompt_lengths.tolist()
    ids = [part[row].tolist() for part in parts for row in range(len(part))]
    assert ids == [rows[row].tolist() for row in range(len(rows))]
    for one, other in itertools.pairwise(parts):
        assert one.row_ids[-1] < other.row_ids[0]


def test_of_the_texts_only_the_row_groups_are_read_that_a_job_needs(made, tmp_path, monkeypatch):
    _, tokens = made
    monkeypatch.setattr(tables, "BATCH_ROWS", 4)
    path = tmp_path / "test.parquet"
    write_table(pq.read_table(f"{tokens}.parquet"), path, SPLIT)
    columns = ["row_id", "completion"]
    part = DealtRows(tokens, 2, 7)
    expected = [row for row in pq.read_table(path, columns=columns).to_pylist() if row["row_id"] in part.row_ids]
    about = pq.read_metadata(path)
    chunk = about.row_group(about.num_row_groups - 1).column(SPLIT.get_field_index("completion"))
    damaged = bytearray(path.read_bytes())
    for place in range(chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size):
        damaged[place] = 0
    path.write_bytes(damaged)
    with pytest.raises(OSError, match=r"Unexpected end|deserialize|corrupt|ZSTD|page"):
        pq.read_table(path, columns=columns)
    assert texts_of(str(path), columns, part).to_pylist() == expected


@pytest.mark.parametrize("count", [1, 3, 30])
def test_the_likelihoods_of_all_parts_are_those_of_one_job(made, tmp_path, count):
    base, tokens = made

    def scored(out, settings):
        return likelihood(tokens, f"{tokens}.parquet", base, out, settings, gpus=0, threads=1)

    scored(str(tmp_path / "whole.parquet"), LIKELIHOOD)
    path, told = by_parts(scored, count, tmp_path / "dealt", LIKELIHOOD)
    whole, table = pq.read_table(tmp_path / "whole.parquet"), pq.read_table(path)
    assert table.schema.equals(whole.schema, check_metadata=True)
    assert pq.read_metadata(path).num_row_groups == 1
    assert table["row_id"].equals(whole["row_id"])
    same(*({row["row_id"]: row for row in each.to_pylist()} for each in (table, whole)))
    assert told[0].startswith(f"part 1/{count}: ")
    assert [line.endswith("no row is left for it") for line in told] == [number >= len(ROWS) for number in range(count)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"strategy": "sample", "temperature": 1.3}, {"strategy": "beam", "num_beams": 2}, {"limit": 7}],
    ids=["greedy", "sample", "beam", "limit"],
)
@pytest.mark.parametrize("count", [3, 30])
def test_the_answers_of_all_parts_are_the_file_of_one_job(made, tmp_path, changes, count):
    """Byte for byte: the noise of a drawn answer comes from the row's id, and the limit is that of the whole split."""
    base, tokens = made
    settings = SETTINGS | changes

    def answered(out, settings):
        return generate(tokens, f"{tokens}.parquet", base, out, settings, gpus=0, threads=1)

    answered(str(tmp_path / "whole.parquet"), settings)
    path, told = by_parts(answered, count, tmp_path / "dealt", settings)
    assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    rows = settings["limit"] or len(ROWS)
    assert pq.read_metadata(path).num_rows == rows
    assert [line.endswith("no row is left for it") for line in told] == [number >= rows for number in range(count)]


def test_every_part_shows_a_base_model_the_same_examples(made, tmp_path):
    base, tokens = made
    train = models.split(models.pairs(20, seed=4), tmp_path / "train.parquet")
    settings = SETTINGS | {"few_shot": 1}

    def answered(out, settings):
        return generate(tokens, f"{tokens}.parquet", base, out, settings, train=train, gpus=0, threads=1)

    answered(str(tmp_path / "whole.parquet"), settings)
    path, _ = by_parts(answered, 3, tmp_path / "dealt", settings)
    assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_rows_that_do_not_stand_in_the_order_of_their_ids_are_refused(made, tmp_path):
    base, _ = made
    tokens = models.tokens(ROWS, base, tmp_path / "tokens", "test")
    with pytest.raises(StageError, match="are not in the order of their ids: run `tokens` again"):
        sizes_of(tokens)
