"""The drawing of the loss, and what is said of it in words."""

from __future__ import annotations

import json
import math
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from curves import draw
from snaketune.pages.charts import MOST_BUCKETS, buckets
from snaketune.pages.history import mean, read_history, verdict

SPACE = "{http://www.w3.org/2000/svg}"
PER = 20  # steps between two evaluations


def course(
    path: Path,
    validation: list[float],
    training: Callable[[float], float] = lambda share: 3.4 - share / 2,
    *,
    base: float | None = 5.0,
    noise: float = 0.0,
    per: int = PER,
) -> Path:
    """A history: the base model's evaluation, then so many steps to each of the others.

    training: the loss of a step without noise, against the share of the training that is done.
    """
    draw_number, lines, steps = random.Random(0), [], per * len(validation)
    if base is not None:
        lines.append({"step": 0, "epoch": 0.0, "eval_loss": base, "eval_accuracy": 0.2, "eval_tokens": 999})
    for number, loss in enumerate(validation, 1):
        for step in range((number - 1) * per + 1, number * per + 1):
            at = training(step / steps) + draw_number.gauss(0, noise)
            line = {"step": step, "epoch": step / 20, "loss": at, "grad_norm": 1.0, "learning_rate": 1e-4 / step}
            lines.append(line | {"tokens": 100, "trained_tokens": 50})
        share = {"eval_accuracy": 0.2 + number / 100} if math.isfinite(loss) else {}
        lines.append({"step": number * per, "epoch": 1.5, "eval_loss": loss, "eval_tokens": 999, **share})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def said(path: Path) -> str:
    """The verdict; the drawing of the same must be well-formed."""
    words = draw(str(path), f"{path}.svg")
    ET.parse(f"{path}.svg")
    assert words == verdict(read_history(path))
    return words


def test_the_curves_are_well_formed_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    path = course(tmp_path / "history.jsonl", [4.0, 3.7, 3.9])
    words = [draw(str(path), str(tmp_path / f"{i}.svg")) for i in range(2)]
    first, second = ((tmp_path / f"{i}.svg").read_bytes() for i in range(2))
    assert first == second
    root = ET.fromstring(first)
    assert root.findtext(f"{SPACE}desc") == words[0]
    texts = [node.text for node in root.findall(f"{SPACE}text")]
    assert "base model 5.000" in texts
    assert "best 3.700 at step 40" in texts
    assert "20\u00a0%" in texts, "the accuracy is a share of tokens in per cent"
    assert "learning rate, up to 10\u207b\u2074" in texts
    kinds = [node.get("class") for node in root.findall(f"{SPACE}path")]
    assert kinds == ["line train", "line valid", "line valid", "line rate"], "the second one is the accuracy"


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 3.0, "learning_rate": 1e-4} for step in (1, 2)]
    (tmp_path / "h").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert "No validation loss" in said(tmp_path / "h")
    svg = Path(f"{tmp_path}/h.svg").read_text(encoding="utf-8")
    assert "accuracy" not in svg
    assert "base model" not in svg
    assert "best" not in re.sub("<style>.*</style>", "", svg, flags=re.DOTALL)


def test_ten_thousand_steps_stay_a_small_drawing(tmp_path: Path) -> None:
    path = course(tmp_path / "history.jsonl", [4.0, 3.7, 3.9], per=10_000, noise=0.3)
    draw(str(path), str(tmp_path / "curves.svg"))
    assert (tmp_path / "curves.svg").stat().st_size < 30_000


@pytest.mark.parametrize("steps", [1, 59, 61, 300, 301, 12_345])
def test_the_line_is_the_mean_by_tokens_of_neighbouring_steps_and_its_band_their_range(
    tmp_path: Path, steps: int
) -> None:
    rng = random.Random(steps)
    lines = [{"step": s, "loss": rng.uniform(2, 4), "trained_tokens": rng.randint(1, 99)} for s in range(1, steps + 1)]
    (tmp_path / "h").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    made = buckets(read_history(tmp_path / "h"))
    assert len(made) <= MOST_BUCKETS
    assert len(made) >= min(steps, 60)
    size = math.ceil(steps / len(made))
    for number, bucket in enumerate(made):
        run = lines[number * size : (number + 1) * size]
        weight = sum(line["trained_tokens"] for line in run)
        assert bucket.mean == pytest.approx(sum(line["loss"] * line["trained_tokens"] for line in run) / weight)
        assert (bucket.low, bucket.high) == (min(r["loss"] for r in run), max(r["loss"] for r in run))
        assert bucket.step == pytest.approx(sum(line["step"] for line in run) / len(run))


