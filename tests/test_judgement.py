"""What people judged: counted, tested and refused as a statistician would by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from judgement import judgement
from snaketune.job import StageError
from snaketune.scoring.agreement import alpha, majority, sign_test, wilson

# Six pairs: the tuned answer stands left in the first three, right in the others.
KEY: dict[str, Any] = {
    "page": "0123456789abcdef",
    "run": "court",
    "seed": 3,
    "answered": 8,
    "equal": 2,
    "items": [{"item": f"i{n}", "row_id": f"{9 - n:032x}", "tuned": "a" if n < 3 else "b"} for n in range(6)],
}


def export(choices: dict[int, str], judge: str = "Ana", notes: dict[int, str] | None = None, **head: Any) -> str:
    """An export of the page as JSON: item number -> choice."""
    rows = [{"item": f"i{n}", "choice": choice, "note": (notes or {}).get(n, "")} for n, choice in choices.items()]
    return json.dumps({"page": KEY["page"], "run": "court", "judge": judge, "judgements": rows} | head)


def judged(folder: Path, **files: str) -> dict[str, Any]:
    """judgement.json of files, given as name_suffix=text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key.json").write_text(json.dumps(KEY), encoding="utf-8")
    paths = []
    for name, text in files.items():
        paths.append(folder / name.replace("_", "."))
        paths[-1].write_bytes(text.encode("utf-8", "surrogatepass"))
    out = folder / "judgement.json"
    judgement([str(path) for path in paths], str(folder / "key.json"), str(out), {"run": "court"})
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("wins", "n", "low", "high"),
    [  # Newcombe (1998), table I, method 3: Wilson's score interval without correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_wilsons_as_published(wins: int, n: int, low: float, high: float) -> None:
    assert wilson(wins, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - wins, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_the_interval_stays_within_0_and_1() -> None:
    for n in range(1, 200):
        assert wilson(0, n)[0] == 0.0
        assert wilson(n, n)[1] == 1.0


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(5, 1, 14 / 64), (1, 5, 14 / 64), (6, 0, 2 / 64), (3, 3, 1.0), (0, 0, 1.0), (1, 0, 1.0), (9, 1, 22 / 1024)],
)
def test_the_sign_test_counts_the_coins_that_lean_as_far(wins: int, losses: int, p: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(p, rel=1e-12)


def test_the_sign_test_bears_thousands_of_votes() -> None:
    assert sign_test(6000, 6000) == 1.0
    assert 0 < sign_test(5000, 5600) < 1e-8


def ratings(**lines: str) -> dict[str, dict[str, str]]:
    """judge -> item -> value, of lines with one character an item; a point is an item that was not judged."""
    return {
        judge: {f"u{n}": value for n, value in enumerate(line.split()) if value != "."} for judge, line in lines.items()
    }


def test_alpha_is_that_of_krippendorffs_own_examples() -> None:
    # Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, examples B and C
    two = ratings(ben="a a b b d c c c e d d a", gerry="b a b b b c c c e d d d")
    four = ratings(
        a="1 2 3 3 2 1 4 1 2 . . .",
        b="1 2 3 3 2 2 4 1 2 5 . 3",
        c=". 3 3 3 2 3 4 2 2 5 1 .",
        d="1 2 3 3 2 4 4 1 2 5 1 .",
    )
    assert alpha(two) == (pytest.approx(0.692, abs=5e-4), None)
    assert alpha(four) == (pytest.approx(0.743, abs=5e-4), None)


def test_alpha_is_1_for_full_agreement_and_below_0_for_contradiction() -> None:
    assert alpha(ratings(one="a b tie a", two="a b tie a"))[0] == pytest.approx(1.0)
    # by hand: four pairs that all differ; 8 values, 4 of each: 1 - 1 / (2 * 4 * 4 / (8 * 7))
    assert alpha(ratings(one="a b a b", two="b a b a"))[0] == pytest.approx(1 - 56 / 32)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ({}, "no item was judged by two people"),
        ({"one": "a b a"}, "no item was judged by two people"),
        ({"one": "a b .", "two": ". . b"}, "no item was judged by two people"),
        ({"one": "a a a", "two": "a a a"}, "all judges chose 'a' everywhere"),
        ({"one": "a a b", "two": "a a ."}, "all judges chose 'a' everywhere"),  # the b has no partner
    ],
)
def test_without_shared_items_or_variation_there_is_no_alpha_and_a_reason(lines: dict[str, str], why: str) -> None:
    value, reason = alpha(ratings(**lines))
    assert value is None
    assert reason is not None
    assert reason.startswith(why)


