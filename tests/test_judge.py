"""The blind page as a file: what is drawn, what it hides, and that texts of the data stay texts."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from judge import judge
from snaketune.job import StageError

TEMPLATE = Path(__file__).parents[1] / "workflow/report/judge.html.j2"
HOSTILE = "</script><script>window.pwned=1</script><!-- <img src=x onerror=alert(1)> & \u2028 \u202e]]> {{ 7 * 7 }}"


def row_id(number: int) -> str:
    return f"{number:032x}"


def answers(path: Path, outputs: dict[int, str], prompt: str = "prompt {}", reference: str = "reference {}") -> str:
    """A table of answers, by the number of the row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts, counts = pa.string(), pa.int64()
    columns = {
        "row_id": [row_id(n) for n in outputs],
        "prompt": [prompt.format(n) for n in outputs],
        "reference": [reference.format(n) for n in outputs],
        "output": list(outputs.values()),
        "n_tokens": [7 for _ in outputs],
        "stopped": ["eos" for _ in outputs],
    }
    types = [counts if name == "n_tokens" else texts for name in columns]
    pq.write_table(pa.table(columns, schema=pa.schema(list(zip(columns, types, strict=True)))), path)
    return str(path)


def made(folder: Path, base: dict[int, str], tuned: dict[int, str], **changes: Any) -> tuple[str, dict[str, Any], str]:
    """The page, its key, and the sentence of the stage."""
    paths = [answers(folder / "base.parquet", base), answers(folder / "tuned.parquet", tuned)]
    settings = {"rows": 50, "seed": 3, "run": "court"} | changes
    said = judge(paths, str(folder / "judge/page.html"), str(folder / "judge/key.json"), settings, str(TEMPLATE))
    key = json.loads((folder / "judge/key.json").read_text(encoding="utf-8"))
    return (folder / "judge/page.html").read_text(encoding="utf-8"), key, said


def data(page: str) -> dict[str, Any]:
    return json.loads(HTMLParser(page).css_first("script#data").text())


BASE = {n: f"base says {n}" for n in range(12)}
TUNED = {n: f"tuned says {n}" for n in range(12)}


def test_exchanging_base_and_tuned_changes_no_byte_of_the_page_and_every_side_of_the_key(tmp_path: Path) -> None:
    page, key, _ = made(tmp_path / "one", BASE, TUNED)
    exchanged, other, _ = made(tmp_path / "two", TUNED, BASE)
    assert page == exchanged
    assert [item | {"tuned": {"a": "b", "b": "a"}[item["tuned"]]} for item in key["items"]] == other["items"]


def test_the_key_names_the_side_of_the_tuned_answer_and_the_row(tmp_path: Path) -> None:
    page, key, _ = made(tmp_path, BASE, TUNED)
    shown = data(page)["items"]
    assert [item["id"] for item in shown] == [item["item"] for item in key["items"]]
    assert data(page)["page"] == key["page"]
    assert data(page)["run"] == key["run"] == "court"
    for pair, item in zip(shown, key["items"], strict=True):
        number = int(item["row_id"], 16)
        other = {"a": "b", "b": "a"}[item["tuned"]]
        assert pair[item["tuned"]] == f"tuned says {number}"
        assert pair[other] == f"base says {number}"
        assert (pair["prompt"], pair["reference"]) == (f"prompt {number}", f"reference {number}")


def test_the_page_holds_of_a_row_its_texts_and_nothing_else(tmp_path: Path) -> None:
    page, key, _ = made(tmp_path, BASE, TUNED)
    assert {tuple(item) for item in data(page)["items"]} == {("id", "prompt", "reference", "a", "b")}
    assert not [item["row_id"] for item in key["items"] if item["row_id"] in page]


