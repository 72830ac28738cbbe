"""The parts of the error analysis: which rows are shown, how answers fail, the nearest train row, texts of tokens."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer

import builders
from snaketune import rows as tables
from snaketune.job import StageError
from snaketune.scoring.failures import copies, failures, repeats
from snaketune.scoring.nearest import nearest
from snaketune.scoring.picks import measured, pick
from snaketune.tokens.pieces import pieces

TINY = Path(__file__).parents[1] / "resources/tiny-gpt/tokenizer.json"
HOSTILE = [
    "<script>alert(1)</script> {{ 7 * 7 }}",
    "naïve Straße, 自然言語処理, हिन्दी में, مرحبا بالعالم",
    "👩‍👩‍👧 family \u202e reversed \x1b[31m \x00 \ufffd\ufffd end",
    "  two spaces\n\n\tand a tab ",
    "x" * 5000,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TINY))


@pytest.mark.parametrize("text", HOSTILE)
def test_the_texts_of_tokens_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    found = pieces(lambda part: tokenizer.decode(part, skip_special_tokens=False), ids, 0, len(ids))
    assert len(found) == len(ids)
    assert "".join(found) == text


def test_a_character_of_several_tokens_is_the_last_ones(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a 語", add_special_tokens=False).ids
    assert len(ids) > 2
    found = pieces(lambda part: tokenizer.decode(part, skip_special_tokens=False), ids, 0, len(ids))
    assert found[0] == "a"
    assert found[-1].strip() == "語"
    assert not "".join(found[1:-1]).strip()


def _gains(values: list[float]) -> tuple[list[str], np.ndarray]:
    return [f"{i:032x}" for i in range(len(values))], np.array(values)


def test_rows_that_won_and_lost_most_come_first_and_the_rest_is_drawn() -> None:
    row_ids, gains = _gains([0.9, -0.4, 0.0, 0.3, 0.0, -0.1, 0.2, 0.0])
    picked = pick(row_ids, gains, 6, seed=1)
    assert picked[:4] == [("won", 0), ("won", 3), ("lost", 1), ("lost", 5)]
    assert [kind for kind, _ in picked[4:]] == ["random", "random"]
    assert len({row for _, row in picked}) == 6


def test_what_is_lacking_of_won_and_lost_rows_is_made_up_at_random() -> None:
    row_ids, gains = _gains([0.0, 0.0, 0.5, 0.0, np.nan])
    picked = pick(row_ids, gains, 6, seed=1)
    assert picked[0] == ("won", 2)
    assert sorted(row for kind, row in picked if kind == "random") == [0, 1, 3, 4]


def test_the_same_seed_draws_the_same_rows_whatever_their_order() -> None:
    row_ids, gains = _gains([0.0] * 50)
    order = random.Random(3).sample(range(50), 50)
    drawn = pick(row_ids, gains, 5, seed=1)
    shuffled = pick([row_ids[i] for i in order], gains[order], 5, seed=1)
    assert [row_ids[row] for _, row in drawn] == [row_ids[order[row]] for _, row in shuffled]
    assert drawn != pick(row_ids, gains, 5, seed=2)


def test_an_answer_is_measured_by_rouge_l_else_by_its_loss() -> None:
    base = pa.table({"nll": [6.0, 8.0], "n_tokens": [3, 0], "rouge_rougeL": [0.25, None]})
    measure, found, _ = measured(base, base)
    assert measure == "ROUGE-L"
    assert found.tolist() == [25.0, pytest.approx(np.nan, nan_ok=True)]
    for without in (base.drop_columns("rouge_rougeL"), base.set_column(2, "rouge_rougeL", pa.array([0.0, 0.0]))):
        measure, found, _ = measured(without, without)
        assert measure == "loss"
        assert found[0] == 2.0


LOOP = "the model of " * 20
FLUENT = "A parser that learns from few examples needs a prior, and this one takes its prior from another language."


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (LOOP, 1 - 3 / 57),  # 60 words, 57 4-grams, 3 of them different
        (FLUENT, 0.0),
        ("", 0.0),
        ("no no no", 0.0),
        ("!" * 40, 1 - 1 / 37),
        ("自然言語" * 10, 1 - 4 / 37),  # 40 characters, each by itself
    ],
)
def test_a_loop_is_told_by_its_share_of_repeated_four_grams(text: str, share: float) -> None:
    assert repeats(text) == pytest.approx(share)


def test_a_copy_is_told_by_the_share_of_four_grams_that_stand_in_the_prompt() -> None:
    assert copies(f"Translate: {FLUENT}", FLUENT.upper()) == 1
    assert copies("", FLUENT) == copies(FLUENT, "") == copies(FLUENT, "A parser that") == 0
    assert copies("one two three four five", "one two three four six") == pytest.approx(1 / 2)


def _answers(outputs: list[str], stopped: list[str] | None = None, prompts: list[str | None] | None = None) -> pa.Table:
    rows = len(outputs)
    return pa.table(
        {
            "row_id": [f"{i:032x}" for i in range(rows)],
            "prompt": pa.array(prompts or [None] * rows, pa.string()),
            "output": outputs,
            "stopped": stopped or ["eos"] * rows,
        }
    )


def test_planted_failures_are_found_and_counted_on_their_side() -> None:
    prompts = [FLUENT] * 6
    base = _answers([FLUENT, "fine", "yes", "no", "yes", " \n"], prompts=prompts)
    tuned = _answers(["yes", LOOP, "", "no", "maybe", "yes"], ["eos", "length", *["eos"] * 4], prompts)
    found = {failure["kind"]: failure for failure in failures(base, tuned, "(yes|no)?")}
    counts = {kind: (failure["base"], failure["tuned"], failure["of"]) for kind, failure in found.items()}
    assert counts == {
        "empty": (1, 1, 6),
        "repeated": (0, 1, 6),
        "truncated": (0, 1, 6),
        "off_format": (3, 2, 6),
        "copied": (1, 0, 6),
    }
    assert found["repeated"]["examples"] == [{"row_id": f"{1:032x}", "side": "tuned", "output": LOOP}]
    assert [(one["side"], one["output"]) for one in found["off_format"]["examples"]] == [
        ("tuned", LOOP),
        ("tuned", "maybe"),
        ("base", FLUENT),
    ]


def test_without_a_format_no_answer_is_off_format() -> None:
    answers = _answers(HOSTILE)
    kinds = {failure["kind"]: failure["tuned"] for failure in failures(answers, answers, None)}
    assert kinds == {"empty": 0, "repeated": 0, "truncated": 0, "copied": 0}


def test_a_format_that_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(StageError, match=r"`errors.format` is no regular expression of Python: .*`\(a`"):
        failures(_answers(["a"]), _answers(["a"]), "(a")


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().replace(",", "").replace(".", "").split()
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def test_the_nearest_row_is_the_planted_one_whatever_the_batches(tmp_path: Path, monkeypatch) -> None:
    rng = random.Random(5)
    words = [f"w{i}" for i in range(300)]
    train = [builders.row(" ".join(rng.choices(words, k=30)), "Say:") for _ in range(200)]
    planted = builders.row(FLUENT.replace("few examples", "many examples"), "Say it:")
    train.insert(120, planted)
    queries = pa.table({"prompt": ["Say it:", None], "completion": [FLUENT, "nothing at all like it"]})
    for size in (8192, 7):
        monkeypatch.setattr(tables, "BATCH_ROWS", size)
        found, none = nearest(queries, builders.write(tmp_path / f"train{size}.parquet", train))
        assert none is None
        assert found is not None
        assert (found["row_id"], found["completion"]) == (planted["row_id"], planted["completion"])
        one, other = (_shingles(f"Say it {text}") for text in (FLUENT, planted["completion"]))
        assert found["similarity"] == pytest.approx(len(one & other) / len(one | other), abs=1e-6)


def test_of_no_queries_none_is_near(tmp_path: Path) -> None:
    none = pa.table({"prompt": pa.array([], pa.string()), "completion": pa.array([], pa.string())})
    assert nearest(none, builders.write(tmp_path / "train.parquet", [builders.row("a b c")])) == []
