"""The blind page as people use it: in a real browser, by keys, by touch and by a screen reader's names."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Download, Page, expect

from judgement import judgement
from test_judge import HOSTILE, made, row_id

pytest_plugins = ("browser",)

SIX = {n: f"answer {n} of the base" for n in range(6)}, {n: f"answer {n} of the tuned" for n in range(6)}


def file_of(folder: Path, base: dict[int, str] = SIX[0], tuned: dict[int, str] = SIX[1], **changes: Any) -> Path:
    made(folder, base, tuned, **changes)
    return folder / "judge/page.html"


def begin(page: Page, file: Path, judge: str = "Ana") -> None:
    page.goto(file.as_uri())
    page.get_by_label("Your name").fill(judge)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=2, name=re.compile("Pair 1 of"))).to_be_focused()


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def saved(page: Page, kind: str) -> Download:
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Save as {kind}").click()
    return download.value


def keep(download: Download, folder: Path) -> str:
    """Keep a download under the name that the page has given to it."""
    folder.mkdir(exist_ok=True)
    download.save_as(folder / download.suggested_filename)
    return str(folder / download.suggested_filename)


def counted(files: list[str], file: Path, out: Path) -> dict[str, Any]:
    judgement(files, str(file.with_name("key.json")), str(out), {"run": "court"})
    return json.loads(out.read_text(encoding="utf-8"))


def judged_so_far(page: Page) -> str:
    return page.locator("#count").inner_text()


def test_six_rows_by_keys_with_an_undo_and_a_reload_come_out_as_they_were_judged(
    page: Page, faults: list[str], tmp_path: Path
) -> None:
    file = file_of(tmp_path)
    tuned = [item["tuned"] for item in json.loads(file.with_name("key.json").read_text())["items"]]
    won, lost = [{"a": "1", "b": "2"}[side] for side in tuned], [{"a": "2", "b": "1"}[side] for side in tuned]

    begin(page, file)
    press(page, won[0], won[1], lost[2], "Backspace", won[2])  # the third is thought over
    page.reload()
    expect(page.get_by_role("heading", name="Pair 4 of 6")).to_be_visible()
    assert judged_so_far(page) == "3 of 6 judged"
    press(page, "n", "s", "o", ",", "1", "Escape", "=", lost[4], "u", won[4], lost[5])
    expect(page.get_by_role("heading", name="Thank you, that was all")).to_be_focused()

    files = [keep(saved(page, kind), tmp_path / "judgements") for kind in ("JSON", "CSV")]
    assert [Path(name).name for name in files] == ["judgement-court-Ana.json", "judgement-court-Ana.csv"]
    for some in (files[:1], files[1:], files):
        found = counted(some, file, tmp_path / "judgement.json")
        assert found["judges"] == [{"name": "Ana", "n": 6, "tuned": 4, "base": 1, "tie": 1}]
        assert found["win_rate"]["value"] == 0.8
        assert [row["notes"] for row in found["rows"] if row["notes"]] == [[{"judge": "Ana", "note": "so,1"}]]
    assert faults == []


def test_hostile_texts_are_shown_and_do_nothing(page: Page, faults: list[str], tmp_path: Path) -> None:
    base = {0: HOSTILE, 1: "", 2: "word " * 20_480, 3: "\u202eright to left\u202c", 4: "a" * 50_000, 5: "\x00\x1b[31m"}
    tuned = {n: f"<svg onload=\"fetch('https://example.org/')\">{n}" for n in base} | {5: "&lt;b&gt;\u2028{{x}}"}
    (tmp_path / "blank.html").touch()
    page.goto((tmp_path / "blank.html").as_uri())
    before = set(page.evaluate("Object.getOwnPropertyNames(window)"))
    begin(page, file_of(tmp_path, base, tuned), judge="<img src=x onerror=alert(1)>")
    seen = set()
    notes = ('"</script>', "a\r\nb", "c,d", "=1+1", '"quoted"', "\\n")
    for note in notes:
        page.evaluate("document.querySelectorAll('.show:not([hidden])').forEach((button) => button.click())")
        seen |= {page.locator(spot).inner_text() for spot in ("#a", "#b")}
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        press(page, "n")
        page.keyboard.insert_text(note)
        press(page, "Escape", "1")
    assert {text for text in seen if text.startswith("</script><script>window.pwned=1</script><!-- <img src=x onerror")}
    assert {"(empty answer)", "\u2400\u241b[31m", "word " * 20_480, "a" * 50_000} <= {*seen, *(s + " " for s in seen)}
    assert page.locator("main img, main svg, main iframe").count() == 0
    assert set(page.evaluate("Object.getOwnPropertyNames(window)")) <= before
    found = counted([keep(saved(page, "CSV"), tmp_path / "judgements")], tmp_path / "judge/page.html", tmp_path / "out")
    assert [judge["name"] for judge in found["judges"]] == ["<img src=x onerror=alert(1)>"]
    assert {row["notes"][0]["note"] for row in found["rows"]} == {note.replace("\r", "") for note in notes}
    assert faults == []


def test_no_script_but_the_pages_own_may_run(page: Page, tmp_path: Path) -> None:
    """The policy itself holds, should a text ever become HTML."""
    page.goto(file_of(tmp_path).as_uri())
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.pwned = 1";
          document.body.append(script);
          document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.pwned = 1'>");
        }"""
    )
    page.wait_for_timeout(100)
    assert page.evaluate("window.pwned") is None
    assert len([text for text in refused if "Content Security Policy" in text]) >= 2