def test_sides_are_even_and_hang_on_seed_and_text_not_on_the_row_alone(tmp_path: Path) -> None:
    base, tuned = {n: f"base {n}" for n in range(400)}, {n: f"tuned {n}" for n in range(400)}

    def sides(name: str, tuned: dict[int, str], seed: int) -> dict[str, str]:
        _, key, _ = made(tmp_path / name, base, tuned, rows=400, seed=seed)
        return {item["row_id"]: item["tuned"] for item in key["items"]}

    first = sides("first", tuned, 1)
    others = [sides("seed", tuned, 2), sides("text", {n: text + "!" for n, text in tuned.items()}, 1)]
    # 200 +- 10 by chance: the bounds are five standard deviations away
    assert 150 < list(first.values()).count("a") < 250
    for other in others:
        assert 150 < sum(first[row] == other[row] for row in first) < 250


def test_rows_with_equal_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    page, key, said = made(tmp_path, BASE, TUNED | {4: BASE[4], 7: BASE[7]})
    assert {int(item["row_id"], 16) for item in key["items"]} == set(BASE) - {4, 7}
    assert (key["answered"], key["equal"]) == (12, 2)
    assert "2 prompts were left out" in HTMLParser(page).body.text()
    assert said == "10 pairs to judge, of 12 rows; left out as equal on both sides: 2"


@pytest.mark.parametrize("outputs", [BASE, {}])
def test_where_no_answers_differ_the_page_is_empty(tmp_path: Path, outputs: dict[int, str]) -> None:
    page, key, _ = made(tmp_path, outputs, outputs)
    assert data(page)["items"] == key["items"] == []
    assert key["equal"] == key["answered"] == len(outputs)


def test_more_rows_are_the_same_ones_and_others(tmp_path: Path) -> None:
    few = [item["row_id"] for item in made(tmp_path / "few", BASE, TUNED, rows=5)[1]["items"]]
    more = [item["row_id"] for item in made(tmp_path / "more", BASE, TUNED, rows=9)[1]["items"]]
    other = [item["row_id"] for item in made(tmp_path / "other", BASE, TUNED, rows=5, seed=4)[1]["items"]]
    assert len(few) == 5
    assert more[:5] == few
    assert few != sorted(few)
    assert other != few


def test_the_order_of_the_tables_is_no_matter(tmp_path: Path) -> None:
    page, key, _ = made(tmp_path / "one", BASE, TUNED)
    turned = made(tmp_path / "two", dict(reversed(BASE.items())), dict(sorted(TUNED.items(), key=lambda row: row[1])))
    assert (page, key) == turned[:2]


def test_a_changed_answer_makes_another_page(tmp_path: Path) -> None:
    _, key, _ = made(tmp_path / "one", BASE, TUNED)
    _, other, _ = made(tmp_path / "two", BASE, TUNED | {3: "tuned says three"})
    assert key["page"] != other["page"]
    assert not {item["item"] for item in key["items"]} & {item["item"] for item in other["items"]}


def test_tables_of_other_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"answer other rows \(2 stand in one of them only\).*generate again"):
        made(tmp_path, BASE, {n + 1: text for n, text in TUNED.items()})


def test_no_text_can_leave_the_data(tmp_path: Path) -> None:
    page, _, _ = made(tmp_path, BASE | {0: HOSTILE, 1: ""}, TUNED | {0: HOSTILE + "!", 1: "\x00\x1b[31m"})
    scripts = re.findall(r"<script\b[^>]*>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == page.count("</script") == 2
    assert not re.search("[<>&\u2028\u2029]", scripts[0])
    texts = {text for item in data(page)["items"] for text in (item["a"], item["b"])}
    assert {"", "\u2400\u241b[31m"} <= texts
    assert [text for text in texts if text.startswith("</script><script>window.pwned=1</script><!-- <img src=x")]
    assert "\x1b" not in page


def test_the_policy_allows_the_one_script_by_its_hash_and_no_network(tmp_path: Path) -> None:
    page, _, _ = made(tmp_path, BASE, TUNED)
    policy = HTMLParser(page).css_first('meta[http-equiv="Content-Security-Policy"]').attributes["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0]
    assert rules["script-src"] == f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
    assert (rules["default-src"], rules["form-action"], rules["base-uri"]) == ("'none'",) * 3
    assert not set(rules) & {"connect-src", "img-src", "frame-src"}


def test_the_script_makes_text_only() -> None:
    script = TEMPLATE.with_name("judge.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|fetch\(|XMLHttp", script)
