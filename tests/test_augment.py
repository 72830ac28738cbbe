"""Augmentation: children of train rows only, marked, in their parent's family, new, and far from what is held out."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from augment import augment
from builders import read, row, write
from snaketune.rows import SPLIT, row_id
from snaketune.schema_data import Augmentation
from snaketune.text import chat

TEXTS = [" ".join(f"w{text}n{number}" for number in range(30)) for text in range(12)]


def way(method: str, **changes: Any) -> dict[str, Any]:
    return Augmentation(method=method, **changes).model_dump()


def member(completion: str, prompt: str | None = None, **fields: Any) -> dict[str, Any]:
    """A dealt row in a family of its own."""
    made = row(completion, prompt, **fields)
    return {"cluster": made["row_id"], "family": made["row_id"]} | made


def run(
    folder: Path, train: list[dict[str, Any]], *methods: dict[str, Any], seed: int = 42, **held: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """The parents, the children and the sentence."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": train, "validation": held.get("validation", []), "test": held.get("test", [])}
    inputs = {
        split: write(folder / f"{split}.parquet", sorted(rows, key=lambda row: row["row_id"]), SPLIT)
        for split, rows in splits.items()
    }
    output = folder / "augment" / "train.parquet"
    said = augment(inputs, str(output), {"methods": list(methods), "seed": seed, "shingle_words": 5, "similarity": 0.9})
    made = read(output)
    count = len(train)
    return made[:count], made[count:], said


def words_of(text: str) -> Counter[str]:
    return Counter(text.split())


PAIRS = [
    member(f"answer {n}", text, group=f"g{n}", label="ab"[n % 2], meta='{"own": 1}') for n, text in enumerate(TEXTS)
]


def test_the_parents_stay_as_they_are_and_come_first_in_the_order_of_their_ids(tmp_path: Path) -> None:
    parents, children, _ = run(tmp_path, PAIRS, way("swap", copies=2), way("delete"))
    assert parents == sorted(PAIRS, key=lambda row: row["row_id"])
    assert len(children) == 36
    assert [child["row_id"] for child in children] == sorted(child["row_id"] for child in children)


def test_a_child_has_its_parents_family_and_says_where_it_comes_from(tmp_path: Path) -> None:
    _, children, _ = run(tmp_path, PAIRS, way("swap", copies=3), way("insert"), way("swap", copies=2, share=0.5))
    by_id = {parent["row_id"]: parent for parent in PAIRS}
    seen = Counter()
    for child in children:
        meta = json.loads(child["meta"])
        parent = by_id[meta["parent"]]
        assert set(meta) == {"parent", "method"}
        assert child["source"] == f"augment:{meta['method']}"
        for name in ("cluster", "family", "group", "label", "completion", "split"):
            assert child[name] == parent[name]
        assert child["prompt"] != parent["prompt"]
        assert child["row_id"] == row_id(child["prompt"], child["completion"])
        seen[meta["parent"], meta["method"], child["line"]] += 1
    numbers = [("swap", n) for n in range(1, 6)] + [("insert", 1)]
    assert seen == Counter({(parent, *number): 1 for parent in by_id for number in numbers})


@pytest.mark.parametrize(
    ("field", "changed"), [("auto", ("prompt", "completion")), ("prompt", ("prompt",)), ("completion", ("completion",))]
)
def test_the_field_that_is_asked_for_is_changed(tmp_path: Path, field: str, changed: tuple[str, ...]) -> None:
    pair, plain = member(TEXTS[0], TEXTS[1]), member(TEXTS[2])
    _, children, _ = run(tmp_path, [pair, plain], way("swap", field=field))
    of = {json.loads(child["meta"])["parent"]: child for child in children}
    expected = {"auto": {"prompt", "plain"}, "prompt": {"prompt"}, "completion": {"completion", "plain"}}[field]
    found = set()
    if pair["row_id"] in of:
        found |= {name for name in ("prompt", "completion") if of[pair["row_id"]][name] != pair[name]}
    if plain["row_id"] in of:
        assert of[plain["row_id"]]["prompt"] is None
        found.add("plain")
    assert found == expected


