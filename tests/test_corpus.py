"""The benchmark's corpus holds what its truth says, and equal arguments make equal bytes."""

import json
import random
import re
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import ftfy
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "data"))
import corpus

Made = tuple[Path, dict[str, tuple[str, str]], dict[str, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A small corpus: its folder, (file, text) by id, and the truth by kind."""
    folder = tmp_path_factory.mktemp("corpus")
    corpus.generate(folder, megabytes=6, seed=7, files=3)
    rows, truth = {}, defaultdict(list)
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, TypeError, KeyError):  # the broken ones
                row = json.loads(line)
                rows[row["id"]] = (path.name, row["text"])
    for line in pq.read_table(folder / "truth.parquet").to_pylist():
        truth[line["kind"]].append(line)
    return folder, rows, truth


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of runs of five words, joined to strings."""
    sets = []
    for text in (one, other):
        words = re.sub(r"[^\w]+", " ", text.lower()).split()
        sets.append({" ".join(words[at : at + 5]) for at in range(len(words) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def luhn(number: str) -> bool:
    digits = [int(digit) for digit in reversed(number)]
    return (sum(digits[::2]) + sum(sum(map(int, str(2 * digit))) for digit in digits[1::2])) % 10 == 0


def test_equal_arguments_make_equal_bytes_and_another_seed_other_ones(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        corpus.generate(tmp_path / name, megabytes=2, seed=seed)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == [f"part-{number}.jsonl" for number in range(4)] + ["truth.parquet"]
    for name in names:
        one, two, other = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two", "other"))
        assert one == two
        assert len(one) < 200 or one != other


def test_the_stated_similarities_are_right_and_spread_from_a_half_to_one(made: Made) -> None:
    _, rows, truth = made
    for pair in truth["near"]:
        assert similarity(rows[pair["id_a"]][1], rows[pair["id_b"]][1]) == pytest.approx(pair["jaccard"], abs=1e-12)
    bins = Counter(min(int(pair["jaccard"] * 10), 9) for pair in truth["near"])
    assert all(bins[tenth] >= len(truth["near"]) / 12 for tenth in range(5, 10))
    assert min(pair["jaccard"] for pair in truth["near"]) > 0.45
    assert max(pair["jaccard"] for pair in truth["near"]) < 1


def test_a_copy_is_exact_and_stands_in_another_file(made: Made) -> None:
    _, rows, truth = made
    assert all(rows[pair["id_a"]][1] == rows[pair["id_b"]][1] for pair in truth["exact"])
    assert all(rows[pair["id_a"]][0] != rows[pair["id_b"]][0] for pair in truth["exact"] + truth["near"])
    texts = Counter(text for _, text in rows.values())
    assert sum(times - 1 for times in texts.values()) == len(truth["exact"])  # and there are no others


def test_unrelated_texts_share_nearly_nothing(made: Made) -> None:
    _, rows, truth = made
    related = {frozenset((pair["id_a"], pair["id_b"])) for pair in truth["exact"] + truth["near"]}
    ids, rng = sorted(rows), random.Random(1)
    pairs = [rng.sample(ids, 2) for _ in range(1500)]
    found = [similarity(rows[a][1], rows[b][1]) for a, b in pairs if frozenset((a, b)) not in related]
    assert max(found) < 0.3


def test_each_kind_has_about_its_share_and_no_row_two_of_them(made: Made) -> None:
    _, rows, truth = made
    for kind, share in {"exact": 0.05, "near": 0.05, "html": 0.05, "mojibake": 0.02, "pii": 0.02}.items():
        assert len(truth[kind]) / len(rows) == pytest.approx(share, rel=0.3), kind
    ids = Counter(line[side] for kind in truth if kind != "broken" for line in truth[kind] for side in ("id_a", "id_b"))
    del ids[None]
    assert set(ids.values()) == {1}


def test_texts_are_of_one_to_four_kilobytes(made: Made) -> None:
    sizes = sorted(len(text) for _, text in made[1].values())
    assert sizes[len(sizes) // 20] > 900
    assert sizes[-len(sizes) // 20] < 4500


def test_mojibake_is_mended_to_accents_and_signs(made: Made) -> None:
    _, rows, truth = made
    for line in truth["mojibake"]:
        text = rows[line["id_a"]][1]
        mended = ftfy.fix_text(text, uncurl_quotes=False, fix_character_width=False)
        assert mended != text
        assert sum(word in corpus.ACCENTED for word in mended.split()) == int(line["note"]), text
    plain = set(rows) - {line[side] for kind in truth for line in truth[kind] for side in ("id_a", "id_b")}
    assert all(rows[name][1].isascii() for name in plain)


def test_personal_data_is_counted_and_passes_its_checks(made: Made) -> None:
    _, rows, truth = made
    patterns = {
        "email": r"\(\S+@example\.org\)",
        "phone": r"\(\+[\d ()-]+\)",
        "ip": r"\(\d+\.\d+\.\d+\.\d+\)",
        "card": r"\(4\d{3} \d{4} \d{4} \d{4}\)",
        "iban": r"\(DE\d{20}\)",
    }
    for line in truth["pii"]:
        text = rows[line["id_a"]][1]
        planted = dict(part.split("=") for part in line["note"].split(","))
        assert {kind: len(re.findall(pattern, text)) for kind, pattern in patterns.items()} == {
            kind: int(planted.get(kind, 0)) for kind in patterns
        }
        assert all(luhn(number.strip("()").replace(" ", "")) for number in re.findall(patterns["card"], text))
        ibans = (number.strip("()") for number in re.findall(patterns["iban"], text))
        assert all(int(number[4:] + "1314" + number[2:4]) % 97 == 1 for number in ibans)


def test_html_rows_are_pages_or_fragments(made: Made) -> None:
    _, rows, truth = made
    for line in truth["html"]:
        text = rows[line["id_a"]][1]
        assert (
            text.startswith("<!DOCTYPE html>") == ("<script>" in text) == ("<nav>" in text) == (line["note"] == "page")
        )
        assert "<p>" in text
        assert "&amp;" in text
    assert {line["note"] for line in truth["html"]} == {"page", "fragment"}


def test_broken_lines_stand_where_the_truth_says(made: Made) -> None:
    folder, _, truth = made
    assert [line["note"] for line in truth["broken"]] == list(corpus.BROKEN)
    for line in truth["broken"]:
        lines = (folder / line["id_a"]).read_bytes().split(b"\n")
        assert lines[int(line["id_b"]) - 1] == corpus.BROKEN[line["note"]]
        with pytest.raises((ValueError, TypeError, KeyError)):
            json.loads(lines[int(line["id_b"]) - 1])["text"]
