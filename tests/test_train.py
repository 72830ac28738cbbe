"""Training: what a step and an evaluation compute, and what is published."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import models
import training_runs
from snaketune.job import StageError
from snaketune.model.lm import load_model
from training_runs import Run, killed, losses

made, whole = training_runs.made, training_runs.whole  # fixtures


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=atol)


@pytest.mark.parametrize("batching", ["packed", "length_grouped", "padded"])
@pytest.mark.parametrize("attention", ["varlen", "sdpa", "eager"])
def test_one_step_is_adamw_on_the_mean_loss_of_all_trained_tokens(made, tmp_path, batching, attention):
    settings = {"max_steps": 1, "batch_size": 99, "warmup": 0, "scheduler": "constant", "weight_decay": 0.0}
    settings |= {"batching": batching, "max_grad_norm": 1e9, "learning_rate": 1e-3}
    run = Run(made, tmp_path, how={"attention": attention}, **settings)
    run()
    model = load_model(made["base"]).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    loss = losses(model, made["train"]).mean()
    loss.backward()
    gradient = {name: parameter.grad for name, parameter in model.named_parameters()}
    norm = math.sqrt(sum(float(grad.square().sum()) for grad in gradient.values()))
    optimizer.step()
    expected = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    for name, weights in run.weights.items():  # where a gradient is all rounding, Adam's first step is its sign
        sure = gradient[name].abs() > 1e-5
        torch.testing.assert_close(weights[sure], expected[name][sure], rtol=0, atol=2e-6)
    assert run.steps[0]["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert run.steps[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("batching", ["packed", "length_grouped"])
def test_the_passes_of_a_step_change_nothing_in_it(made, tmp_path, batching):
    both = {"batching": batching, "max_steps": 2, "batch_size": 4, "max_grad_norm": 0.1}
    both |= {"optimizer": "sgd", "learning_rate": 0.5}  # Adam would blow up the rounding of a gradient that is 0
    runs = [Run(made, tmp_path / str(size), how={"pass_blocks": size}, **both) for size in (4, 2, 1, 3)]
    for run in runs:
        run()
    for run in runs[1:]:
        close(run.weights, runs[0].weights, atol=1e-5)
        for mine, theirs in zip(run.steps, runs[0].steps, strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
            assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    ("loss_on", "batch_size", "batching"),
    [("completion", 1, "packed"), ("all", 3, "packed"), ("completion", 4, "length_grouped")],
)
def test_the_validation_loss_is_that_of_every_trained_token_whatever_the_batches(
    made, tmp_path, loss_on, batch_size, batching
):
    run = Run(made, tmp_path, max_steps=1, loss_on=loss_on, batch_size=batch_size, batching=batching)
    run()
    for step, folder in {0: made["base"], 1: tmp_path / "model"}.items():
        with torch.no_grad():
            expected = losses(AutoModelForCausalLM.from_pretrained(folder).eval(), made["validation"], loss_on)
        assert run.evaluated[step] == pytest.approx(expected.double().mean().item(), rel=1e-6)
    line = run.history[0]
    assert (line["step"], line["eval_tokens"]) == (0, len(expected)), "the base is measured before anything is learnt"
    assert run.summary["best_eval_loss"] == run.evaluated[1]
    if loss_on == "completion":
        assert len(expected) == models.manifest(made["validation"])["trained_tokens"]


def test_the_validation_accuracy_is_the_share_of_likeliest_tokens_that_are_right(made, tmp_path):
    run = Run(made, tmp_path, max_steps=4, evaluations=1)
    run()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    from snaketune.model.batches import Rows

    rows, right, count = Rows(made["validation"]), 0, 0
    for row, prompt in enumerate(rows.prompt_lengths.tolist()):
        ids = torch.tensor(rows[row].tolist())
        with torch.no_grad():
            likeliest = model(ids[None]).logits[0].argmax(-1)
        right += int((likeliest[prompt - 1 : -1] == ids[prompt:]).sum())
        count += len(ids) - prompt
    assert run.history[-1]["eval_accuracy"] == pytest.approx(right / count)


# A learning rate at which the few pairs are soon learnt by heart.
OVERFIT = {"learning_rate": 0.05, "warmup": 0, "max_steps": 90, "evaluations": 30, "scheduler": "constant"}


def test_the_best_checkpoint_is_saved_and_not_the_last(made, tmp_path):
    run = Run(made, tmp_path, **OVERFIT)
    run()
    scores = {step: loss for step, loss in run.evaluated.items() if step}
    best = min(scores, key=scores.__getitem__)
    assert best < max(scores) == run.summary["steps"] == 90
    assert scores[90] > scores[best] + 0.05
    assert (run.summary["best_step"], run.summary["best_eval_loss"]) == (best, scores[best])
    with torch.no_grad():
        saved = losses(AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval(), made["validation"])
    assert saved.double().mean().item() == pytest.approx(scores[best], rel=1e-6)
    assert run.summary["stopped"] == "finished"
    assert not (run.store / "checkpoints").exists(), "a finished training keeps its model alone"


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_an_averaged_training_scores_and_publishes_the_average(made, tmp_path, kind):
    plain, mean = (
        Run(made, tmp_path / name, average={"kind": name, "decay": 0.8, "start": 0.5}) for name in ("none", kind)
    )
    plain()
    mean()
    assert [line["loss"] for line in plain.steps] == [line["loss"] for line in mean.steps]
    assert plain.evaluated != mean.evaluated
    with torch.no_grad():
        saved = losses(AutoModelForCausalLM.from_pretrained(mean.folder / "model").eval(), made["validation"])
    assert saved.double().mean().item() == pytest.approx(mean.summary["best_eval_loss"], rel=1e-6)


def test_every_parameter_is_trained_and_moves(made, whole):
    start = load_file(Path(made["dropout"]) / "model.safetensors")
    count = sum(p.numel() for p in start.values())
    assert whole.summary["parameters"] == whole.summary["trainable_parameters"] == count
    assert [name for name, tensor in whole.weights.items() if torch.equal(tensor, start[name])] == []


def test_the_course_has_a_line_for_each_step_and_nothing_of_a_clock(whole):
    assert [line["step"] for line in whole.steps] == list(range(1, whole.summary["steps"] + 1))
    names = {"step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "trained_tokens"}
    assert all(line.keys() == names for line in whole.steps)
    assert sum(line["tokens"] for line in whole.steps) == whole.facts["tokens"]
    assert sum(line["trained_tokens"] for line in whole.steps) == whole.facts["trained_tokens"]
    speed = [json.loads(line) for line in (whole.folder / "speed.jsonl").read_text().splitlines()]
    assert speed[-1]["step"] == whole.summary["steps"]
    assert all(line["tokens_per_second"] > 0 and line["memory_mb"] > 0 for line in speed)


def test_samples_show_the_base_beside_the_model_at_each_evaluation(whole):
    lines = [json.loads(line) for line in (whole.folder / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [step for step in whole.evaluated for _ in range(2)]
    first = {line["row_id"]: line["output"] for line in lines if line["step"] == 0}
    assert all(line["base"] == first[line["row_id"]] for line in lines)
    assert any(line["output"] != line["base"] for line in lines)


def test_the_saved_folder_is_a_model_and_its_tokenizer(made, whole):
    folder = whole.folder / "model"
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == AutoTokenizer.from_pretrained(made["base"]).get_vocab()
    saved = json.loads((folder / "config.json").read_text())
    theirs = json.loads((Path(made["dropout"]) / "config.json").read_text())
    assert saved["use_cache"] is True
    assert {key: saved[key] for key in theirs if key in saved} | {"use_cache": theirs["use_cache"]} == {
        key: value for key, value in theirs.items() if key in saved
    }, "what served the training is not saved with the model"


@pytest.mark.parametrize("kind", ["gpt_neo", "llama"])
def test_other_architectures_train_and_save_in_bf16(made, tmp_path, kind):
    base = models.base(tmp_path / "base", kind)
    run = Run(made, tmp_path / "run", base, max_steps=3, save_dtype="bfloat16")
    run()
    assert {tensor.dtype for tensor in run.weights.values()} == {torch.bfloat16}
    assert run.evaluated[max(run.evaluated)] < run.evaluated[0]


METHODS: dict[str, dict[str, Any]] = {
    "lora": {
        "method": "lora",
        "lora": {"variant": "lora", "rank": 4, "alpha": 8, "dropout": 0.1, "targets": "auto", "save_adapter": True},
    },
    "head": {"method": "features", "features": "head"},
    "last_block": {"method": "features", "features": "last_block"},
    "freeze": {
        "method": "freeze",
        "freeze": {"first": 0, "last": None, "embeddings": True, "patterns": [], "gradual": None},
    },
}


@pytest.mark.parametrize("name", METHODS)
def test_each_method_learns_and_publishes_a_plain_model_that_scores_the_same(made, tmp_path, name):
    run = Run(made, tmp_path, **METHODS[name], learning_rate=0.05, evaluations=2)
    run()
    assert run.summary["trainable_parameters"] < run.summary["parameters"]
    model, about = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not about["missing_keys"]
    assert not about["unexpected_keys"]
    with torch.no_grad():
        saved = losses(model.eval(), made["validation"])
    assert saved.double().mean().item() == pytest.approx(run.summary["best_eval_loss"], rel=1e-5)
    assert run.summary["best_eval_loss"] < run.evaluated[0]
    start, weights = load_file(Path(made["base"]) / "model.safetensors"), run.weights
    frozen = {key for key in start if torch.equal(start[key], weights[key])}
    if name in ("head", "freeze"):
        assert {"transformer.wte.weight", "transformer.wpe.weight"} <= frozen
    assert len(frozen) < len(weights)
    assert (tmp_path / "model/adapter/adapter_config.json").exists() == (name == "lora")


def test_gradual_unfreezing_trains_the_embeddings_last(made, tmp_path, monkeypatch):
    freeze = {"first": 0, "last": None, "embeddings": False, "patterns": [], "gradual": 1.0}
    run = Run(made, tmp_path, method="freeze", freeze=freeze, max_steps=3, evaluations=3, warmup=0)
    start = load_file(Path(made["base"]) / "model.safetensors")
    killed(run, monkeypatch, 1)
    early = load_file(run.store / "checkpoints/step-00000001/learnt.safetensors")
    assert {name for name in early if not torch.equal(early[name], start[name])} == {
        name for name in start if name.startswith(("transformer.h.0.", "transformer.ln_f."))
    }, "first the block and the norm after it"
    run()
    assert [name for name in start if torch.equal(run.weights[name], start[name])] == []


def test_a_loss_that_is_no_number_stops_the_training_in_words(made, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(made["base"], base)
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.transformer.wte.weight[7] = math.nan
    model.save_pretrained(base)
    run = Run(made, tmp_path / "run", str(base))
    with pytest.raises(StageError, match=r"loss is (nan|inf) at step [01].*Lower `train.learning_rate`"):
        run()
    assert not (run.store / "done").exists()
    assert not run.checkpoints, "no ruined checkpoint is left to go on from"


def test_a_training_that_diverges_stops_and_says_where_the_last_good_weights_are(made, tmp_path):
    run = Run(made, tmp_path, learning_rate=0.9, warmup=0, max_steps=120, evaluations=40, scheduler="constant")
    with pytest.raises(StageError, match="diverges") as error:
        run()
    assert str(run.store / "checkpoints") in str(error.value)
    assert (run.store / "checkpoints").exists()
