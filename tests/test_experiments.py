"""Seeds, folds, searches and chains: which runs there are, what they share, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import raw_config
from snaketune import config
from snaketune.config import ConfigError
from snaketune.dag import READS, Dag, settings_of
from snaketune.runs import generations

ROOT = Path(__file__).parent.parent
SPACE = {"train.learning_rate": {"low": 1e-5, "high": 5e-5, "log": True}, "train.batch_size": [8, 16]}


def dag_of(tmp_path: Path = Path("results"), **sections: Any) -> Dag:
    """The runs of a configuration; its results stand in `tmp_path`."""
    return Dag(config.load(raw_config(**sections)), ROOT, tmp_path)


def owned(dag: Dag, name: str) -> set[str]:
    return {stage for stage in READS if dag.owns(name, stage)}


def test_every_seed_and_fold_of_every_variant_is_a_run_of_its_own() -> None:
    dag = dag_of(seeds=[1, 7], folds=3, variants={"slow": {"train": {"learning_rate": 1e-6}, "folds": 0}})
    assert dag.names == [
        *("tiny", "slow", "tiny-seed-1", "tiny-seed-7", "tiny-fold-0", "tiny-fold-1", "tiny-fold-2"),
        *("slow-seed-1", "slow-seed-7"),
    ]
    assert (
        dag.settings["tiny-fold-2"]["split"] | {"method": "k-fold", "folds": 3, "fold": 2}
        == (dag.settings["tiny-fold-2"]["split"])
    )
    assert (dag.settings["slow-seed-7"]["seeds"], dag.settings["slow-seed-7"]["folds"]) == ([], 0)


def test_a_seed_shares_the_data_the_tokens_and_what_the_base_says() -> None:
    dag = dag_of(seeds=[7])
    assert owned(dag, "tiny-seed-7") & {"tokens", "split", "likelihood_base", "generate_base", "score_base"} == set()
    assert owned(dag, "tiny-seed-7") >= {"plan", "train", "likelihood_tuned", "metrics"}
    assert settings_of(dag.settings["tiny-seed-7"], "train")["seed"] == 7
    assert settings_of(dag.settings["tiny-seed-7"], "generate_base")["seed"] == 42


def test_the_runs_own_seed_among_the_seeds_trains_nothing_anew() -> None:
    assert "train" not in owned(dag_of(seeds=[42]), "tiny-seed-42")


def test_a_fold_shares_the_data_up_to_the_split() -> None:
    mine = owned(dag_of(folds=3), "tiny-fold-1")
    assert not mine & {"ingest", "clean", "sign", "dedup", "base", "probe_base"}
    assert mine >= {"split", "tokens", "train", "score_base", "metrics"}


def test_a_child_shares_with_its_variant_what_the_variant_has_of_its_own() -> None:
    dag = dag_of(variants={"other": {"source": {"files": "other/*.csv"}, "seeds": [1]}})
    assert dag.owner("other-seed-1", "clean") == "other"
    assert dag.owner("other-seed-1", "train") == "other-seed-1"


def test_a_variant_does_not_change_what_the_others_read() -> None:
    alone, beside = (config.load(raw_config(variants=variants)) for variants in ({}, {"a": {"train": {"epochs": 9}}}))
    for stage in READS:
        assert settings_of(alone["tiny"], stage) == settings_of(beside["tiny"], stage), stage


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"folds": 2}, "3 are needed"),
        ({"seeds": [1, 1]}, "names one twice"),
        ({"seeds": [1], "variants": {"tiny-seed-1": {}}}, "has the name of a run of `seeds` or `folds`"),
        ({"tune": {"space": {"train.learnin_rate": [1]}}}, "Did you mean `learning_rate`?"),
        ({"tune": {"space": {"train.learning_rate": {"low": 0.1, "high": 2.0}}}}, "less than 1"),
        ({"tune": {"space": {"split.train": [1]}}}, "cannot be searched"),
        ({"tune": {"method": "grid", "space": SPACE}}, "of which a grid needs single values"),
    ],
)
def test_what_cannot_be_an_experiment_is_refused(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        config.load(raw_config(**sections))


# A search


def search(folder: Path, **changes: Any) -> Dag:
    return dag_of(folder, tune={"space": SPACE, "trials": 5, "generation": 2} | changes)


def proposed(folder: Path, generation: int, values: dict[int, dict[str, Any]]) -> None:
    path = folder / f"tiny/tune/generation-{generation:02d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    trials = [{"number": number, "values": chosen} for number, chosen in values.items()]
    path.write_text(json.dumps({"generation": generation, "trials": trials, "bounds": []}))


def test_the_trials_are_dealt_to_generations() -> None:
    assert generations(search(Path("none")).settings["tiny"]) == [[0, 1], [2, 3], [4]]
    grid = {"method": "grid", "space": {"train.epochs": [1, 2, 3]}}
    assert generations(search(Path("none"), **grid).settings["tiny"]) == [[0, 1], [2]]


def test_a_trial_is_what_its_generation_proposes_and_shares_the_rest(tmp_path: Path) -> None:
    dag = search(tmp_path)
    proposed(tmp_path, 1, {2: {"train.batch_size": 16}, 3: {"train.learning_rate": 2e-5}})
    assert dag.settings["tiny-trial-002"]["train"]["batch_size"] == 16
    assert dag.settings["tiny-trial-003"]["train"]["learning_rate"] == 2e-5
    assert dag.settings["tiny-trial-003"]["tune"] is None
    assert dag.owner("tiny-trial-003", "tokens") == "tiny"
    assert dag.owns("tiny-trial-003", "trial")
    assert (dag.settings.generation("tiny-trial-003"), dag.settings.number("tiny-trial-003")) == (1, 3)


def test_a_generation_that_is_made_anew_is_read_anew(tmp_path: Path) -> None:
    dag = search(tmp_path)
    for size in (8, 16):
        proposed(tmp_path, 0, {0: {"train.batch_size": size}, 1: {}})
        assert dag.settings["tiny-trial-000"]["train"]["batch_size"] == size


def test_a_value_that_the_configuration_refuses_is_told(tmp_path: Path) -> None:
    proposed(tmp_path, 0, {0: {"train.batch_size": 0}, 1: {}})
    with pytest.raises(ConfigError, match="leads to a configuration that is refused"):
        _ = search(tmp_path).settings["tiny-trial-000"]


def test_the_best_run_has_all_stages_and_a_trial_has_none_of_them(tmp_path: Path) -> None:
    dag = search(tmp_path)
    dag._raw["tiny"] = {"00000": []}
    (tmp_path / "tiny/tune").mkdir(parents=True)
    (tmp_path / "tiny/tune/best.json").write_text(json.dumps({"number": 0, "values": {"train.batch_size": 16}}))
    made = dag.outputs(["tiny-best"])
    assert "results/tiny-best/metrics.json" in made
    assert not [path for path in made if "trial" in path or path.startswith("results/tiny/")]
    assert not [path for path in dag.outputs() if "trial" in path]


# A chain


def test_the_base_of_a_run_can_be_the_model_of_another() -> None:
    field = {"field": {"model": {"base": "resources/tiny-gpt"}, "source": {"files": "texts/*.txt"}}}
    dag = dag_of(model={"base": {"run": "field"}}, variants=field)
    folder, files = dag.base("tiny")
    assert folder == "results/field/model"
    assert "results/field/model/model.safetensors" in files
    assert dag.base("field")[0].endswith("resources/tiny-gpt")
    assert settings_of(dag.settings["tiny"], "train")["base_name"] == "run field"


@pytest.mark.parametrize(
    ("base", "variants", "says"),
    [
        ({"run": "nowhere"}, {}, "is `nowhere`, which is no run"),
        ({"run": "tiny"}, {}, "tiny needs tiny"),
        (
            {"run": "a"},
            {"a": {"model": {"base": {"run": "b"}}}, "b": {"model": {"base": {"run": "a"}}}},
            "begin elsewhere",
        ),
        ({"run": "a"}, {"a": {"train": {"epochs": 1}}}, "begin elsewhere"),
    ],
)
def test_a_chain_that_has_no_beginning_is_refused(base: dict[str, str], variants: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dag_of(model={"base": base}, variants=variants).base("tiny")