def test_a_step_that_is_far_off_does_not_squash_the_curve(tmp_path: Path) -> None:
    path = course(tmp_path / "h", [3.4, 3.3], lambda share: 3.5 + 900 * (share == 0.5), per=5000, base=4.0)
    draw(str(path), str(tmp_path / "h.svg"))
    svg = (tmp_path / "h.svg").read_text(encoding="utf-8")
    heights = [float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", re.search(r'class="band" d="([^"]*)"', svg)[1])]
    assert min(heights) == 66, "the band is cut at the frame"
    assert max(heights) <= 286


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        ([4.0, 3.7, 3.5, 3.3], r"had fallen by 5\.7.% since step 60: the model was still learning"),
        ([4.0, 3.7, 3.5, 3.499], "levelled off"),
        ([4.0, 3.5, 3.51, 3.51], "stood still"),
        ([4.0, math.nan, math.nan], "not a finite number at step 40"),
        ([3.5], "one point shows no course"),
        ([], "measured for the base model only"),
    ],
)
def test_the_validation_loss_is_read_in_words(tmp_path: Path, validation: list[float], words: str) -> None:
    assert re.search(words, said(course(tmp_path / "h", validation)))


def test_learning_is_judged_over_the_last_fifth_and_not_between_two_close_evaluations(tmp_path: Path) -> None:
    slow = [4.0 - 0.015 * number for number in range(20)]  # 0.4 % an evaluation, 1.6 % in the last fifth
    assert "since step 320: the model was still learning" in said(course(tmp_path / "h", slow))


@pytest.mark.parametrize(
    ("training", "words"),
    [
        (lambda share: 3.6 - 0.4 * share, "while training loss kept falling"),
        (lambda share: 3.2 + 0.4 * share, "and so did training loss"),
        (lambda share: 3.4, "while training loss stood still"),
    ],
)
def test_a_validation_loss_that_rises_is_overfitting_only_where_training_loss_falls(
    tmp_path: Path, training: Callable[[float], float], words: str
) -> None:
    path = course(tmp_path / "h", [4.0, 3.5, 3.6, 3.9], training, noise=0.1)
    assert "then rose by 11.4\u00a0% to 3.900" in said(path)
    assert words in said(path)
    assert "the checkpoint of step 40 is kept" in said(path)


def test_what_the_training_loss_did_long_before_the_best_checkpoint_is_no_part_of_it(tmp_path: Path) -> None:
    path = course(tmp_path / "h", [4.0, 3.8, 3.5, 3.9], lambda share: 3.4 + max(0.0, 2 - 8 * share), noise=0.05)
    assert "stood still" in said(path)


def test_noise_between_single_steps_is_no_trend(tmp_path: Path) -> None:
    found = [
        "stood still" in said(course(tmp_path / f"{n}", [4.0, 3.5, 3.9], lambda _: 3.4, noise=0.5, per=20 + n))
        for n in range(20)
    ]
    assert sum(found) >= 18, "two standard errors: wrong in one of twenty"


def test_a_training_that_never_got_better_than_the_base_says_so(tmp_path: Path) -> None:
    words = said(course(tmp_path / "h", [3.5, 3.4, 3.45], base=3.3))
    assert "never fell below the base model's 3.300 (lowest: 3.400 at step 40)" in words
    assert "`train.learning_rate`" in words
    assert "% below the base" not in words
    assert "never fell" not in said(course(tmp_path / "h", [3.5, 3.4, 3.45], base=3.41))
    assert "never fell" in said(course(tmp_path / "h", [3.4], base=3.4))


def test_the_best_is_told_against_the_base_and_is_never_the_base(tmp_path: Path) -> None:
    assert "The best is 30.0\u00a0% below the base model's 5.000." in said(course(tmp_path / "h", [4.0, 3.5, 3.6]))
    history = read_history(course(tmp_path / "h", [3.5, 3.4], base=1.0))
    assert history.best == (40, 3.4)
    assert history.base == (0, 1.0)
    assert read_history(course(tmp_path / "h", [3.5, 3.4], base=None)).base is None


@pytest.mark.parametrize(
    ("training", "words"),
    [(2.9, "much better"), (3.2, "somewhat better"), (3.45, "hardly"), (3.9, "the higher one")],
)
def test_the_generalisation_gap_is_that_at_the_best_checkpoint(tmp_path: Path, training: float, words: str) -> None:
    """Training loss counts from the evaluation before the best on: after it, and before, it was another one."""
    path = course(tmp_path / "h", [4.0, 3.5, 3.9], lambda share: training if 1 / 3 < share <= 2 / 3 else 9.0)
    assert words in said(path)
    assert f"3.500 and {training:.3f}" in said(path)


def test_a_mean_and_its_error_are_weighted_by_tokens() -> None:
    assert mean([(2.0, 1), (4.0, 3)])[0] == 3.5
    alike = [2.0, 3.0, 4.0, 5.0]
    middle, error = mean([(value, 7) for value in alike])
    assert middle == 3.5
    assert error == pytest.approx(math.sqrt(sum((v - 3.5) ** 2 for v in alike) / 3 / 4))
    assert mean([(2.0, 5)]) == (2.0, 0.0)


def test_of_a_step_that_stands_twice_the_later_line_counts(tmp_path: Path) -> None:
    path = course(tmp_path / "h", [4.0, 3.7])
    with path.open("a") as file:
        file.write(json.dumps({"step": 40, "eval_loss": 3.6}) + "\n" + json.dumps({"step": 40, "loss": 1.5}) + "\n")
    history = read_history(path)
    assert history.validation[-1] == (40, 3.6)
    assert history.training[-1] == (40, 1.5)
    assert len(history.training) == len(history.weights) == 40