def test_a_phone_shows_one_column_with_the_choices_in_reach(browser: Browser, tmp_path: Path) -> None:
    file = file_of(tmp_path, SIX[0] | {0: "long " * 400}, {n: "short" * n + "." for n in SIX[1]})
    context = browser.new_context(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page = context.new_page()
    page.goto(file.as_uri())
    page.get_by_label("Your name").fill("Ana")
    page.get_by_role("button", name="Begin").tap()
    for number in range(6):
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        a, b = (page.locator(spot).bounding_box() for spot in (".card.a", ".card.b"))
        assert a["y"] + a["height"] <= b["y"]
        for name in ("A is better", "Equal", "B is better"):
            box = page.get_by_role("button", name=name).bounding_box()
            assert min(box["width"], box["height"]) >= 44
            assert 0 <= box["x"] <= box["x"] + box["width"] <= 360
            assert box["y"] + box["height"] <= 740
        page.get_by_role("button", name=("A is better", "Equal", "B is better")[number % 3]).tap()
    for target in page.locator("button:visible, summary:visible, .file:visible").all():
        assert target.bounding_box()["height"] >= 44, target.inner_text()
    assert judged_so_far(page) == "6 of 6 judged"
    page.get_by_role("button", name="Undo").tap()
    expect(page.get_by_role("heading", name="Pair 6 of 6")).to_be_visible()
    context.close()


def test_the_keyboard_alone_reaches_everything(page: Page, tmp_path: Path) -> None:
    begin(page, file_of(tmp_path, SIX[0] | dict.fromkeys(range(6), "long " * 2000)))
    reached = []
    for _ in range(16):
        press(page, "Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.dataset.for"))
        style = "const {outlineStyle, outlineWidth} = getComputedStyle(document.activeElement);"
        if reached[-1] == "choose-tie":
            assert page.evaluate(f"() => {{ {style} return [outlineStyle, outlineWidth]; }}") == ["solid", "2px"]
    for one in ("choose-a", "choose-tie", "choose-b", "note", "load", "shortcuts", "rename"):
        assert one in reached
    assert {"a", "b"} & set(reached)  # the button for the rest of the long answer
    page.locator("#choose-b").focus()
    press(page, "Enter")
    expect(page.get_by_role("heading", name="Pair 2 of 6")).to_be_focused()
    expect(page.get_by_role("status").filter(has_text="Pair 1: B is better.")).to_be_visible()


