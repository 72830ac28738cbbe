"""The space of a search: what is accepted, what it holds, and what is laid over the configuration."""

import json
import math
import re

import pytest
import yaml

from snaketune.tune.space import grid, number_of, override, parse, size_of, trials_of, with_values

RATE = "train.learning_rate"


def test_a_list_and_a_mapping_of_values_and_what_the_schema_fills_in_are_the_same() -> None:
    filled = {"values": [1, 2], "low": None, "high": None, "step": None, "log": False}
    assert parse({RATE: [1, 2]}) == parse({RATE: {"values": [1, 2]}}) == parse({RATE: filled})


def test_numbers_that_yaml_reads_as_texts_are_numbers() -> None:
    read = yaml.safe_load("{train.learning_rate: [1e-5, 3E-5, 1.e4], train.scheduler: [linear, 'e5', '12']}")
    assert read[RATE] == ["1e-5", "3E-5", "1.e4"], "or the test shows nothing"
    space = parse(read)
    assert space[RATE].values == (1e-5, 3e-5, 1e4)
    assert space["train.scheduler"].values == ("linear", "e5", "12")
    ends = parse({RATE: yaml.safe_load("{low: 1e-6, high: 1e-4, log: true}")})[RATE]
    assert (ends.low, ends.high) == (1e-6, 1e-4)
    assert number_of(None) is None


def test_a_range_of_whole_numbers_has_whole_numbers_and_any_other_has_not() -> None:
    whole, other = parse({"train.epochs": {"low": 1, "high": 3}, "train.warmup": {"low": 0, "high": 0.5}}).values()
    assert [whole.at(share) for share in (0, 0.32, 0.34, 0.66, 0.67, 0.999)] == [1, 1, 2, 2, 3, 3]
    assert all(isinstance(whole.at(share / 10), int) for share in range(10))
    assert (other.at(0), other.at(0.5), type(other.at(0))) == (0.0, 0.25, float)
    assert (whole.size, other.size) == (3, math.inf)


def test_on_a_log_scale_equal_shares_are_equal_factors() -> None:
    rate = parse({RATE: {"low": 1e-6, "high": 1e-2, "log": True}})[RATE]
    assert [rate.at(share) for share in (0, 0.25, 0.5, 0.75)] == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3])
    assert all(float(f"{rate.at(share / 97):.6g}") == rate.at(share / 97) for share in range(97))
    assert rate.rounded(0.0123456789 / 10) == 0.00123457
    assert rate.rounded(0.0099999999) == 1e-2
    size = parse({"train.batch_size": {"low": 4, "high": 64, "log": True}})["train.batch_size"]
    assert (size.at(0), size.at(0.999999)) == (4, 64)


def test_steps_are_those_of_decimal_numbers_and_end_at_the_last_that_fits() -> None:
    space = parse(
        {"train.warmup": {"low": 0.1, "high": 0.65, "step": 0.1}, "train.epochs": {"low": 1, "high": 6, "step": 2}}
    )
    assert space["train.warmup"].values == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    assert space["train.epochs"].values == (1, 3, 5)
    assert all(isinstance(value, int) for value in space["train.epochs"].values)
    small = parse({RATE: {"low": "1e-5", "high": "3e-5", "step": "1e-5"}})[RATE]
    assert small.values == (1e-5, 2e-5, 3e-5)


def test_a_grid_is_the_whole_product_in_one_order_whatever_the_order_of_the_keys() -> None:
    given = {"train.warmup": {"low": 0, "high": 2, "step": 1}, RATE: ["1e-3", 1e-4], "model.save_dtype": ["float32"]}
    found = grid(given)
    assert found == grid(dict(reversed(given.items())))
    assert [(values[RATE], values["train.warmup"]) for values in found] == [
        *[(1e-3, warmup) for warmup in (0, 1, 2)],
        *[(1e-4, warmup) for warmup in (0, 1, 2)],
    ]
    assert {values["model.save_dtype"] for values in found} == {"float32"}
    assert json.loads(json.dumps(found)) == found