@pytest.mark.parametrize(
    ("tuned", "base", "tie", "outcome"),
    [
        (1, 0, 0, "tuned"),
        (2, 1, 0, "tuned"),
        (1, 2, 1, "base"),
        (1, 1, 0, "tie"),
        (1, 1, 1, "tie"),
        (2, 2, 1, "tie"),
        (1, 0, 2, "tie"),
    ],
)
def test_an_item_goes_to_the_choice_with_most_votes(tuned: int, base: int, tie: int, outcome: str) -> None:
    assert majority({"tuned": tuned, "base": base, "tie": tie}) == outcome


def test_nobody_has_judged_yet(tmp_path: Path) -> None:
    found = judged(tmp_path)
    assert (found["judges"], found["items"], found["judged"], found["rows"]) == ([], 6, 0, [])
    assert (found["win_rate"], found["p"], found["alpha"]) == (None, None, None)
    assert found["votes"] == {"tuned": 0, "base": 0, "tie": 0}


def test_one_judge_by_hand(tmp_path: Path) -> None:
    found = judged(tmp_path, ana_json=export({0: "a", 1: "a", 2: "b", 3: "b", 4: "tie", 5: "b"}, notes={2: "a guess"}))
    assert found["judges"] == [{"name": "Ana", "n": 6, "tuned": 4, "base": 1, "tie": 1}]
    assert found["votes"] == {"tuned": 4, "base": 1, "tie": 1}
    # Wilson for 4 of 5: (0.8 + 0.38415 -+ 1.95996 sqrt(0.8 * 0.2 / 5 + 0.038415)) / 1.76829
    assert found["win_rate"] == {
        "value": 0.8,
        "ci95": [pytest.approx(0.37553, abs=1e-5), pytest.approx(0.96378, abs=1e-5)],
    }
    assert found["p"] == pytest.approx(12 / 32)
    assert found["alpha"] is None
    rows = {row["row_id"]: row for row in found["rows"]}
    assert list(rows) == sorted(rows)
    assert rows[f"{7:032x}"] == {
        "row_id": f"{7:032x}", "tuned": 0, "base": 1, "tie": 0, "notes": [{"judge": "Ana", "note": "a guess"}]
    }  # fmt: skip


def test_votes_of_several_judges_on_one_item_count_once(tmp_path: Path) -> None:
    csv = "page,run,judge,item,choice,note\r\n" + "".join(
        f'{KEY["page"]},court,Cem,{item},{choice},"so, ""so""\r\nlines"\r\n'
        for item, choice in (("i0", "a"), ("i1", "b"))
    )
    found = judged(
        tmp_path,
        ana_json=export({0: "a", 1: "a", 2: "b"}),
        ben_json=export({0: "b", 1: "b", 3: "a"}, judge="Ben"),
        cem_csv="\ufeff" + csv,
    )
    # item 0: tuned, base, tuned; item 1: tuned, base, base; item 2: base; item 3: base
    assert found["votes"] == {"tuned": 1, "base": 3, "tie": 0}
    assert found["win_rate"]["value"] == 0.25
    assert (found["judged"], found["shared"]) == (4, 2)
    assert [judge["name"] for judge in found["judges"]] == ["Ana", "Ben", "Cem"]
    # by hand: items 0 and 1 as (a, b, a) and (a, b, b): observed 8 / 12, expected 18 / 30 unequal pairs
    assert found["alpha"] == pytest.approx(1 - (8 / 12) / (18 / 30), abs=1e-6)
    assert found["rows"][-1]["notes"] == [{"judge": "Cem", "note": 'so, "so"\nlines'}]


def test_judges_who_always_take_the_first_do_not_agree_beyond_chance(tmp_path: Path) -> None:
    first = dict.fromkeys(range(6), "a")
    found = judged(tmp_path, ana_json=export(first), ben_json=export(first | {5: "tie"}, judge="Ben"))
    assert found["alpha"] <= 0