def test_what_a_screen_reader_hears(page: Page, tmp_path: Path) -> None:
    begin(page, file_of(tmp_path))
    heard = page.locator("body").aria_snapshot()
    for line in (
        "- banner:", "- main:", '- progressbar "Pairs judged"', '- heading "Which answer is better?" [level=1]',
        '- heading "Pair 1 of 6" [level=2]', '- heading "Prompt" [level=3]', '- heading "Answer A" [level=3]',
        '- heading "Answer B" [level=3]', '- group "Which answer is better?":', '- button "A is better"',
        '- button "Equal"', '- button "B is better"', '- textbox "Note, if you like"',
        '- heading "Your answers" [level=2]',
        '- button "Go on from a saved file"', '- checkbox "Single keys choose (1, 2, =, U, N)" [checked]',
    ):  # fmt: skip
        assert line in heard, f"{line}\n{heard}"
    shortcuts = {
        node.get_attribute("id"): node.get_attribute("aria-keyshortcuts") for node in page.locator("button[id]").all()
    }
    assert shortcuts | {"choose-a": "1", "choose-tie": "=", "choose-b": "2", "undo": "U Backspace"} == shortcuts
    levels = [
        int(name[1])
        for name in page.evaluate(
            "[...document.querySelectorAll('h1,h2,h3')].filter(n => n.offsetParent).map(n => n.tagName)"
        )
    ]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_keys_do_nothing_in_a_text_field_with_a_modifier_or_when_held(page: Page, tmp_path: Path) -> None:
    begin(page, file_of(tmp_path))
    press(page, "n", "1", "2", "=", "Backspace", "u")
    assert page.get_by_label("Note, if you like").input_value() == "12u"
    press(page, "Escape", "Control+1", "Alt+2")
    assert judged_so_far(page) == "0 of 6 judged"
    page.keyboard.down("1")
    page.keyboard.down("1")  # the second is a repeat
    page.keyboard.up("1")
    assert judged_so_far(page) == "1 of 6 judged"
    page.get_by_label("Single keys choose").uncheck()
    for key in ("1", "u"):
        press(page, key)
        assert judged_so_far(page) == "1 of 6 judged"


def test_undo_goes_back_choice_by_choice_and_stops_at_the_first(page: Page, tmp_path: Path) -> None:
    begin(page, file_of(tmp_path))
    press(page, "1", "2", "=", "u", "Backspace", "u", "u")
    assert judged_so_far(page) == "0 of 6 judged"
    expect(page.get_by_role("heading", name="Pair 1 of 6")).to_be_focused()
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()


@pytest.mark.parametrize("kind", ["JSON", "CSV"])
def test_a_saved_file_goes_on_in_another_browser(page: Page, browser: Browser, tmp_path: Path, kind: str) -> None:
    file = file_of(tmp_path)
    begin(page, file, judge='Zoë "Z", née\tÖ')
    press(page, "1", "2", "n")
    page.keyboard.insert_text('commas, "quotes"\nand lines')
    press(page, "Escape", "=")
    half = keep(saved(page, kind), tmp_path / "half")
    other = browser.new_context(accept_downloads=True)
    there = other.new_page()
    there.goto(file.as_uri())
    there.get_by_label("Go on from a saved file").set_input_files(half)
    expect(there.get_by_text("3 answers taken from")).to_be_visible()
    there.get_by_role("button", name="Go on", exact=True).click()
    expect(there.get_by_role("heading", name="Pair 4 of 6")).to_be_visible()
    press(there, "1", "1", "1")
    whole = keep(saved(there, kind), tmp_path / "whole")
    found = counted([half, whole], file, tmp_path / "out.json")
    assert [(judge["name"], judge["n"]) for judge in found["judges"]] == [('Zoë "Z", née Ö', 6)]
    assert [row["notes"][0]["note"] for row in found["rows"] if row["notes"]] == ['commas, "quotes"\nand lines']
    other.close()


def test_files_of_other_pages_and_other_people_are_refused_and_change_nothing(page: Page, tmp_path: Path) -> None:
    begin(page, file_of(tmp_path / "other", SIX[0], SIX[1], run="other"))
    press(page, "1")
    foreign = keep(saved(page, "JSON"), tmp_path / "files")
    file = file_of(tmp_path)
    begin(page, file, judge="Ben")
    press(page, "1")
    bens = keep(saved(page, "JSON"), tmp_path / "files")
    page.get_by_text("Start again").click()
    page.get_by_role("button", name="Delete all answers").click()
    begin(page, file, judge="Cem")
    (tmp_path / "broken.csv").write_text('"open', encoding="utf-8")
    evil = {"page": shown_id(file), "judge": "Cem", "judgements": [{"item": "__proto__", "choice": "toString"}]}
    (tmp_path / "evil.json").write_text(json.dumps(evil), encoding="utf-8")
    mixed = json.loads(Path(bens).read_text(encoding="utf-8")) | {"page": "x", "judge": "Cem"}
    (tmp_path / "mixed.json").write_text(json.dumps(mixed), encoding="utf-8")
    for name, said in (
        (foreign, "it belongs to other pairs"),
        (bens, "was saved by Ben, and the name here is Cem"),
        (str(tmp_path / "broken.csv"), "is no file of this page"),
        (str(tmp_path / "evil.json"), "is no file of this page"),
        (str(tmp_path / "mixed.json"), "it belongs to other pairs"),
    ):
        page.get_by_label("Go on from a saved file").set_input_files(name)
        expect(page.locator("#message")).to_contain_text(said)
        assert judged_so_far(page) == "0 of 6 judged"


