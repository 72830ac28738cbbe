"""The workflow as a whole, on the micro example: what it leaves, and that its results can be trusted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

import micro
from planned_jobs import planned

EXPECTED = (
    *("ingest/rows-00000.parquet", "ingest/quarantine.parquet", "clean/rows-00000.parquet"),
    *("clean/findings-00000.parquet", "clean/effects-00000.json", "dedup/signatures-00000.parquet"),
    *("dedup/clusters.parquet", "dedup/evidence.parquet", "split/leaks.json", "split/leaks.parquet", "data.html"),
    *("split/train.parquet", "split/validation.parquet", "split/test.parquet", "ledger.parquet"),
    *("tokens/train/state.json", "tokens/validation/state.json", "tokens/test/state.json"),
    *("model/config.json", "model/model.safetensors", "model/tokenizer.json", "model/README.md"),
    *("train/history.jsonl", "train/curves.svg", "generate/base.parquet", "generate/tuned.parquet"),
    *("scores/base.parquet", "scores/tuned.parquet", "metrics.json", "report.html", "manifest.json"),
    *("probes/base.parquet", "probes/tuned.parquet", "errors.json", "judge/page.html", "judge/key.json"),
    *("judgement.json", "checks.json"),
)
METRICS = {
    *("perplexity", "perplexity_full", "bits_per_byte", "token_accuracy", "token_accuracy_top5", "entropy"),
    *("calibration_error", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum", "exact_match", "token_f1"),
    *("distinct_1", "distinct_2", "self_bleu", "repetition", "length_ratio", "prompt_overlap", "train_overlap"),
    *("general_perplexity", "general_bits_per_byte", "bias_likelihood_gap", "bias_output_difference"),
}


def edit(folder: Path, section: str, **values: object) -> None:
    """Change settings of one section."""
    config = yaml.safe_load((folder / "config/config.yaml").read_text(encoding="utf-8"))
    config.setdefault(section, {}).update(values)
    micro.write_config(folder, config)


def test_a_run_leaves_every_file_that_the_design_names(built: Path) -> None:
    assert [name for name in EXPECTED if not (built / "results/micro" / name).exists()] == []
    assert {path.name for path in (built / "results").iterdir()} >= {"leaderboard.csv", "leaderboard.html"}
    assert set(json.loads((built / "results/micro/metrics.json").read_text())["metrics"]) == METRICS


def test_the_ledger_has_a_line_for_every_raw_row(built: Path) -> None:
    ledger = pq.read_table(built / "results/micro/ledger.parquet").to_pandas()
    assert len(ledger) == len(micro.rows(48))
    assert ledger[~ledger["kept"]].set_index("stage")["rule"].to_dict() == {
        "clean": "too_short",
        "dedup": "exact_duplicate",
    }


def test_a_second_call_has_nothing_to_do(built: Path) -> None:
    said = micro.snakemake(built).stdout
    assert "Nothing to be done" in said


def test_the_terminal_shows_one_line_a_stage_and_no_library_warnings(workspace: Callable[[], Path]) -> None:
    folder = workspace()
    edit(folder, "train", learning_rate=0.02)
    said = micro.snakemake(folder).stdout.splitlines()
    stages = [line.split()[1] for line in said if line.startswith("micro ")]
    assert sorted(stages) == sorted(
        [
            *("train", "curves", "likelihood", "generate", "probe", "score", "metrics", "errors", "judge", "judgement"),
            *("report", "gate", "card", "manifest"),
        ]
    )
    assert not [line for line in said if "Warning" in line or "warn" in line]
    assert any(line.startswith("perplexity") for line in said), "the closing table"


def test_a_job_that_failed_once_is_made_good_by_the_next_call(workspace: Callable[[], Path]) -> None:
    folder = workspace()
    script = folder / "workflow/scripts/split.py"
    good = script.read_text(encoding="utf-8")
    tokens = folder / "results/micro/tokens/train.json"
    target, before = tokens.relative_to(folder).as_posix(), tokens.read_bytes()
    edit(folder, "split", train=0.6, validation=0.2, test=0.2)
    script.write_text(
        good.replace("def split(", "def split(*_):\n    raise StageError('no')\n\n\ndef unused("), "utf-8"
    )
    failed = micro.snakemake(folder, target, check=False)
    assert failed.returncode != 0
    assert "micro  split        failed: no" in failed.stdout
    script.write_text(good, encoding="utf-8")
    micro.snakemake(folder, target)
    assert tokens.read_bytes() != before
    assert "Nothing to be done" in micro.snakemake(folder, target).stdout
    due = planned(folder)
    assert not {"clean", "dedup", "split"} & set(due)
    assert {"plan", "train", "likelihood", "metrics", "report"} <= set(due), "what comes after is not forgotten"


def test_a_value_that_is_switched_back_returns_the_stored_model(workspace: Callable[[], Path]) -> None:
    folder = workspace()
    weights = folder / "results/micro/model/model.safetensors"
    first = weights.read_bytes()
    edit(folder, "train", learning_rate=0.02)
    micro.snakemake(folder, "results/micro/model/config.json")
    assert weights.read_bytes() != first
    edit(folder, "train", learning_rate=micro.CONFIG["train"]["learning_rate"])
    said = micro.snakemake(folder, "results/micro/model/config.json").stdout
    assert "from the store" in said
    assert weights.read_bytes() == first


def test_a_model_trained_from_scratch_needs_no_base(tmp_path: Path) -> None:
    folder = micro.make(tmp_path / "scratch")
    shutil.rmtree(folder / "base")
    scratch = {"vocab_size": 300, "n_positions": 64, "n_layer": 1, "n_head": 2, "n_embd": 16}
    texts = folder / "texts"
    texts.mkdir()
    for number, row in enumerate(micro.rows(30)):
        (texts / f"{number:02d}.txt").write_text(row["question"] * 3, encoding="utf-8")
    micro.write_config(
        folder,
        {
            "run": "scratch",
            "source": {"files": "texts/*.txt"},
            "model": {"from_scratch": scratch, "save_dtype": "bfloat16"},
            "train": {"max_steps": 2, "batch_size": 2, "evaluations": 1, "loss_on": "all"},
            "generate": {"max_new_tokens": 4},
            "probes": {"bias": "off", "general": "off"},
            "compare": {"resamples": 100},
        },
    )
    micro.snakemake(folder)
    metrics = json.loads((folder / "results/scratch/metrics.json").read_text())["metrics"]
    assert metrics["perplexity"]["tuned"] < metrics["perplexity"]["base"]


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ({"train": {"learnin_rate": 1}}, "Did you mean `learning_rate`?"),
        ({"source": {"files": "data/*.csv"}}, "finds no file"),
        ({"model": {"base": "nowhere"}}, "there is no such folder"),
    ],
)
def test_a_wrong_configuration_is_refused_in_a_sentence(edits: dict, says: str, workspace: Callable[[], Path]) -> None:
    folder = workspace()
    for section, values in edits.items():
        edit(folder, section, **values)
    refused = micro.snakemake(folder, check=False)
    assert refused.returncode != 0
    assert says in refused.stdout
    assert "Traceback" not in refused.stdout


def test_two_processes_train_in_one_job_even_where_the_profile_gives_one_gpu(workspace: Callable[[], Path]) -> None:
    folder = workspace()
    micro.write_config(folder, micro.CONFIG | {"train": micro.CONFIG["train"] | {"devices": 2, "learning_rate": 0.02}})
    said = micro.snakemake(folder, "results/micro/train/summary.json").stdout
    assert "parameters learn; fp32" in said, "the first process is heard"
    summary = json.loads((folder / "results/micro/train/summary.json").read_text(encoding="utf-8"))
    assert (summary["processes"], summary["parallel"]) == (2, "ddp")
