"""What cleaning does to rows: which go and why, what takes the place of missing values, and that nothing is lost."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from builders import read, row, settings, write
from clean import clean

NOTHING: dict[str, list[str]] = {"toxicity": [], "identity_terms": [], "dictionary": [], "annotations": []}


def cleaned(
    folder: Path, rows: list[dict[str, Any]], beside: dict[str, list[str]] | None = None, **changes: Any
) -> dict[str, Any]:
    """Clean rows: the kept ones, the dropped ones as (line, rule, value, threshold), findings, effects, sentence."""
    paths = {name: str(folder / f"{name}.parquet") for name in ("out", "dropped", "findings")}
    paths["effects"] = str(folder / "effects.json")
    source = write(folder / "in.parquet", rows)
    said = clean(source, *paths.values(), settings("clean", **changes), NOTHING | (beside or {}))
    gone = read(paths["dropped"])
    assert {line["stage"] for line in gone} <= {"clean"}
    return {
        "kept": read(paths["out"]),
        "gone": [(line["line"], line["rule"], line["value"], line["threshold"]) for line in gone],
        "ids": [line["row_id"] for line in gone],
        "found": [(line["line"], line["rule"], line["kind"], line["count"]) for line in read(paths["findings"])],
        "effects": json.loads(Path(paths["effects"]).read_text()),
        "said": said,
    }


def pairs(done: dict[str, Any]) -> list[tuple[str | None, str]]:
    return [(line["prompt"], line["completion"]) for line in done["kept"]]


def steps(done: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Rows changed and characters added by each step that changed something."""
    listed = done["effects"]["steps"]
    return {item["step"]: (item["rows"], item["chars_after"] - item["chars_before"]) for item in listed if item["rows"]}


def test_each_rule_drops_with_its_value_and_threshold(tmp_path: Path) -> None:
    rows = [
        row("kept", "p", line=1),
        row(" \u200b ", line=2),
        row("answer", " ", line=3),
        row("ab", line=4),
        row("abcdef", "ghijklm", line=5),
        row("abcdef", "ghijkl", line=6),
        row("<p></p>", "p", line=7),
    ]
    done = cleaned(tmp_path, rows, min_chars=3, max_chars=12)
    assert [line["line"] for line in done["kept"]] == [1, 6]
    assert done["gone"] == [
        (2, "empty", 0, 1),
        (3, "empty_prompt", 0, 1),
        (4, "too_short", 2, 3),
        (5, "too_long", 13, 12),
        (7, "empty", 0, 1),
    ]
    assert sorted([line["row_id"] for line in done["kept"]] + done["ids"]) == sorted(line["row_id"] for line in rows)
    assert done["said"] == "2 of 7 rows kept: empty 2, empty_prompt 1, too_long 1, too_short 1"


@bounds(max_examples=25, deadline=None)
@given(texts=st.lists(st.tuples(st.none() | st.text(max_size=6), st.none() | st.text(max_size=6)), max_size=12))
def test_every_row_is_kept_or_dropped_once(tmp_path_factory: pytest.TempPathFactory, texts: list[Any]) -> None:
    rows = [row(completion or "", prompt, line=number) for number, (prompt, completion) in enumerate(texts)]
    for given_row, (_, completion) in zip(rows, texts, strict=True):
        given_row["completion"] = completion
    done = cleaned(tmp_path_factory.mktemp("clean"), rows, min_chars=2, max_chars=8)
    kept = [line["line"] for line in done["kept"]]
    assert kept == sorted(kept)
    assert sorted(kept + [line for line, *_ in done["gone"]]) == list(range(len(texts)))
    assert all(len(line["completion"]) >= 2 for line in done["kept"])
    total = done["effects"]
    assert total["chars_in"] == sum(len(text or "") for pair in texts for text in pair)
    assert total["chars_out"] == sum(len(prompt or "") + len(completion) for prompt, completion in pairs(done))


def test_a_row_keeps_the_id_and_fields_of_its_raw_text(tmp_path: Path) -> None:
    given_row = row("<b>x</b> y", "p&amp;q", group="g", label="l", split="test", meta='{"a": 1}')
    done = cleaned(tmp_path, [given_row])
    assert done["kept"] == [given_row | {"prompt": "p&q", "completion": "x y"}]


# Missing values