def test_of_a_chat_the_last_question_changes_in_the_messages_too(tmp_path: Path) -> None:
    turns = [
        ("system", "be kind"),
        ("user", "one two"),
        ("assistant", "three four"),
        ("user", "five six"),
        ("assistant", "seven eight"),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    given = member("seven eight", chat.render(messages[:-1]), messages=chat.dump(messages))
    given["row_id"] = row_id(given["prompt"], given["completion"], given["messages"])
    _, (child,), _ = run(tmp_path / "a", [given], way("swap"))
    changed = json.loads(child["messages"])
    assert [turn["content"] for turn in changed] == ["be kind", "one two", "three four", "six five", "seven eight"]
    assert (
        child["prompt"] == "System: be kind\n\nUser: one two\n\nAssistant: three four\n\nUser: six five\n\nAssistant:"
    )
    assert child["completion"] == "seven eight"
    assert child["row_id"] == row_id(child["prompt"], child["completion"], child["messages"])
    _, (child,), _ = run(tmp_path / "b", [given], way("swap", field="completion"))
    assert json.loads(child["messages"])[-1]["content"] == child["completion"] == "eight seven"
    assert child["prompt"] == given["prompt"]


def test_children_depend_on_the_seed_and_their_parent_not_on_other_rows_or_methods(tmp_path: Path) -> None:
    texts = [
        {child["prompt"] for child in made if child["source"] == "augment:swap"}
        for _, made, _ in (
            run(tmp_path / "a", PAIRS, way("swap", copies=2)),
            run(tmp_path / "b", PAIRS[:5], way("delete"), way("swap", copies=3)),
            run(tmp_path / "c", PAIRS, way("swap", copies=2), seed=7),
        )
    ]
    assert len(texts[0] & texts[1]) == 10
    assert not texts[0] & texts[2]


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        run(tmp_path / name, PAIRS if name == "a" else PAIRS[::-1], way("swap", copies=4), way("delete", copies=4))
    one, other = ((tmp_path / name / "augment" / "train.parquet").read_bytes() for name in "ab")
    assert one == other


def test_a_child_that_equals_a_row_of_any_split_or_another_child_is_left_out(tmp_path: Path) -> None:
    there = [member("B  a", cluster="1"), member("d c", "x")]
    train = [member("a b"), member("c d", "x"), member("e f"), there[0]]
    _, children, said = run(tmp_path, train, way("swap", copies=3, field="completion"), validation=[there[1]])
    assert [child["completion"] for child in children] == ["f e"]
    assert said == "1 rows made of 4 train rows; left out: 11 equal to a row that is there"


def test_two_parents_never_have_the_same_child_whatever_batch_they_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snaketune.rows.BATCH_ROWS", 1)
    _, children, _ = run(tmp_path, [member("a b c"), member("a b d")], way("delete", copies=20))
    assert sorted(child["completion"] for child in children) == ["a b", "a c", "a d", "b c", "b d"]


def test_a_method_given_twice_goes_on_where_it_stopped(tmp_path: Path) -> None:
    _, once, _ = run(tmp_path / "a", PAIRS, way("swap", copies=3))
    _, twice, _ = run(tmp_path / "b", PAIRS, way("swap", copies=1), way("swap", copies=2))
    assert once == twice


def test_a_child_never_asks_what_a_held_out_row_asks(tmp_path: Path) -> None:
    _, children, said = run(
        tmp_path, [member("yes", "are we there")], way("delete", copies=20), test=[member("no", "We there")]
    )
    assert {child["prompt"] for child in children} == {"are there", "are we"}
    assert said.startswith("2 rows made of 1 train rows; left out: 18 equal")


def test_a_child_near_to_a_held_out_row_is_left_out_and_one_that_is_not_stays(tmp_path: Path) -> None:
    words = TEXTS[0].split()
    near = [*words[:12], words[13], words[12], *words[14:]]  # a swap away from the parent, 20 of 32 shingles shared
    held = [member(" ".join([*near, "and", "more"]))]
    _, children, _ = run(tmp_path / "a", [member(TEXTS[0])], way("swap", copies=20, share=0.05))
    _, fewer, said = run(tmp_path / "b", [member(TEXTS[0])], way("swap", copies=20, share=0.05), test=held)

    def shingles(text: str) -> set[tuple[str, ...]]:
        parts = text.split()
        return {tuple(parts[start : start + 5]) for start in range(len(parts) - 4)}

    def alike(text: str) -> float:
        mine, theirs = shingles(text), shingles(held[0]["completion"])
        return len(mine & theirs) / len(mine | theirs)

    texts = {child["completion"] for child in children}
    assert {child["completion"] for child in fewer} == {text for text in texts if alike(text) < 0.8}
    assert 0 < len(fewer) < len(children)
    assert "near a validation or test row" in said


def test_texts_that_have_no_other_version_have_no_children(tmp_path: Path) -> None:
    rows = [member("word"), member("same same"), member("", "   "), member("answer", None, line=2)]
    _, children, said = run(tmp_path, rows, way("swap", copies=2))
    assert children == []
    assert said == "0 rows made of 4 train rows; left out: 8 without another version"


def test_rows_of_many_batches_are_sorted_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(tmp_path / "a", PAIRS, way("swap", copies=5))
    monkeypatch.setattr("snaketune.rows.BATCH_ROWS", 3)
    monkeypatch.setattr("augment.bucket_bits", lambda chars: 3)
    assert run(tmp_path / "b", PAIRS, way("swap", copies=5)) == expected