def test_values_may_be_of_any_kind() -> None:
    targets = {"train.lora.targets": ["auto", ["c_attn"], ["c_attn", "c_proj"]], "train.early_stopping": [None, 2]}
    assert len(grid(targets)) == 6
    assert grid(targets)[1] == {"train.early_stopping": None, "train.lora.targets": ["c_attn"]}


def test_the_trials_of_a_search_are_never_more_than_there_are_configurations() -> None:
    small = {RATE: [1e-5, 1e-4], "train.epochs": {"low": 1, "high": 3}}
    assert size_of(parse(small)) == 6
    assert trials_of({"trials": 12, "space": small}) == 6
    assert trials_of({"trials": 5, "space": small}) == 5
    assert trials_of({"trials": 12, "space": small | {"train.warmup": {"low": 0.0, "high": 0.1}}}) == 12


def test_an_override_is_nested_and_laid_over_changes_nothing_else() -> None:
    assert override({RATE: 1e-5, "train.lora.rank": 4, "tokenize.max_length": 64}) == {
        "train": {"learning_rate": 1e-5, "lora": {"rank": 4}},
        "tokenize": {"max_length": 64},
    }
    settings = {"run": "r", "train": {"epochs": 1, "lora": {"rank": 8, "alpha": 16}}, "model": {"from_scratch": None}}
    changed = with_values(settings, {"train.lora.rank": 4, "model.from_scratch.n_layer": 2})
    assert changed["train"] == {"epochs": 1, "lora": {"rank": 4, "alpha": 16}}
    assert changed["model"] == {"from_scratch": {"n_layer": 2}}
    assert settings["train"]["lora"]["rank"] == 8


REFUSED = {
    "empty": ({}, "names no key"),
    "another section": (
        {"clean.min_chars": [1]},
        "`clean.min_chars` cannot be searched; keys of model, tokenize, train",
    ),
    "a section": ({"train": [1]}, "`train` cannot be searched"),
    "no name": ({"train..x": [1]}, "cannot be searched"),
    "a key within a key": ({"train.lora": [{}], "train.lora.rank": [1]}, "`train.lora` holds `train.lora.rank`"),
    "a number": ({RATE: 1e-5}, "`train.learning_rate` has `1e-05`; give a list of values, or `low` and `high`"),
    "an unknown word": ({RATE: {"low": 1, "high": 2, "min": 3}}, "has `min`"),
    "both": ({RATE: {"values": [1], "low": 1, "high": 2}}, "has `values` and `high`; remove one"),
    "no values": ({RATE: []}, "must be a list with at least one value"),
    "a value twice": ({RATE: ["1e-5", 0.00001]}, "lists a value twice"),
    "one end": ({RATE: {"low": 1}}, "needs `low` and `high`"),
    "ends the wrong way": ({RATE: {"low": 2, "high": 1}}, "`low` (2) must be below `high` (1)"),
    "no number": ({RATE: {"low": "a", "high": 1}}, "`low` is `a`, and must be a number"),
    "a truth": ({RATE: {"low": 0, "high": True}}, "`high` is `True`, and must be a number"),
    "not finite": ({RATE: {"low": 0, "high": math.inf}}, "must be a number"),
    "a log of zero": ({RATE: {"low": 0, "high": 1, "log": True}}, "`log` needs a `low` above 0"),
    "log and step": ({RATE: {"low": 1, "high": 2, "log": True, "step": 1}}, "and no `step`"),
    "a step back": ({RATE: {"low": 1, "high": 2, "step": -1}}, "`step` (-1) must be above 0"),
    "tiny steps": ({RATE: {"low": 0, "high": 1, "step": 1e-9}}, "has 1,000,000,001 values"),
}


@pytest.mark.parametrize(("given", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_space_is_refused_in_words(given, said) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        parse(given)
    assert not str(error.value).endswith("."), "the configuration's sentence ends it"


def test_a_grid_needs_single_values_and_not_too_many() -> None:
    with pytest.raises(ValueError, match=r"`train.learning_rate` is a range.*give `step`, or a list"):
        grid({RATE: {"low": 1e-5, "high": 1e-4, "log": True}})
    with pytest.raises(ValueError, match="a grid of 1,000,000 configurations"):
        grid({f"train.{name}": list(range(100)) for name in "abc"})
