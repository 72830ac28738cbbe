"""Duplicates are removed on verified evidence only; like rows stay together; nothing depends on order or on chance."""

import itertools
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from builders import read, row, settings, write
from deduplicate import deduplicate
from sign import sign
from snaketune.dedup.components import Components

WORDS = [f"w{number}" for number in range(4000)]
SHORT = st.text("aAb !é", max_size=5)
LONG = " ".join(f"context{number}" for number in range(200))


def run(folder: Path, rows: list[dict[str, Any]], shards: int = 1, **changes: Any) -> dict[str, list[dict[str, Any]]]:
    """The tables of a deduplication, the rows dealt to shards one by one; `rows` are those that were kept."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = settings("dedup", **changes)
    inputs = [write(folder / f"in{shard}.parquet", rows[shard::shards]) for shard in range(shards)]
    signatures = [str(folder / f"signatures{shard}.parquet") for shard in range(shards)]
    for path, signature in zip(inputs, signatures, strict=True):
        sign(path, signature, chosen)
    outputs = {name: str(folder / f"{name}.parquet") for name in ("clusters", "evidence", "dropped")}
    deduplicate(signatures, inputs, outputs, chosen)
    tables = {name: read(path) for name, path in outputs.items()}
    given_rows = {(line["row_id"], line["source"], line["line"]): line for line in rows}
    kept_rows = [line for line in tables["clusters"] if line["kept"]]
    return tables | {"rows": [given_rows[line["row_id"], line["source"], line["line"]] | line for line in kept_rows]}


def kept(tables: dict[str, list[dict[str, Any]]]) -> list[str]:
    return sorted(line["completion"] for line in tables["rows"])


def shingles(text: str, words: int = 5) -> set[tuple[str, ...]]:
    """The set of word shingles by its definition, in plain Python."""
    found = re.findall(r"\w+", text.lower())
    return {tuple(found[at : at + words]) for at in range(max(1, len(found) - words + 1))} if found else set()


def jaccard(one: str, other: str, words: int = 5) -> float:
    a, b = shingles(one, words), shingles(other, words)
    return len(a & b) / len(a | b)


def changed(text: str, count: int, seed: int) -> str:
    """A text with `count` words replaced, far apart from each other."""
    parts = text.split()
    step = len(parts) // max(1, count)
    for number in range(count):
        parts[number * step + step // 2] = f"x{seed}n{number}"
    return " ".join(parts)


def corpus(seed: int = 1) -> list[dict[str, Any]]:
    """Families of plain texts, with planted similarities from 0.5 to 0.97 to the first of each."""
    draw = random.Random(seed)
    rows = []
    for _ in range(12):
        text = " ".join(draw.choices(WORDS, k=120))
        rows.append(row(text))
        rows += [row(changed(text, count, draw.randrange(10**6))) for count in (1, 2, 8)]
    return rows


def test_the_verified_pairs_are_those_of_brute_force(tmp_path: Path) -> None:
    rows = corpus()
    text = {line["row_id"]: line["completion"] for line in rows}
    true = {
        pair: similarity
        for pair in itertools.combinations(sorted(text), 2)
        if (similarity := jaccard(text[pair[0]], text[pair[1]])) >= 0.8
    }
    assert len(true) >= 24
    found = {
        (line["row_id_a"], line["row_id_b"]): line["similarity"]
        for line in run(tmp_path, rows, bands=128, rows_per_band=4)["evidence"]
    }
    assert found == pytest.approx(true)


def test_the_shipped_bands_find_the_clusters_of_brute_force(tmp_path: Path) -> None:
    rows = corpus(seed=2)
    tables = run(tmp_path, rows)
    true = sum(jaccard(a["completion"], b["completion"]) >= 0.8 for a, b in itertools.combinations(rows, 2))
    assert len(tables["rows"]) == 12 * 2  # of each family of four, the three within 0.8 are one, and one is far
    assert len(tables["evidence"]) <= true


def test_exact_duplicates_differ_in_case_and_white_space_only(tmp_path: Path) -> None:
    rows = [row("Hello  World", "Q"), row("hello\nworld ", "q"), row("HELLO WORLD", "other"), row("hello world")]
    tables = run(tmp_path, rows, near=False)
    assert len(tables["rows"]) == 3
    (gone,) = tables["dropped"]
    assert (gone["rule"], gone["value"], gone["threshold"]) == ("exact_duplicate", 1.0, 1.0)


def test_one_row_read_twice_stays_once(tmp_path: Path) -> None:
    tables = run(tmp_path, [row("same", line=1), row("same", line=2), row("same", source="b")])
    assert len(tables["rows"]) == 1
    assert len(tables["dropped"]) == 2
    assert len({(line["source"], line["line"]) for line in tables["rows"] + tables["dropped"]}) == 3


def test_two_questions_on_one_long_text_are_related_and_both_stay(tmp_path: Path) -> None:
    rows = [row("blue", f"{LONG} which colour?"), row("seven", f"{LONG} how many?"), row("blue", "which colour?")]
    tables = run(tmp_path, rows)
    assert len(tables["rows"]) == 3
    assert [line["relation"] for line in tables["evidence"]] == ["related"]
    clusters = {line["prompt"][-9:]: line["cluster"] for line in tables["rows"] if line["prompt"].startswith("context")}
    assert len(set(clusters.values())) == 1
    assert (
        next(line for line in tables["rows"] if line["prompt"] == "which colour?")["cluster"] not in clusters.values()
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_duplicate_is_found_among_many_answers_to_one_long_prompt(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    prompt = " ".join(WORDS[:2500])  # all rows fill the same buckets, whose first row is no duplicate of any
    answers = [" ".join(draw.choices(WORDS, k=20)) for _ in range(12)]
    rows = [row(answer, prompt) for answer in answers]
    rows += [row(answers[number] + " more", prompt) for number in (3, 7)]
    tables = run(tmp_path, rows)
    assert kept(tables) == sorted(answer + " more" * (number in (3, 7)) for number, answer in enumerate(answers))
    assert len({line["cluster"] for line in tables["rows"]}) == 1


@pytest.mark.parametrize("pair", [("👍", "👎"), ("!!!", "???"), ("+", "-")])
def test_answers_without_words_are_alike_only_where_they_are_equal(tmp_path: Path, pair: tuple[str, str]) -> None:
    rows = (
        [row(answer, LONG) for answer in pair]
        + [row(answer) for answer in pair]
        + [row(pair[0], "?"), row(pair[0], "!")]
    )
    tables = run(tmp_path, rows)
    assert len(tables["rows"]) == 6
    assert len({line["cluster"] for line in tables["rows"]}) == 5  # only those on the long prompt are related


def test_prompts_without_words_are_alike_only_where_they_are_equal(tmp_path: Path) -> None:
    assert len(run(tmp_path, [row(LONG, "👍"), row(LONG, "👎")])["rows"]) == 2


def test_short_texts_are_compared_by_all_of_their_words(tmp_path: Path) -> None:
    rows = [row("New York, now!"), row("new york -- now"), row("New York"), row("York New now"), row("now")]
    assert kept(run(tmp_path, rows)) == ["New York", "York New now", "new york -- now", "now"]


def test_of_duplicates_the_row_of_the_published_test_set_stays(tmp_path: Path) -> None:
    text = " ".join(WORDS[:60])
    rows = [
        row(text + " and longer by far", split="train"),
        row(text + " too", split=" Test "),
        row(text + " is longest of all", split="dev"),
        row(text + " without a name, and the very longest"),
    ]
    for some, stays in ((rows, 1), ([*rows[:1], *rows[2:]], 2), ([rows[0], rows[3]], 0)):
        expected = some[1]["completion"] if stays else rows[0]["completion"]
        assert kept(run(tmp_path / str(len(some)), some, threshold=0.7)) == [expected]


def test_the_longest_row_stays_then_that_of_the_smallest_id(tmp_path: Path) -> None:
    text = " ".join(WORDS[:100])
    a, b, c = (letter * 32 for letter in "abc")
    rows = [row(text, row_id=b), row(text + " end", row_id=c), row(text.upper(), row_id=a)]
    tables = run(tmp_path / "longest", rows)
    assert [line["row_id"] for line in tables["rows"]] == [c]
    assert [line["cluster"] for line in tables["rows"]] == [a]
    assert {line["row_id"]: line["rule"] for line in tables["dropped"]}[b] == "exact_duplicate"
    tables = run(tmp_path / "smallest", [rows[0], rows[2]])
    assert [line["row_id"] for line in tables["rows"]] == [a]


def test_a_removed_near_duplicate_has_its_similarity_and_the_threshold(tmp_path: Path) -> None:
    text = " ".join(WORDS[:100])
    other = text + " end"
    (gone,) = run(tmp_path, [row(text), row(other)])["dropped"]
    assert (gone["rule"], gone["stage"], gone["threshold"]) == ("near_duplicate", "dedup", 0.8)
    assert gone["value"] == pytest.approx(jaccard(text, other))


def test_without_either_rule_nothing_is_removed(tmp_path: Path) -> None:
    tables = run(tmp_path, [row("a"), row("a", line=2), row(LONG), row(LONG + " x")], exact=False, near=False)
    assert len(tables["rows"]) == 4
    assert not tables["dropped"]


def test_the_value_of_a_near_duplicate_is_the_likeness_of_the_whole_rows(tmp_path: Path) -> None:
    answer = " ".join(WORDS[:60])
    (gone,) = run(tmp_path, [row(answer, LONG), row(f"{answer} end", LONG)])["dropped"]
    assert gone["value"] == pytest.approx(jaccard(f"{LONG} {answer}", f"{LONG} {answer} end"))
    assert gone["value"] > jaccard(answer, f"{answer} end") + 0.01


def test_of_equal_rows_the_first_can_be_the_one_that_is_removed_as_such(tmp_path: Path) -> None:
    rows = [row("hello world", row_id="a" * 32), row("hello   world", row_id="b" * 32)]
    (gone,) = run(tmp_path, rows)["dropped"]
    assert (gone["row_id"], gone["rule"], gone["value"]) == ("a" * 32, "exact_duplicate", 1.0)


@bounds(max_examples=30, deadline=None)
@given(
    texts=st.lists(
        st.tuples(st.none() | st.text("aAb !é", max_size=4), st.text("aAb !é", max_size=6)), min_size=1, max_size=10
    )
)
def test_every_row_is_kept_or_dropped_once_and_each_cluster_keeps_one(
    tmp_path_factory: pytest.TempPathFactory, texts: list[Any]
) -> None:
    rows = [row(completion, prompt, line=number) for number, (prompt, completion) in enumerate(texts)]
    tables = run(tmp_path_factory.mktemp("dedup"), rows)
    assert sorted(line["line"] for line in tables["rows"] + tables["dropped"]) == list(range(len(texts)))
    assert {line["cluster"] for line in tables["rows"]} == {line["cluster"] for line in tables["clusters"]}
    fold = {tuple(text and " ".join(text.lower().split()) for text in pair) for pair in texts}
    assert len(tables["rows"]) <= len(fold)


@bounds(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=20))
def test_components_are_those_of_a_plain_search(edges: list[tuple[int, int]]) -> None:
    ties = Components(15)
    for one, other in edges:
        ties.union(one, other)
    label = list(range(15))
    for _ in range(15):  # the smallest label spreads along every edge until nothing changes
        for one, other in edges:
            label[one] = label[other] = min(label[one], label[other])
    assert ties.labels().tolist() == label


def test_equal_keys_are_tied_and_negative_ones_are_not() -> None:
    ties = Components(6)
    ties.union_equal(np.array([3, -1, 3, -1, 5, 3]))
    assert ties.labels().tolist() == [0, 1, 0, 3, 4, 0]