def test_another_page_does_not_take_over_what_was_judged_on_this_one(page: Page, tmp_path: Path) -> None:
    begin(page, file_of(tmp_path / "one"))
    press(page, "1")
    page.goto(file_of(tmp_path / "two", SIX[0], SIX[1] | {0: "changed"}).as_uri())
    expect(page.get_by_role("heading", name="Which answer is better?")).to_be_visible()
    assert page.get_by_label("Your name").input_value() == ""


def test_where_nothing_can_be_kept_the_page_says_so_and_asks_before_it_closes(page: Page, tmp_path: Path) -> None:
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    begin(page, file_of(tmp_path))
    expect(page.get_by_text("This browser keeps nothing for this page")).to_be_visible()
    press(page, "1", "2")
    assert judged_so_far(page) == "2 of 6 judged"
    with page.expect_event("close"):
        page.close(run_before_unload=True)
    assert asked == ["beforeunload"]


def test_two_tabs_of_one_page_show_the_same_state(page: Page, tmp_path: Path) -> None:
    file = file_of(tmp_path)
    begin(page, file)
    other = page.context.new_page()
    other.goto(file.as_uri())
    expect(other.get_by_role("heading", name="Pair 1 of 6")).to_be_visible()
    press(page, "1", "2")
    expect(other.locator("#count")).to_have_text("2 of 6 judged")


def test_a_page_with_nothing_to_judge_says_so(page: Page, faults: list[str], tmp_path: Path) -> None:
    file = file_of(tmp_path, SIX[0], SIX[0])
    page.goto(file.as_uri())
    expect(page.get_by_role("heading", name="There is nothing to judge")).to_be_visible()
    expect(page.get_by_role("button")).to_have_count(0)
    assert faults == []


def test_the_reference_is_folded_and_the_empty_one_is_not_offered(page: Page, tmp_path: Path) -> None:
    file = file_of(tmp_path)
    begin(page, file)
    first = json.loads(file.with_name("key.json").read_text())["items"][0]["row_id"]
    text = page.get_by_text(f"reference {[row_id(n) for n in range(6)].index(first)}", exact=True)
    expect(text).to_be_hidden()
    page.get_by_text("Reference answer").click()
    expect(text).to_be_visible()
    press(page, "1")
    assert not page.locator("#reference-fold").evaluate("node => node.open")


def test_those_who_want_no_motion_get_none(browser: Browser, tmp_path: Path) -> None:
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    begin(page, file_of(tmp_path))
    assert page.locator(".cards").evaluate("node => getComputedStyle(node).animationName") == "none"
    context.close()


@pytest.mark.parametrize(
    "kept", ["{broken", "5", '{"votes": 7}', '{"begun": true, "votes": [["x", "a"], ["y", "toString"]]}']
)
def test_a_store_that_is_not_ours_does_no_harm(page: Page, faults: list[str], tmp_path: Path, kept: str) -> None:
    file = file_of(tmp_path)
    page.goto(file.as_uri())
    page.evaluate("([id, kept]) => localStorage.setItem(`snaketune-judge-${id}`, kept)", [shown_id(file), kept])
    page.reload()
    if "begun" not in kept:
        page.get_by_label("Your name").fill("Ana")
        page.get_by_role("button", name="Begin").click()
    press(page, "1")
    assert judged_so_far(page) == "1 of 6 judged"
    assert faults == []


def shown_id(file: Path) -> str:
    return json.loads(file.with_name("key.json").read_text(encoding="utf-8"))["page"]
