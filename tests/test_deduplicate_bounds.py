"""Results do not depend on shards, order or chunks; memory is bounded; an implausible cluster stops the run."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import row, settings, write
from deduplicate import deduplicate
from sign import sign
from snaketune.dedup import near, verify
from snaketune.dedup.candidates import pack, unpack
from snaketune.job import StageError
from test_deduplicate import WORDS, changed, run

TABLES = ("clusters", "evidence", "dropped")


def corpus(seed: int) -> list[dict[str, Any]]:
    """Rows of all kinds: plain and with prompts, exact and near duplicates, related, wordless, of several sources."""
    draw = random.Random(seed)
    rows = []
    for family in range(15):
        text = " ".join(draw.choices(WORDS, k=100))
        rows += [row(text, group=f"g{family}"), row(text.upper(), source="other"), row(changed(text, 1, family))]
        rows += [row(f"answer {number}", f"{text} question {number // 2}", label=f"l{number}") for number in range(4)]
        rows += [row(f"answer {number} it is", f"{text} question {number // 2} then") for number in range(2)]
    rows += [row("👍"), row("👍", source="z"), row("👎"), row("short"), row("Short "), row("", "only a prompt")]
    rows = [line | {"line": number, "split": draw.choice(["a", None])} for number, line in enumerate(rows)]
    rows += [line | {"line": 1000 + number, "source": "again"} for number, line in enumerate(rows[:20])]
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.parquet").read_bytes() for name in TABLES}


@pytest.mark.parametrize(("shards", "seed"), [(1, 1), (7, 2), (7, None), (40, 3)])
def test_the_result_is_the_same_bytes_in_any_order_and_any_shards(
    tmp_path: Path, shards: int, seed: int | None
) -> None:
    rows = corpus(1)
    expected = run(tmp_path / "expected", rows)
    assert {line["relation"] for line in expected["evidence"]} == {"duplicate", "related"}
    assert {line["rule"] for line in expected["dropped"]} == {"exact_duplicate", "near_duplicate"}
    if seed is not None:
        random.Random(seed).shuffle(rows)
    run(tmp_path / "other", rows, shards)
    assert contents(tmp_path / "other") == contents(tmp_path / "expected")


@pytest.mark.parametrize(("chars", "at_once"), [(3000, 2), (1, 64), (10_000, 1)])
def test_the_result_is_the_same_bytes_whatever_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chars: int, at_once: int
) -> None:
    rows = corpus(2)
    run(tmp_path / "expected", rows, shards=2)
    monkeypatch.setattr(verify, "CHUNK_CHARS", chars)
    monkeypatch.setattr(verify, "CHUNKS_AT_ONCE", at_once)
    run(tmp_path / "other", rows, shards=2)
    assert contents(tmp_path / "other") == contents(tmp_path / "expected")


def test_a_chunk_has_the_texts_of_its_pairs_and_no_more_than_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "CHUNK_CHARS", 5000)
    read: list[int] = []
    inner = verify._texts

    def spy(*given: Any) -> Any:
        for chunk, texts in inner(*given):
            read.append(sum(len(text) for text in texts["completion"].to_pylist()))
            yield chunk, texts

    monkeypatch.setattr(verify, "_texts", spy)
    draw = random.Random(5)
    rows = []
    for _ in range(50):
        text = " ".join(draw.choices(WORDS, k=40))  # about 200 characters
        rows += [row(text), row(f"{text} end")]
    tables = run(tmp_path, rows)
    assert len(tables["evidence"]) == 50
    assert len(read) > 2
    assert max(read) < 5000 + 500


def test_candidates_alone_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(6)
    rows = [row(" ".join(draw.choices(WORDS, k=40))) for _ in range(300)]
    rows += [row(rows[0]["completion"] + " end"), row(rows[1]["completion"])]
    places: list[int] = []
    inner = verify.read_at

    def spy(paths: list[str], place: np.ndarray) -> Any:
        places.append(len(place))
        return inner(paths, place)

    monkeypatch.setattr(verify, "read_at", spy)
    assert len(run(tmp_path, rows, shards=3)["dropped"]) == 2
    assert sum(places) == 2  # the pair that is alike; the equal pair is known by its hashes


def test_the_second_look_stays_within_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "one and the same answer to all of these questions here"
    frames = [" ".join(WORDS[:150]), " ".join(WORDS[150:300])]
    rows = [row(answer, f"{frame} question{number}") for frame in frames for number in range(4)]
    compared: list[np.ndarray] = []
    inner = near.verify

    def spy(texts: verify.Rows, pairs: np.ndarray, *others: Any) -> verify.Verified:
        compared.append(pairs)
        return inner(texts, pairs, *others)

    monkeypatch.setattr(near, "verify", spy)
    assert len({line["cluster"] for line in run(tmp_path, rows)["clusters"]}) == 2
    prompts = [line["prompt"] for line in sorted(rows, key=lambda line: line["row_id"])]
    for one, other in zip(*unpack(np.concatenate(compared)), strict=True):
        assert prompts[one][:3] == prompts[other][:3]


def test_nothing_but_the_tables_is_left_in_the_folder(tmp_path: Path) -> None:
    text = " ".join(WORDS[:100])
    run(tmp_path, [row(text), row(f"{text} end")])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["in0.parquet", "signatures0.parquet", *(f"{name}.parquet" for name in TABLES)]
    )


def test_pairs_are_packed_in_their_order() -> None:
    left, right = np.array([5, 0, 5, 2**32 - 2]), np.array([6, 2**32 - 1, 2**31, 2**32 - 1])
    packed = pack(left, right)
    assert [side.tolist() for side in unpack(packed)] == [left.tolist(), right.tolist()]
    assert np.argsort(packed).tolist() == [1, 0, 2, 3]


def templates(count: int, others: int) -> list[dict[str, Any]]:
    """Rows of one long template with a name in it, and rows of their own."""
    frame = " ".join(WORDS[:120])
    own = [row(" ".join(f"o{number}n{word}" for word in range(20))) for number in range(others)]
    return [row(f"name{number} {frame} value{number}") for number in range(count)] + own


def test_an_implausible_cluster_stops_the_run_and_says_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(StageError) as error:
        run(tmp_path, templates(150, 250))
    sentence = str(error.value)
    for part in ("150 of 400 different rows (38%)", "0.97 alike", "'name", "w5 w6", "dedup.threshold", "template"):
        assert part in sentence
    assert "`dedup.max_cluster_share` above 0.38" in sentence
    assert sentence.count("'name") == 2
    assert not any(path.name.startswith(".") or path.name in TABLES for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("count", "others", "share"),
    [(150, 250, 0.4), (100, 10, 0.1), (101, 909, 0.1)],
    ids=["allowed share", "no more than 100", "just the share"],
)
def test_a_plausible_cluster_does_not_stop_the_run(tmp_path: Path, count: int, others: int, share: float) -> None:
    assert len(run(tmp_path, templates(count, others), max_cluster_share=share)["rows"]) == others + 1


def test_the_share_is_that_of_different_rows(tmp_path: Path) -> None:
    rows = templates(101, 400) + [row("equal to each other", line=number) for number in range(2000)]
    with pytest.raises(StageError, match="101 of 502 different rows"):
        run(tmp_path, rows)


def test_equal_rows_are_no_implausible_cluster(tmp_path: Path) -> None:
    rows = [row("one and the same answer of a few words", line=number) for number in range(500)]
    assert len(run(tmp_path / "exact", rows)["rows"]) == 1
    assert len(run(tmp_path / "near", rows, exact=False)["rows"]) == 1


def test_related_rows_can_be_an_implausible_cluster(tmp_path: Path) -> None:
    frame = " ".join(WORDS[:150])
    rows = [row(f"answer{number}", f"{frame} question{number}") for number in range(120)]
    with pytest.raises(StageError, match="120 of 120 different rows"):
        run(tmp_path, rows)


def test_no_rows_at_all_is_a_fault_that_names_its_cause(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no row is left after cleaning\. Look in"):
        run(tmp_path, [], shards=3)


def test_an_empty_shard_beside_others_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path / "one", [row("a"), row("b")], shards=1)
    run(tmp_path / "five", [row("a"), row("b")], shards=5)
    assert contents(tmp_path / "one") == contents(tmp_path / "five")


def test_the_sentence_counts_what_was_removed_and_why(tmp_path: Path) -> None:
    text = " ".join(WORDS[:100])
    given = tmp_path / "in.parquet"
    write(given, [row(text), row(f"{text} end"), row("a", line=1), row("A", line=2), row("b")])
    sign(str(given), str(tmp_path / "s.parquet"), settings("dedup"))
    outputs = {name: str(tmp_path / f"{name}.parquet") for name in TABLES}
    said = deduplicate([str(tmp_path / "s.parquet")], [str(given)], outputs, settings("dedup"))
    assert said == "3 of 5 rows kept: 1 exact and 1 near-duplicates removed"
