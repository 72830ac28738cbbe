"""What is found is what brute force finds: planted pairs, random small corpora, other scripts, and nothing else."""

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

from builders import row
from snaketune.dedup.candidates import contained, pack, second_stars, stars, unpack
from test_deduplicate import changed, jaccard, run

SURE = {"bands": 24, "rows_per_band": 1}  # nothing that is half alike escapes these


def component(edges: list[tuple[int, int]], size: int) -> list[int]:
    """The smallest member of each item's component, by spreading labels until nothing changes."""
    label = list(range(size))
    for _ in range(size):
        for one, other in edges:
            label[one] = label[other] = min(label[one], label[other])
    return label


def groups(rows: list[dict[str, Any]], field: str) -> set[frozenset[int]]:
    """The line numbers of the rows that share a value."""
    ordered = sorted(rows, key=lambda line: line[field])
    return {frozenset(line["line"] for line in some) for _, some in itertools.groupby(ordered, lambda x: x[field])}


PHRASE = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9).map(" ".join)


@bounds(max_examples=25, deadline=None)
@given(texts=st.lists(PHRASE, min_size=2, max_size=9), words=st.integers(1, 3))
def test_clusters_are_the_components_of_brute_force(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], words: int
) -> None:
    rows = [row(text, line=number) for number, text in enumerate(texts)]
    tables = run(tmp_path_factory.mktemp("truth"), rows, threshold=0.6, shingle_words=words, **SURE)
    text = {line["row_id"]: line["completion"] for line in rows}
    for line in tables["evidence"]:
        true = jaccard(text[line["row_id_a"]], text[line["row_id_b"]], words)
        assert true >= 0.6
        assert line["similarity"] == line["similarity_completion"] == pytest.approx(true, abs=1e-15)
        assert line["relation"] == "duplicate"
    edges = [
        (a, b) for a, b in itertools.combinations(range(len(texts)), 2) if jaccard(texts[a], texts[b], words) >= 0.6
    ]
    label = component(edges, len(texts))
    true = {frozenset(n for n, mine in enumerate(label) if mine == which) for which in label}
    assert groups(tables["clusters"], "cluster") == true


@bounds(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(PHRASE | st.sampled_from(["👍", "?", ""]), PHRASE), min_size=2, max_size=7),
    words=st.integers(1, 2),
)
def test_a_duplicate_is_alike_in_prompt_and_in_completion(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], words: int
) -> None:
    made = [row(completion, prompt, line=number) for number, (prompt, completion) in enumerate(rows)]
    tables = run(tmp_path_factory.mktemp("truth"), made, threshold=0.5, shingle_words=words, **SURE)
    text = {line["row_id"]: (line["prompt"], line["completion"]) for line in made}

    def alike(one: str, other: str) -> float:
        worded = re.search(r"\w", one) and re.search(r"\w", other)
        return jaccard(one, other, words) if worded else float(one == other)

    for line in tables["evidence"]:
        (p, a), (q, b) = text[line["row_id_a"]], text[line["row_id_b"]]
        true = [jaccard(f"{p}\n{a}", f"{q}\n{b}", words), alike(p, q), alike(a, b)]
        found = [line["similarity"], line["similarity_prompt"], line["similarity_completion"]]
        assert found == pytest.approx(true, abs=1e-15)
        assert true[0] >= 0.5
        assert line["relation"] == ("duplicate" if min(true) >= 0.5 else "related")


def test_planted_pairs_of_085_and_more_are_found_and_no_pair_is_below_the_threshold(tmp_path: Path) -> None:
    draw = random.Random(8)
    vocabulary = [f"v{number}" for number in range(5000)]
    rows, planted = [], []
    while len(planted) < 2000:
        text = " ".join(draw.choices(vocabulary, k=draw.randrange(70, 200)))
        other = changed(text, draw.randrange(1, 4), draw.randrange(10**6))
        if jaccard(text, other) >= 0.85:
            planted.append((len(rows), len(rows) + 1))
            rows += [row(text, line=len(rows)), row(other, line=len(rows) + 1)]
    tables = run(tmp_path, rows, shards=3)
    cluster = {line["line"]: line["cluster"] for line in tables["clusters"]}
    assert np.mean([cluster[a] == cluster[b] for a, b in planted]) >= 0.95
    text = {line["row_id"]: line["completion"] for line in rows}
    for line in tables["evidence"]:
        assert line["similarity"] == pytest.approx(jaccard(text[line["row_id_a"]], text[line["row_id_b"]]))
        assert line["similarity"] >= 0.8
    assert {frozenset(pair) for pair in planted} >= {
        group for group in groups(tables["clusters"], "cluster") if len(group) > 1
    }


