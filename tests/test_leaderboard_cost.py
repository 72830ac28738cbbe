"""What the leaderboard tells beside the numbers: the cost, the front of quality against cost, and other settings."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from selectolax.lexbor import LexborHTMLParser as HTMLParser

from runs import HOSTILE
from snaketune.config import load
from snaketune.pages.leaderboard_cost import Cost, amount, cost_of, duration
from snaketune.pages.leaderboard_pareto import Point, front
from snaketune.pages.leaderboard_settings import ABSENT, changes, flat
from test_leaderboard import built, files_of, write_metrics


def trained(folder: Path, run: str, bits: float, seconds: float | None = None, **facts: Any) -> dict[str, str]:
    """A run with a training that took so long; `facts` are of summary.json, `config` of manifest.json."""
    path = write_metrics(folder, run, bits, "aa")
    config = facts.pop("config", None)
    if config is not None:
        (folder / run / "manifest.json").write_text(json.dumps({"config": config}))
    (folder / run / "train").mkdir()
    if seconds is not None:
        lines = [{"step": 1, "seconds": seconds / 2, "tokens_per_second": 10.0, "memory_mb": 900.5, "mfu": 0.1}]
        lines += [{"step": 9, "seconds": seconds, "tokens_per_second": 20.0, "memory_mb": 800.0, "mfu": 0.1}]
        (folder / run / "train/speed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if facts:
        (folder / run / "train/summary.json").write_text(json.dumps(facts))
    return files_of(path)


def lines(folder: Path, runs: list[dict[str, str]]) -> tuple[dict[str, dict[str, str]], HTMLParser]:
    built(folder, runs)
    with (folder / "l.csv").open(encoding="utf-8", newline="") as file:
        found = {line["run"]: line for line in csv.DictReader(file)}
    return found, HTMLParser((folder / "l.html").read_text(encoding="utf-8"))


def test_the_cost_is_that_of_the_whole_training(tmp_path: Path) -> None:
    facts = {"tokens_per_step": 100.5, "steps": 9, "parameters": 5000, "trainable_parameters": 40, "device": "cpu"}
    files = trained(tmp_path, "a", 1.5, 61.5, **facts)
    assert cost_of(files["summary"], files["speed"]) == Cost(
        seconds=61.5,
        tokens_per_second=15.0,
        tokens=904,
        peak_memory_mb=900.5,
        parameters=5000,
        trainable_parameters=40,
        steps=9,
        device="cpu",
    )
    found, tree = lines(tmp_path, [files])
    names = ("seconds", "tokens_per_second", "tokens", "peak_memory_mb", "energy_j", "trainable_parameters", "device")
    assert [found["a"][name] for name in names] == ["61.5", "15.0", "904", "900.5", "", "40", "cpu"]
    table = tree.css("table.lead")[1]
    cells = [cell.text(strip=True).replace("\u00a0", " ") for cell in table.css("tbody th, tbody td")]
    assert cells == ["a", "62 s", "15", "904", "0.900 GB", "5.00 k", "40", "9", "cpu"]
    assert "Energy" not in table.text()


def test_energy_is_told_where_the_device_tells_it(tmp_path: Path) -> None:
    files = trained(tmp_path, "a", 1.5, 10.0)
    with Path(files["speed"]).open("a") as file:
        file.write(json.dumps({"step": 10, "seconds": 11.0, "energy_j": 7200.0}) + "\n")
    found, tree = lines(tmp_path, [files])
    assert found["a"]["energy_j"] == "7200.0"
    assert "2.00\u00a0Wh" in tree.css("table.lead")[1].text()


def test_a_training_without_a_step_has_no_cost(tmp_path: Path) -> None:
    (tmp_path / "speed.jsonl").write_text("")
    assert cost_of(None, str(tmp_path / "speed.jsonl")) == Cost() == cost_of(None, None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.95, "10 s"),
        (99.9, "100 s"),
        (99.96, "1 min 40 s"),
        (3599.6, "1 h 00 min"),
        (7260, "2 h 01 min"),
        (4_000_000, "1,111 h 07 min"),
    ],
)
def test_durations_are_told_in_two_units_at_most(seconds: float, words: str) -> None:
    assert duration(seconds).replace("\u00a0", " ") == words


def test_amounts_have_three_digits_and_a_unit() -> None:
    told = [amount(value).replace("\u00a0", " ") for value in (0, 999, 1000, 473_324, 999_600, 1_500_000_000)]
    assert told == ["0", "999", "1.00 k", "473 k", "1.00 M", "1.50 bn"]


def test_the_front_holds_what_nothing_else_beats_in_both() -> None:
    points = [
        Point("cheap", 1, 9.0),
        Point("worse and dearer", 2, 9.5),
        Point("as good and dearer", 3, 9.0),
        Point("middle", 4, 5.0),
        Point("as cheap and worse", 4, 6.0),
        Point("twin", 4, 5.0),
        Point("best", 8, 1.0),
        Point("dear", 9, 2.0),
    ]
    assert [point.name for point in front(points[::-1])] == ["cheap", "middle", "twin", "best"]
    assert front([]) == []


def test_the_front_is_drawn_named_and_told_in_words(tmp_path: Path) -> None:
    values = {"quick": (1.8, 60), "slow": (1.5, 6000), "beaten": (1.9, 600)}
    found, tree = lines(tmp_path, [trained(tmp_path, run, *pair) for run, pair in values.items()])
    words = (tree.css_first("figure svg").attributes["aria-label"] or "").replace("\u00a0", " ")
    assert words == (
        "The front of bits per byte against training time, the cheapest first: quick (60 s, 1.800), "
        "slow (1 h 40 min, 1.500). 1 of 3 runs is beaten."
    )
    assert words in tree.css_first("figcaption").text().replace("\u00a0", " ")
    assert [text.text() for text in tree.css("figure text.name")][1:] == ["quick", "slow"]
    assert len(tree.css("figure circle")) == 3
    assert len(tree.css("figure circle.best")) == 2
    assert {run: found[run]["on_front"] for run in values} == {"quick": "true", "slow": "true", "beaten": "false"}


def test_the_front_is_a_staircase_between_its_points(tmp_path: Path) -> None:
    tree = lines(tmp_path, [trained(tmp_path, run, bits, cost) for run, bits, cost in (("a", 2, 10), ("b", 1, 20))])[1]
    circles = [tuple(c.attributes[key] for key in ("cx", "cy")) for c in tree.css("figure circle")]
    (x1, y1), (x2, y2) = circles
    assert tree.css_first("path.front").attributes["d"] == f"M{x1} {y1} H{x2} V{y2}"
    assert float(x1 or 0) < float(x2 or 0)
    assert float(y1 or 0) < float(y2 or 0)  # downwards is better


def test_tokens_stand_for_the_cost_where_more_runs_know_them(tmp_path: Path) -> None:
    runs = [
        trained(tmp_path, "a", 1.8, 60.0, tokens_per_step=1000, steps=4000),
        trained(tmp_path, "b", 1.7, None, tokens_per_step=1000, steps=8000),
        trained(tmp_path, "c", 1.6, 90.0),
        trained(tmp_path, "d", 1.5, None, tokens_per_step=1000, steps=6000),
    ]
    tree = lines(tmp_path, runs)[1]
    assert "tokens trained, millions" in tree.css_first("figure svg").text()
    assert "known: c." in " ".join(tree.css_first("figcaption").text().split())


def test_times_of_several_devices_are_said_to_be_no_comparison(tmp_path: Path) -> None:
    for place, devices in enumerate((("cpu", "cpu"), ("cpu", "cuda"))):
        folder = tmp_path / str(place)
        folder.mkdir()
        runs = [trained(folder, f"r{at}", 1.5 + at, 60.0 + at, device=device) for at, device in enumerate(devices)]
        assert ("different devices" in lines(folder, runs)[1].css_first("figcaption").text()) == (place == 1)


def test_one_run_has_no_front_and_nothing_to_differ_from(tmp_path: Path) -> None:
    found, tree = lines(tmp_path, [trained(tmp_path, "a", 1.8, 60.0, config={"seed": 1})])
    assert not tree.css("figure, .changes, .verdict")
    assert found["a"]["on_front"] == found["a"]["config_reference"] == ""


def test_settings_that_differ_are_told_by_dotted_keys() -> None:
    one = {"run": "a", "seed": 1, "train": {"rate": 0.1, "lora": {}, "deep": {"x": None}}, "variants": {"b": {}}}
    other = {"run": "b", "seed": 1, "train": {"rate": 0.2, "lora": {"rank": 8}, "deep": {"x": None}, "new": [1]}}
    assert changes(one, other) == {
        "train.lora": ({}, ABSENT),
        "train.lora.rank": (ABSENT, 8),
        "train.new": (ABSENT, [1]),
        "train.rate": (0.1, 0.2),
    }
    assert flat({"a": {"b": {"c": 1}}, "d": {}}) == {"a.b.c": 1, "d": {}}
    assert changes(one, one) == {}
    assert changes({"minutes": 15, "on": True}, {"minutes": 15.0, "on": 1}) == {"on": (True, 1)}


def test_a_variant_differs_from_the_run_that_names_it_by_what_it_overrides(tmp_path: Path) -> None:
    variants = {"a-low": {"train": {"learning_rate": 1e-5}}, "lora": {"train": {"method": "lora"}, "seed": 3}}
    raw = {"run": "main", "source": {"files": ["x"]}, "model": {"base": "m"}, "variants": variants}
    runs = [trained(tmp_path, run, 1.5, config=config) for run, config in load(raw).items()]
    found, tree = lines(tmp_path, runs)
    assert {run: found[run]["config_reference"] for run in found} == {"main": "", "a-low": "main", "lora": "main"}
    assert json.loads(found["a-low"]["config_differences"]) == {
        "train.learning_rate": {"from": 5e-5, "to": 1e-5},
    }
    told = json.loads(found["lora"]["config_differences"])
    assert (told["train.method"]["to"], told["seed"]) == ("lora", {"from": 42, "to": 3})
    cells = {row.css_first("th").text(): row.css_first("td").text() for row in tree.css(".changes tbody tr")}
    assert cells["a-low"].split() == ["train.learning_rate", "5e-05", "→", "1e-05"]
    assert "main" not in cells


def test_a_seed_differs_from_its_run_and_not_from_the_reference(tmp_path: Path) -> None:
    configs = {"a": {"seed": 1, "lr": 1}, "b": {"seed": 1, "lr": 2}, "b-seed-7": {"seed": 7, "lr": 2}}
    found = lines(tmp_path, [trained(tmp_path, run, 1.5, config=config) for run, config in configs.items()])[0]
    assert {run: found[run]["config_reference"] for run in configs} == {"a": "b", "b": "", "b-seed-7": "b"}
    assert json.loads(found["b-seed-7"]["config_differences"]) == {"seed": {"from": 1, "to": 7}}


def test_settings_that_are_not_known_are_not_called_equal(tmp_path: Path) -> None:
    runs = [trained(tmp_path, "a", 1.5, config={"seed": 1}), trained(tmp_path, "b", 1.6)]
    found, tree = lines(tmp_path, runs)
    assert found["b"]["config_differences"] == ""
    assert tree.css_first(".changes tbody td").text(strip=True) == "not known"


def test_many_differences_are_folded_and_long_or_hostile_ones_cut_and_escaped(tmp_path: Path) -> None:
    config = {f"{HOSTILE}{number:02d}": HOSTILE + "x" * 100_000 for number in range(20)}
    tree = lines(tmp_path, [trained(tmp_path, "a", 1.5, config={}), trained(tmp_path, "b", 1.6, config=config)])[1]
    cell = tree.css_first(".changes tbody td")
    assert cell.css_first("summary").text() == "14 more"
    assert len(cell.css("li")) == 20
    assert len(cell.text()) < 20 * 300
    assert len(tree.css("script")) == 1
    assert not tree.css("img")


def test_sixty_runs_make_one_page_in_which_no_name_covers_another(tmp_path: Path) -> None:
    runs = [trained(tmp_path, f"run-number-{n:02d}", 2 - n / 100, 50.0 + n, config={"n": n}) for n in range(60)]
    tree = lines(tmp_path, runs)[1]
    assert len(tree.css("figure circle.best")) == 60
    names = [text for text in tree.css("figure text.name") if text.text().startswith("run-")]
    assert 3 <= len(names) <= 60
    wide = 13 * 11  # of a name, in the letters of a phone
    before = {"start": 0.0, "middle": 0.5 * wide, "end": 1.0 * wide}
    told = [{key: node.attributes[key] or "" for key in ("x", "y", "text-anchor")} for node in names]
    boxes = [(float(at["x"]) - before[at["text-anchor"]], float(at["y"])) for at in told]
    for (x1, y1), (x2, y2) in itertools.combinations(boxes, 2):
        assert abs(y2 - y1) >= 21 or abs(x2 - x1) >= wide
    assert len(tree.css(".changes tbody tr")) == 59
    assert (tmp_path / "l.html").stat().st_size < 1_000_000