def test_ties_alone_give_no_rate(tmp_path: Path) -> None:
    found = judged(tmp_path, ana_json=export({0: "tie", 1: "tie"}))
    assert (found["win_rate"], found["p"], found["votes"]["tie"]) == (None, None, 2)


def test_a_half_and_the_whole_of_one_judge_are_joined(tmp_path: Path) -> None:
    half, whole = export({0: "a", 1: "b"}), export({0: "a", 1: "b", 2: "tie"}, judge=" Ana ")
    found = judged(tmp_path, half_json=half, whole_json=whole)
    assert found["judges"] == [{"name": "Ana", "n": 3, "tuned": 1, "base": 1, "tie": 1}]


def test_two_spellings_of_one_name_are_one_judge(tmp_path: Path) -> None:
    found = judged(tmp_path, a_json=export({0: "a"}, judge="Zoe\u0308"), b_json=export({1: "a"}, judge="Zo\u00eb"))
    assert [judge["name"] for judge in found["judges"]] == ["Zo\u00eb"]


def test_the_order_of_the_files_is_no_matter(tmp_path: Path) -> None:
    files = {"ana_json": export({0: "a", 1: "b"}, notes={0: "x"}), "ben_json": export({0: "b"}, judge="Ben")}
    files |= {"more_json": export({0: "a"}, notes={0: "y"})}
    assert judged(tmp_path / "1", **files) == judged(tmp_path / "2", **dict(reversed(files.items())))


def test_half_a_character_in_a_note_is_written_as_a_question_mark(tmp_path: Path) -> None:
    found = judged(tmp_path, a_json=export({0: "a"}, notes={0: "cut \ud83d"}))
    assert found["rows"][0]["notes"][0]["note"] == "cut ?"


HEAD = "page,run,judge,item,choice,note\n"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a_json", export({0: "a"}, run="other"), ["judges the run 'other', not 'court'", "Move it"]),
        ("a_json", export({0: "a"}, page="ffff"), ["another page of this run (ffff, not 0123", "answers have changed"]),
        ("a_json", export({9: "a"}), ["item 'i9' is not on the page"]),
        ("a_json", export({0: "A"}), ["item i0", "the choice 'A' is none of a, b, tie"]),
        ("a_json", export({0: "a"}, judge="  "), ["the judge has no name", "Write one"]),
        ("a_json", export({0: "a"}, judge=None), ["`judge` is not a text"]),
        ("a_json", export({0: "a"})[:-9], ["no JSON", "Save the answers from the page again"]),
        ("a_json", "[" * 100_000, ["no JSON"]),
        ("a_json", "[1, 2]", ["no list `judgements`"]),
        ("a_json", "", ["no JSON"]),
        ("a_json", "\udcff", ["not UTF-8"]),
        ("a_csv", "item;choice\ni0;a\n", ["the first line is not `page,run,judge,item,choice,note`"]),
        ("a_csv", HEAD + "0123456789abcdef,court,Ana,i0,a\n", ["line 2", "5 fields instead of 6"]),
        ("a_csv", HEAD + 'x,court,Ana,i0,a,"open\n', ["line 2", "no CSV"]),
        ("a_csv", HEAD + "0123456789abcdef,other,Ana,i0,a,\n", ["judges the run 'other'"]),
        ("a_txt", "hello", ["neither .json nor .csv"]),
    ],
)
def test_what_does_not_belong_is_refused_with_the_file_and_a_way_out(
    tmp_path: Path, name: str, text: str, words: list[str]
) -> None:
    with pytest.raises(StageError) as refused:
        judged(tmp_path, **{name: text})
    for word in [name.replace("_", "."), *words]:
        assert word in str(refused.value)
    assert not (tmp_path / "judgement.json").exists()


def test_one_judge_with_two_minds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"Ana chose 'a' for item i0 in .*1\.json, and 'b' in .*2\.json.*two names"):
        judged(tmp_path, **{"1_json": export({0: "a"}), "2_json": export({0: "b"})})


def test_a_key_of_another_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(json.dumps(KEY | {"run": "old"}), encoding="utf-8")
    with pytest.raises(StageError, match="is of the run 'old', not 'court'"):
        judgement([], str(tmp_path / "key.json"), str(tmp_path / "out.json"), {"run": "court"})
