"""The configuration is refused in sentences before anything heavy is imported; a variant redoes what it changes."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import raw_config
from snaketune import config
from snaketune.config import ConfigError
from snaketune.dag import READS, STAGE_FILES, Dag, code_of, files_of, happens, settings_of

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "workflow/scripts"


def refused(**sections: Any) -> list[str]:
    """The sentences of the refusal."""
    with pytest.raises(ConfigError) as caught:
        config.load(raw_config(**sections))
    return str(caught.value).splitlines()


@pytest.mark.parametrize("path", [ROOT / "config/config.yaml", *sorted((ROOT / "config/examples").glob("*.yaml"))])
def test_the_shipped_configurations_are_valid(path: Path) -> None:
    shipped = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert config.load(given if "source" in given else shipped | given)


@pytest.mark.parametrize(
    ("section", "wrong", "nearest"),
    [
        ("train", "learning_rat", "learning_rate"),
        ("train", "epoch", "epochs"),
        ("dedup", "treshold", "threshold"),
        ("tokenize", "maxlength", "max_length"),
    ],
)
def test_an_unknown_key_names_the_nearest_valid_one(section: str, wrong: str, nearest: str) -> None:
    (sentence,) = refused(**{section: {wrong: 1}})
    assert f"`{section}.{wrong}`" in sentence
    assert f"Did you mean `{nearest}`?" in sentence


def test_an_unknown_key_in_a_template_names_the_nearest_valid_one() -> None:
    templates = [{"completion": "x"}, {"completion": "y", "promt": "z"}]
    (sentence,) = refused(source={"files": "a.csv", "templates": templates})
    assert "`source.templates.1.promt`" in sentence
    assert "Did you mean `prompt`?" in sentence


def test_an_unknown_value_names_the_nearest_valid_one() -> None:
    (sentence,) = refused(train={"scheduler": "cosin"})
    assert "`train.scheduler` is `cosin`" in sentence
    assert "Did you mean `cosine`?" in sentence


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "epochs", "three"),
        ("train", "epochs", float("inf")),
        ("train", "epochs", float("nan")),
        ("train", "epochs", True),
        ("train", "batch_size", 1.5),
        ("train", "learning_rate", 2),
        ("clean", "html", "perhaps"),
        ("split", "train", 1.0),
        ("dedup", "threshold", 0),
        ("score", "metrics", []),
        ("score", "metrics", ["blue"]),
        ("source", "files", {"a": 1}),
    ],
)
def test_a_wrong_type_or_range_names_the_key(section: str, key: str, value: Any) -> None:
    base = {"files": "a.csv"} if section == "source" else {}
    sentences = refused(**{section: base | {key: value}})
    assert any(f"`{section}.{key}" in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"source": {}}, "name the raw data"),
        ({"source": {"package": "aclsum"}}, "name the raw data"),
        ({"source": {"hub": "a/b", "revision": "c", "files": "d.csv"}}, "`hub` stands alone"),
        ({"source": {"hub": "a/b"}}, "`hub` needs `revision`"),
        ({"source": {"files": "a.csv", "revision": "c"}}, "`revision` belongs to `hub`"),
        (
            {"source": {"files": "a.csv", "templates": [{"completion": "x"}], "columns": {"prompt": "q"}}},
            "`templates` and `columns`",
        ),
        ({"clean": {"min_chars": 5, "max_chars": 4}}, "every row would be dropped"),
        ({"split": {"train": 0.8, "validation": 0.1, "test": 0.2}}, "is 1.1, and must be 1"),
        ({"model": {}}, "name a `base`"),
        ({"model": {"base": "a", "from_scratch": {}}}, "exclude each other"),
        ({"model": {"from_scratch": {"n_embd": 10, "n_head": 4}}}, "multiple of `n_head`"),
        ({"generate": {"strategy": "beam"}}, "needs `num_beams`"),
        ({"generate": {"num_beams": 4}}, "`num_beams` belongs to"),
        ({"generate": {"temperature": 0.7}}, "belong to `strategy: sample`"),
        ({"generate": {"strategy": "beam", "num_beams": 2, "top_k": 5}}, "belong to `strategy: sample`"),
        ({"variants": {"tiny": {}}}, "has the name of the run"),
        ({"variants": {"slow": {"run": "x"}}}, "cannot set `run`"),
        ({"variants": {"Slow": {}}}, "lower-case letters"),
        ({"run": "a/b"}, "lower-case letters"),
        ({"run": "../up"}, "lower-case letters"),
    ],
)
def test_what_cannot_go_together_is_refused_in_a_sentence(sections: dict[str, Any], words: str) -> None:
    (sentence,) = refused(**sections)
    assert words in sentence


def test_all_faults_are_told_at_once_those_of_the_variants_too() -> None:
    sentences = refused(
        seed="x",
        train={"epochs": -1, "learnin_rate": 1},
        split={"train": 0.5},
        variants={"slow": {"train": {"batch_size": 0}}, "odd": {"clean": {"htlm": True}}},
    )
    keys = {sentence.split("`")[1] for sentence in sentences}
    assert keys == {
        "seed",
        "train.epochs",
        "train.learnin_rate",
        "split",
        "variants.slow.train.batch_size",
        "variants.odd.clean.htlm",
    }
    assert len(sentences) == len(keys)


def test_the_exponent_that_yaml_reads_as_text_is_a_number() -> None:
    text = "{run: a, source: {files: a.csv}, model: {base: b}, train: {learning_rate: 1e-3}}"
    raw = yaml.safe_load(text)
    assert raw["train"]["learning_rate"] == "1e-3"  # YAML 1.1 asks for a point
    assert config.load(raw)["a"]["train"]["learning_rate"] == 0.001


def test_a_variant_replaces_what_it_names_and_keeps_the_rest() -> None:
    raw = raw_config(
        train={"epochs": 7, "learning_rate": 0.1},
        score={"metrics": ["bleu", "chrf"]},
        variants={"slow": {"train": {"learning_rate": 0.01}, "score": {"metrics": ["rouge"]}}},
    )
    before = json.dumps(raw)
    run, slow = config.load(raw).values()
    assert list(config.load(raw)) == ["tiny", "slow"]
    assert (run["train"]["epochs"], run["train"]["learning_rate"]) == (7, 0.1)
    assert (slow["train"]["epochs"], slow["train"]["learning_rate"]) == (7, 0.01)
    assert slow["score"]["metrics"] == ["rouge"]
    assert slow["run"] == "slow"
    assert json.dumps(raw) == before


def test_one_variant_does_not_change_the_next() -> None:
    variants = {"a": {"train": {"epochs": 9}}, "b": {"train": {"batch_size": 2}}}
    loaded = config.load(raw_config(train={"epochs": 2}, variants=variants))
    assert loaded["b"]["train"]["epochs"] == 2


def test_a_section_under_a_name_of_the_users_own_is_checked_like_any_other() -> None:
    bounds = config.load(raw_config(checks={"my_metric": {"min": 1}}))["tiny"]["checks"]
    assert bounds == {"my_metric": {"min": 1.0, "max": None, "min_delta": None, "max_delta": None, "certain": False}}
    with pytest.raises(ConfigError, match=r"`checks.bleu.mim` is not a key. Did you mean `min`\?"):
        config.load(raw_config(checks={"bleu": {"mim": 1}}))
    with pytest.raises(ConfigError, match="set `min`, `max`, `min_delta` or `max_delta`"):
        config.load(raw_config(checks={"bleu": {"certain": True}}))


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"likelihood": {"stride": 4}}, "`stride` needs a `window`"),
        ({"likelihood": {"stride": 9, "window": 8}}, "tokens would be skipped"),
        ({"errors": {"format": "(a"}}, "is no regular expression"),
    ],
)
def test_an_evaluation_that_cannot_work_is_refused(section: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        config.load(raw_config(**section))


def test_a_wrong_configuration_is_refused_and_the_dag_asked_without_a_heavy_import() -> None:
    code = (
        "import sys; sys.path.insert(0, 'workflow/scripts')\n"
        "from snaketune import config, dag\n"
        "try: config.load({'run': 'a', 'trian': {}})\n"
        "except config.ConfigError as error: assert '`trian` is not a key' in str(error)\n"
        "else: raise SystemExit('not refused')\n"
        "heavy = {'torch', 'pandas', 'pyarrow', 'transformers', 'numpy', 'datasets', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# What a variant owns


def owned(change: dict[str, Any], **run: Any) -> set[str]:
    dag = Dag(config.load(raw_config(**run, variants={"other": change})), ROOT)
    return {stage for stage in STAGES if dag.owns("other", stage)}


STAGES = set(READS) - {"spread", "trial"}  # which seeds, folds and searches have
BEFORE_SPLIT = {"ingest", "clean", "sign", "dedup", "decontaminate"}
AFTER_SPLIT = STAGES - BEFORE_SPLIT - {"base", "probe_base"}
TOKENS_ON = AFTER_SPLIT - {"split", "augment", "leaks"}
SHOWN = {"report", "gate", "card", "manifest"}  # and whatever changes, the settings stand in them
REPORTED = {"metrics"} | SHOWN
JUDGED = {"judge", "judgement"}
ANSWERED = {"generate_base", "generate_tuned"} | JUDGED
SCORED = {"score_base", "score_tuned", "errors"}
TRAINED = {"train", "curves", "likelihood_tuned", "generate_tuned", "score_tuned", "probe_tuned", "errors"} | JUDGED


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({}, set()),
        ({"train": {"learning_rate": 0.01}}, TRAINED | REPORTED),
        ({"seed": 1}, AFTER_SPLIT),
        ({"split": {"train": 0.7, "test": 0.2}}, AFTER_SPLIT),
        ({"clean": {"min_chars": 3}}, AFTER_SPLIT | {"clean", "sign", "dedup", "decontaminate"}),
        ({"annotate": {"files": ["a.json"]}}, AFTER_SPLIT | BEFORE_SPLIT - {"ingest"}),
        ({"dedup": {"threshold": 0.7}}, AFTER_SPLIT | {"dedup"}),
        ({"dedup": {"bands": 20}}, AFTER_SPLIT | {"sign", "dedup"}),
        ({"decontaminate": {"files": ["a.csv"]}}, AFTER_SPLIT | {"decontaminate"}),
        ({"leaks": {"near": "report"}}, {"leaks", "data"} | REPORTED),
        ({"augment": [{"method": "swap"}]}, AFTER_SPLIT - {"split"}),
        ({"source": {"files": "other/*.csv"}}, STAGES - {"base", "probe_base"}),
        ({"tokenize": {"max_length": 8}}, TOKENS_ON),
        ({"model": {"base": "other"}}, TOKENS_ON | {"base", "probe_base"}),
        ({"generate": {"max_new_tokens": 3}}, ANSWERED | SCORED | REPORTED),
        ({"score": {"metrics": ["bleu"]}}, SCORED | REPORTED),
        ({"compare": {"resamples": 200}}, REPORTED | {"errors"}),
        ({"generate": {"few_shot": 2}}, ANSWERED - {"generate_tuned"} | SCORED - {"score_tuned"} | REPORTED),
        ({"probes": {"bias": "off"}}, {"probe_base", "probe_tuned"} | REPORTED),
        ({"errors": {"rows": 2}}, {"errors"} | SHOWN),
        ({"judge": {"rows": 2}}, JUDGED | SHOWN),
        ({"checks": {"bleu": {"min": 1}}}, SHOWN),
    ],
)
def test_a_variant_owns_the_stages_from_the_first_that_it_changes(change: dict[str, Any], stages: set[str]) -> None:
    assert owned(change) == stages


def test_the_seed_of_a_model_from_scratch_makes_a_base_of_its_own() -> None:
    assert "base" in owned({"seed": 1}, model={"from_scratch": {}})


def test_every_stage_that_is_read_has_files() -> None:
    assert set(STAGE_FILES) == set(READS)
    assert {earlier for stages in READS.values() for earlier in stages} <= set(READS)


def test_each_setting_that_changes_the_rows_is_read_by_exactly_its_stage() -> None:
    given = config.load(raw_config())["tiny"]
    assert "seed" not in settings_of(given, "clean") | settings_of(given, "dedup") | settings_of(given, "tokens")
    assert settings_of(given, "split")["seed"] == settings_of(given, "train")["seed"] == 42
    assert settings_of(given, "clean")["annotations"] == []
    assert "shard_mb" not in settings_of(given, "ingest")  # how rows are dealt to jobs changes no row


def test_the_optional_stages_happen_where_their_settings_ask_for_them() -> None:
    asked = {"decontaminate": {"files": "a.csv"}, "augment": [{"method": "swap"}], "model": {"from_scratch": {}}}
    for given, expected in ((raw_config(), False), (raw_config(**asked), True)):
        dag = Dag(config.load(given), ROOT)
        dag._raw["tiny"] = {"00000": []}
        made = {Path(path).parent.name for path in dag.outputs()}
        for stage, folder in {"decontaminate": "decontaminate", "augment": "augment", "base": "base"}.items():
            assert happens(dag.settings["tiny"], stage) is expected
            assert (folder in made) is expected
        assert dag.train_rows("tiny").split("/")[-2] == ("augment" if expected else "split")


def test_every_shard_and_every_part_is_asked_for() -> None:
    dag = Dag(config.load(raw_config(tokenize={"shards": 2})), ROOT)
    dag._raw["tiny"] = {"00000": [], "00001": []}
    made = {path.removeprefix("results/tiny/") for path in dag.outputs()}
    assert {"clean/rows-00000.parquet", "clean/rows-00001.parquet", "split/test.parquet"} <= made
    assert {f"tokens/{split}/data-{part}.arrow" for split in ("train", "test") for part in ("00000", "00001")} <= made


def test_files_beside_the_rows_are_found_or_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one.json", "two.json", "words.txt"):
        (tmp_path / name).touch()
    sections = {"annotate": {"files": ["*.json", "one.json"]}, "clean": {"toxicity": {"action": "report"}}}
    found = files_of(config.load(raw_config(**sections))["tiny"], "clean", ROOT)
    assert found["annotations"] == ["one.json", "two.json"]
    assert [Path(path).name for path in found["toxicity"]] == ["toxicity.txt"]
    assert found["dictionary"] == found["identity_terms"] == []
    with pytest.raises(ConfigError, match=r"`decontaminate.files`: `none/\*.csv` finds no file"):
        files_of(config.load(raw_config(decontaminate={"files": "none/*.csv"}))["tiny"], "decontaminate", ROOT)


# Which code a stage uses


def test_the_code_of_a_script_follows_its_imports_through_modules(tmp_path: Path) -> None:
    (tmp_path / "snaketune").mkdir()
    files = {
        "stage.py": "import os\nfrom snaketune import one\n",
        "snaketune/one.py": "def f():\n    from snaketune.two import g\n",
        "snaketune/two.py": "import snaketune.three as t\n",
        "snaketune/three.py": "import helper\n",
        "snaketune/unused.py": "",
        "helper.py": "import stage\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = {path.relative_to(tmp_path).as_posix() for path in code_of(tmp_path / "stage.py")}
    assert found == set(files) - {"snaketune/unused.py"}


def test_the_code_of_deduplicate_is_what_python_loads_for_it() -> None:
    code = (
        "import sys; sys.path.insert(0, 'workflow/scripts'); import deduplicate\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('snaketune.') or n == 'deduplicate'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {path for name in done.stdout.split() if (path := Path(name)).name != "__init__.py"}  # these hold no code
    assert set(code_of(SCRIPTS / "deduplicate.py")) == loaded