def test_unrelated_rows_are_never_joined(tmp_path: Path) -> None:
    draw = random.Random(9)
    common = [f"c{number}" for number in range(300)]
    rows = [row(" ".join(draw.choices(common, k=draw.randrange(1, 60)))) for _ in range(3000)]
    rows = list({" ".join(line["completion"].split()): line for line in rows}.values())
    tables = run(tmp_path, rows)
    assert tables["evidence"] == []
    assert len({line["cluster"] for line in tables["clusters"]}) == len(rows)


@pytest.mark.parametrize("first", ["一", "ก", "あ", "ア", "ក", "က"])
def test_near_duplicates_are_found_in_scripts_without_spaces(tmp_path: Path, first: str) -> None:
    draw = random.Random(first)
    letters = [chr(ord(first) + number) for number in range(30)]
    text = draw.choices(letters, k=200)
    other = [*text[:100], letters[0], *text[100:]]
    rows = [row("".join(text)), row("".join(other)), row("".join(draw.choices(letters, k=200)))]
    tables = run(tmp_path, rows)
    assert len(tables["evidence"]) == 1
    assert len(tables["rows"]) == 2


def test_the_head_of_evidence_is_the_first_160_characters_of_the_completion(tmp_path: Path) -> None:
    text = " ".join(f"é{number}" for number in range(100))
    rows = [row(text, "q", row_id="a" * 32), row(f"{text} end", "q", row_id="b" * 32)]
    (line,) = run(tmp_path, rows)["evidence"]
    assert (line["row_id_a"], line["row_id_b"]) == ("a" * 32, "b" * 32)
    assert line["head_a"] == line["head_b"] == text[:160]


def test_evidence_is_sorted_and_has_each_pair_once(tmp_path: Path) -> None:
    text = " ".join(f"w{number}" for number in range(300))
    rows = [row(changed(text, 1, seed), f"{text} {seed}") for seed in range(9)] + [row(text), row(f"{text} x")]
    pairs = [(line["row_id_a"], line["row_id_b"]) for line in run(tmp_path, rows)["evidence"]]
    assert pairs == sorted(set(pairs))
    assert all(a < b for a, b in pairs)


def pairs_of(found: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(*(side.tolist() for side in unpack(found)), strict=True))


@bounds(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=8, max_size=8), min_size=1, max_size=3))
def test_each_row_of_a_bucket_is_paired_with_its_first_row(keys: list[list[int]]) -> None:
    numbers = np.array([30, 10, 70, 50, 20, 60, 40, 80])
    bands = [(np.array(band, np.uint64), numbers) for band in keys]
    true = set()
    for band in keys:
        for key in set(band):
            members = sorted(number for number, mine in zip(numbers.tolist(), band, strict=True) if mine == key)
            true.update((members[0], other) for other in members[1:])
    assert pairs_of(stars(bands)) == sorted(true)


def test_rows_that_failed_against_the_first_are_compared_with_the_first_of_them() -> None:
    keys, numbers = np.array([7, 7, 7, 7, 7, 9, 9], np.uint64), np.array([0, 1, 2, 3, 4, 5, 6])
    failed = pack(np.array([0, 0, 0, 5]), np.array([1, 3, 4, 6]))
    assert pairs_of(second_stars([(keys, numbers)], failed)) == [(1, 3), (1, 4)]
    assert pairs_of(second_stars([(keys, numbers)], failed[:0])) == []


def test_no_pair_is_known_where_none_was_compared() -> None:
    pairs = pack(np.array([1, 2]), np.array([3, 4]))
    assert contained(pairs, pairs[:0]).tolist() == [False, False]
    assert contained(pairs, pairs[1:]).tolist() == [False, True]


def test_a_first_row_that_is_like_none_does_not_hide_that_the_others_are_alike(tmp_path: Path) -> None:
    """Rows 1 and 2 are alike; both share bands with row 0, which is too far from either."""
    draw = random.Random(3)
    rows = []
    for family in range(40):
        text = " ".join(draw.choices([f"w{number}" for number in range(4000)], k=150))
        near = changed(text, 6, family)
        texts = (text, f"{near} x", f"{near} y")
        rows += [row(text, row_id=f"{family:08x}{number}" + "0" * 23) for number, text in enumerate(texts)]
    # One minimum is the whole signature: rows 1 and 2 share it nearly always, and two times in three with row 0.
    tables = run(tmp_path, rows, bands=1, rows_per_band=1)
    cluster = {line["row_id"]: line["cluster"] for line in tables["clusters"]}
    ids = [[f"{family:08x}{number}" + "0" * 23 for number in (1, 2)] for family in range(40)]
    assert sum(cluster[one] == cluster[other] for one, other in ids) >= 36