def test_a_text_that_stands_for_a_missing_value_counts_as_missing(tmp_path: Path) -> None:
    rows = [
        row(" N/A\n", "p", line=1),
        row("a", "N/A", line=2),
        row("n/a", "p", line=3),
        row("not N/A", "p", line=4, label="N/A"),
        row("N/A\ufeff", "p", line=5),
    ]
    done = cleaned(tmp_path, rows, missing_markers=["N/A"])
    assert done["gone"] == [(1, "empty", 0, 1), (2, "empty_prompt", 0, 1), (5, "empty", 0, 1)]
    assert pairs(done) == [("p", "n/a"), ("p", "not N/A")]
    assert done["kept"][1]["label"] is None
    assert steps(done) == {
        "missing_markers": (2, -8),
        "control_characters": (1, -1),
        "missing": (1, -3),
    }


def test_what_fills_a_missing_value_is_put_in_after_cleaning_and_plain_text_gets_no_prompt(tmp_path: Path) -> None:
    fill = {"prompt": "Say  something.", "completion": "-", "label": "none"}
    rows = [row("a", " ", line=1), row("<p></p>", None, line=2), row("?", "q", line=3, label="l")]
    rows.append(row("", "q", line=4) | {"completion": None})
    done = cleaned(tmp_path, rows, missing="fill", missing_markers=["?"], fill=fill)
    assert pairs(done) == [("Say  something.", "a"), (None, "-"), ("q", "-"), ("q", "-")]
    assert [line["label"] for line in done["kept"]] == ["none", "none", "l", "none"]


def test_a_missing_value_without_a_text_to_fill_it_drops_the_row(tmp_path: Path) -> None:
    rows = [row("a", " ", line=1), row(" ", "q", line=2)]
    done = cleaned(tmp_path, rows, missing="fill", fill={"completion": "-"}, whitespace=False)
    assert done["gone"] == [(1, "empty_prompt", 0, 1)]
    assert pairs(done) == [("q", "-")]


def test_white_space_alone_is_missing_even_where_it_is_not_mended(tmp_path: Path) -> None:
    assert cleaned(tmp_path, [row(" \n ", line=1)], whitespace=False)["gone"] == [(1, "empty", 0, 1)]


# Effects


def test_the_effects_of_each_step_are_counted_by_rows_and_characters(tmp_path: Path) -> None:
    rows = [
        row("caf\u00c3\u00a9", "a  b", line=1),  # 5 -> 4; 4 -> 3
        row("<p>x &amp; y</p>", "<b>z</b>", line=2),  # 16 -> 7 (a line feed before and after); 8 -> 1
        row("e\u0301\u200b", line=3),  # 3 -> 2 -> 1
        row("", line=4),
        row("sound", line=5),
    ]
    done = cleaned(tmp_path, rows)
    assert steps(done) == {
        "encoding": (1, -1),
        "html": (1, -16),
        "control_characters": (1, -1),
        "unicode": (1, -1),
        "whitespace": (2, -3),
    }
    effects = done["effects"]
    assert [item["step"] for item in effects["steps"]] == [
        "encoding",
        "html",
        "control_characters",
        "unicode",
        "whitespace",
    ]
    assert effects["steps"][0]["chars_before"] == effects["chars_in"] == 41
    assert effects["steps"][-1]["chars_after"] == effects["chars_out"] == 19
    assert (effects["rows_in"], effects["rows_out"], effects["chars_dropped"]) == (5, 4, 0)
    assert "languages" not in effects


def test_characters_of_dropped_rows_are_those_that_cleaning_left(tmp_path: Path) -> None:
    done = cleaned(tmp_path, [row("abc  d", "q", line=1), row("abcdefgh", line=2)], max_chars=7)
    assert [done["effects"][name] for name in ("chars_in", "chars_out", "chars_dropped")] == [15, 6, 8]


def test_a_switched_off_step_is_not_listed(tmp_path: Path) -> None:
    off = dict.fromkeys(("encoding", "html", "control_characters", "whitespace"), False) | {"unicode": "none"}
    text = "caf\u00c3\u00a9 <b>x</b>  e\u0301\x07"
    done = cleaned(tmp_path, [row(text)], **off)
    assert done["effects"]["steps"] == []
    assert pairs(done) == [(None, text)]


def test_an_empty_shard_leaves_empty_files(tmp_path: Path) -> None:
    done = cleaned(tmp_path, [])
    assert (done["kept"], done["gone"], done["found"]) == ([], [], [])
    assert done["effects"]["chars_in"] == 0
