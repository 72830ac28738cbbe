"""Training: what a step and an evaluation compute, and that no interruption shows in the result."""

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
import train as stage
from snaketune.job import StageError
from snaketune.model.batches import Rows
from snaketune.model.lm import load_model
from snaketune.model.trainer import Finite, Live
from train import fingerprint, train

SETTINGS = {
    "epochs": 2,
    "max_steps": None,
    "learning_rate": 0.01,
    "scheduler": "linear",
    "warmup": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "batching": "packed",
    "batch_size": 2,
    "gradient_accumulation": 1,
    "loss_on": "completion",
    "precision": "fp32",
    "evaluations": 5,
    "early_stopping": None,
    "seed": 5,
    "trust_remote_code": False,
    "save_dtype": "float32",
    "max_length": 32,
}


class Killed(BaseException):
    """What a test raises in the middle of a training."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A base model without and one with dropout, and the tokens of both splits."""
    folder = tmp_path_factory.mktemp("train")
    base = models.base(folder / "base")
    return {
        "base": base,
        "dropout": models.base(folder / "dropout", dropout=0.2),
        "train": models.tokens(models.pairs(22), base, folder / "tokens", "train"),
        "validation": models.tokens(models.pairs(7, seed=9), base, folder / "tokens", "validation"),
    }


class Run:
    """One training in a folder of its own."""

    def __init__(self, made: dict[str, Any], folder: Path, base: str = "base", **settings: Any) -> None:
        self.folder, self.store = folder, folder / "store/one"
        self.store.mkdir(parents=True, exist_ok=True)
        self.settings = SETTINGS | settings
        names = {"config": "model/config.json", "history": "history.jsonl", "summary": "summary.json"}
        outputs = {name: str(folder / path) for name, path in names.items()}
        tokens = {name: made[name] for name in ("train", "validation")}
        self.arguments = (tokens, made.get(base, base), outputs, self.store, self.settings)

    def __call__(self) -> str:
        return train(*self.arguments, gpus=0, threads=1)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "model/model.safetensors")

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def history(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.folder / "history.jsonl").read_text().splitlines()]

    @property
    def checkpoints(self) -> list[int]:
        return sorted(int(path.name[11:]) for path in self.store.glob("checkpoints/checkpoint-*"))

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.folder / "model")): p.read_bytes() for p in (self.folder / "model").rglob("*")}


def same(one: Run, other: Run) -> None:
    """Two trainings ended with the same bytes: weights, history, summary."""
    assert one.files() == other.files()
    assert one.history == other.history
    assert one.summary == other.summary


def killed(run: Run, monkeypatch: pytest.MonkeyPatch, event: str, step: int) -> Run:
    """A training that died at an event of its callbacks, once a step was reached."""

    def die(self: Live, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Live, event, die, raising=False)
        with pytest.raises(Killed):
            run()
    return run


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=atol)


def losses(model: torch.nn.Module, folder: str, loss_on: str = "completion") -> torch.Tensor:
    """The losses of all trained tokens of a split, document by document."""
    rows = Rows(folder)
    skip = [max(1, prompt) if loss_on == "completion" else 1 for prompt in rows.prompt_lengths.tolist()]
    return torch.cat([models.document_losses(model, rows[n].tolist())[skip[n] - 1 :] for n in range(len(rows))])


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory) -> Run:
    """A training with dropout that nothing interrupted."""
    run = Run(made, tmp_path_factory.mktemp("whole"), "dropout")
    run()
    return run


def test_one_step_is_adamw_on_the_mean_loss_of_all_trained_tokens(made, tmp_path):
    settings = {"max_steps": 1, "batch_size": 99, "warmup": 0, "scheduler": "constant", "weight_decay": 0.0}
    run = Run(made, tmp_path, **settings, max_grad_norm=1e9, learning_rate=1e-3)
    run()
    model = load_model(made["base"]).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    loss = losses(model, made["train"]).mean()
    loss.backward()
    optimizer.step()
    expected = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    gradient = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, weights in run.weights.items():  # where a gradient is all rounding, Adam's first step is its sign
        sure = gradient[name].abs() > 1e-5
        torch.testing.assert_close(weights[sure], expected[name][sure], rtol=0, atol=2e-6)
    assert run.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("batching", ["packed", "length_grouped"])
def test_two_passes_of_two_make_the_weights_of_one_pass_of_four(made, tmp_path, batching):
    both = {"batching": batching, "max_steps": 1, "max_grad_norm": 0.1}
    if batching == "packed":  # an epoch of one step, so that both orders give the same tokens
        blocks = len(stage._plan(Rows(made["train"]).lengths, SETTINGS))
        shapes = [(blocks, 1), (-(-blocks // 2), 2), (1, blocks)]
    else:
        shapes = [(22, 1), (11, 2), (2, 11)]
    runs = [
        Run(made, tmp_path / str(n), batch_size=size, gradient_accumulation=passes, **both)
        for n, (size, passes) in enumerate(shapes)
    ]
    for run in runs:
        run()
    for run in runs[1:]:
        close(run.weights, runs[0].weights, atol=1e-5)
        assert run.history[0]["loss"] == pytest.approx(runs[0].history[0]["loss"], rel=1e-5)
        assert run.history[0]["grad_norm"] == pytest.approx(runs[0].history[0]["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    ("loss_on", "batch_size", "batching"),
    [("completion", 1, "packed"), ("all", 3, "packed"), ("completion", 4, "length_grouped")],
)
def test_the_validation_loss_is_that_of_every_trained_token_whatever_the_batches(
    made, tmp_path, loss_on, batch_size, batching
):
    run = Run(made, tmp_path, max_steps=1, loss_on=loss_on, batch_size=batch_size, batching=batching)
    run()
    with torch.no_grad():
        expected = losses(AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval(), made["validation"], loss_on)
    line = next(line for line in run.history if "eval_loss" in line)
    assert line["eval_tokens"] == len(expected)
    assert line["eval_loss"] == pytest.approx(expected.double().mean().item(), rel=1e-6)
    assert run.summary["best_eval_loss"] == line["eval_loss"]
    if loss_on == "completion":
        assert len(expected) == models.manifest(made["validation"])["trained_tokens"]


@pytest.mark.parametrize("step", [4, 14], ids=["in the first epoch", "in the second"])
def test_a_training_that_was_killed_ends_as_if_nothing_had_been(made, tmp_path, monkeypatch, whole, step):
    run = killed(Run(made, tmp_path, "dropout"), monkeypatch, "on_step_end", step)
    left = run.checkpoints
    assert left, "it was killed after a checkpoint"
    assert left[-1] < whole.summary["steps"]
    epoch = len(stage._plan(Rows(made["train"]).lengths, SETTINGS)) / 2
    assert (left[-1] < epoch) == (step == 4)
    run()
    same(run, whole)
    assert not run.checkpoints


@pytest.mark.parametrize("event", ["on_save", "on_train_end"])
def test_a_training_that_was_killed_at_its_last_step_takes_no_other(made, tmp_path, monkeypatch, event):
    # 5 steps, in the middle of the second epoch.
    plain = Run(made, tmp_path / "plain", max_steps=5)
    plain()
    run = killed(Run(made, tmp_path / "killed", max_steps=5), monkeypatch, event, 5)
    assert run.checkpoints[-1] == 5
    run()
    same(run, plain)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty folder"])
def test_a_checkpoint_that_was_cut_off_is_discarded(made, tmp_path, monkeypatch, whole, damage):
    run = killed(Run(made, tmp_path, "dropout"), monkeypatch, "on_step_end", 6)
    newest = run.store / f"checkpoints/checkpoint-{run.checkpoints[-1]}"
    cut = newest.with_name(f"checkpoint-{run.checkpoints[-1] + 1}")
    shutil.copytree(newest, cut)
    state = cut / "trainer_state.json"
    if damage == "missing":
        state.unlink()
    elif damage == "truncated":
        state.write_text(state.read_text()[:200])
    else:
        shutil.rmtree(cut)
        cut.mkdir()
    run()
    same(run, whole)


# A learning rate at which the few pairs are soon learnt by heart.
OVERFIT = {"learning_rate": 0.05, "warmup": 0, "max_steps": 90, "evaluations": 30, "scheduler": "constant"}


def test_the_best_checkpoint_is_saved_and_not_the_last(made, tmp_path):
    run = Run(made, tmp_path, **OVERFIT)
    run()
    scores = {line["step"]: line["eval_loss"] for line in run.history if "eval_loss" in line}
    best = min(scores, key=scores.__getitem__)
    assert best < max(scores) == run.summary["steps"] == 90
    assert scores[90] > scores[best] + 0.05
    assert (run.summary["best_step"], run.summary["best_eval_loss"]) == (best, scores[best])
    with torch.no_grad():
        saved = losses(AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval(), made["validation"])
    assert saved.double().mean().item() == pytest.approx(scores[best], rel=1e-6)
    assert run.summary["stopped"] == "finished"


def test_without_its_best_checkpoint_a_training_starts_afresh(made, tmp_path, monkeypatch):
    plain = Run(made, tmp_path / "plain", **OVERFIT)
    plain()
    run = killed(Run(made, tmp_path / "killed", **OVERFIT), monkeypatch, "on_step_end", 88)
    assert len(run.checkpoints) == 2
    assert run.checkpoints[0] == plain.summary["best_step"]
    shutil.rmtree(run.store / f"checkpoints/checkpoint-{run.checkpoints[0]}")
    run()
    same(run, plain)


@pytest.mark.parametrize("killed_at", ["between two evaluations", "after the decision to stop"])
def test_the_patience_of_early_stopping_survives_a_kill(made, tmp_path, monkeypatch, killed_at):
    settings = OVERFIT | {"early_stopping": 2}
    plain = Run(made, tmp_path / "plain", **settings)
    plain()
    evaluated = [line["step"] for line in plain.history if "eval_loss" in line]
    assert plain.summary["stopped"] == "early"
    assert evaluated[-1] - plain.summary["best_step"] == 6, "two evaluations of three steps without a better loss"
    run = Run(made, tmp_path / "killed", **settings)
    if killed_at == "between two evaluations":
        killed(run, monkeypatch, "on_step_begin", plain.summary["best_step"] + 4)
    else:
        killed(run, monkeypatch, "on_train_end", 0)
    run()
    same(run, plain)


def test_a_finished_training_is_handed_back_and_not_repeated(made, tmp_path):
    run = Run(made, tmp_path, max_steps=2)
    first = run()
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in run.store.rglob("*.*")}
    files = run.files()
    shutil.rmtree(tmp_path / "model")
    shutil.move(made["train"], made["train"] + "-away")  # whoever trained now would miss it
    try:
        again = run()
    finally:
        shutil.move(made["train"] + "-away", made["train"])
    assert again == f"{first} (from the store: trained before)"
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in run.store.rglob("*.*")} == before
    assert run.files() == files


def test_checkpoints_that_a_kill_left_in_a_finished_store_are_cleared_away(made, tmp_path):
    run = Run(made, tmp_path, max_steps=1)
    run()
    (run.store / "checkpoints/checkpoint-1").mkdir(parents=True)
    run()
    assert not (run.store / "checkpoints").exists()


def test_whatever_decides_the_result_decides_the_fingerprint(tmp_path):
    for name in ("model.safetensors", "train.py", "lm.py"):
        (tmp_path / name).write_text(name)
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    parts = {"settings": {"seed": 1, "epochs": 2}, "tokens": {"train": "aa", "validation": "bb"}}
    plain = fingerprint(parts, files)
    assert plain == fingerprint(json.loads(json.dumps(parts)), files[::-1]), "the order of keys and files is nothing"
    names = [plain, fingerprint(parts, files[1:])]
    names += [fingerprint(parts | {"settings": {"seed": 2, "epochs": 2}}, files)]
    names += [fingerprint(parts | {"settings": {"seed": 2, "epochs": 1}}, files)]
    names += [fingerprint(parts | {"tokens": {"train": "ab", "validation": "bb"}}, files)]
    names += [fingerprint(parts | {"tokens": {"train": "bb", "validation": "aa"}}, files)]
    for file in files:
        Path(file).write_text("edited")
        names.append(fingerprint(parts, files))
    assert len(set(names)) == len(names)


def test_a_touch_or_another_place_leaves_the_fingerprint(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "train.py").write_text("code")
    assert fingerprint({}, [str(tmp_path / "here/train.py")]) == fingerprint({}, [str(tmp_path / "there/train.py")])


def test_the_store_keeps_the_models_that_were_used_last_and_every_training_under_way(tmp_path):
    import os

    for number in range(8):
        (tmp_path / f"s{number}" / ("checkpoints" if number == 0 else "done")).mkdir(parents=True)
        os.utime(tmp_path / f"s{number}", (number, number))
    os.utime(tmp_path / "s1", (99, 99))
    stage._prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s0", "s1", "s4", "s5", "s6", "s7"]


def test_every_parameter_is_trained_and_moves(made, whole):
    start = load_file(Path(made["dropout"]) / "model.safetensors")
    assert (
        whole.summary["parameters"] == whole.summary["trainable_parameters"] == sum(p.numel() for p in start.values())
    )
    assert all(not torch.equal(tensor, start[name]) for name, tensor in whole.weights.items())


def test_the_summary_counts_steps_epochs_and_packing(made, whole):
    lengths = Rows(made["train"]).lengths
    blocks = len(stage._plan(lengths, SETTINGS))
    facts = whole.summary
    assert facts["blocks"] == blocks
    assert facts["steps"] == 2 * math.ceil(blocks / 2)
    assert facts["epochs"] == 2
    assert facts["packing_efficiency"] == round(lengths.sum() / (32 * blocks), 4)
    assert facts["tokens_per_step"] == round(2 * lengths.sum() / facts["steps"], 1)
    assert facts["fingerprint"] == "one"


def test_no_logged_mean_reaches_over_a_checkpoint(tmp_path):
    for steps in (1, 7, 99, 250, 1000, 1234, 20_000):
        for evaluations in (1, 3, 6, 40, 150):
            settings = SETTINGS | {"max_steps": steps, "evaluations": evaluations}
            made, _ = stage._arguments(settings, 9, "fp32", torch.device("cpu"), tmp_path)
            assert made.eval_steps % made.logging_steps == 0
            assert made.eval_steps == made.save_steps
            assert evaluations <= steps // made.eval_steps <= 2 * evaluations or steps < evaluations


@pytest.mark.parametrize("kind", ["gpt_neo", "llama"])
def test_other_architectures_train_and_save_in_bf16(made, tmp_path, kind):
    base = models.base(tmp_path / "base", kind)
    run = Run(made, tmp_path / "run", base, max_steps=4, precision="bf16", save_dtype="bfloat16")
    run()
    assert {tensor.dtype for tensor in run.weights.values()} == {torch.bfloat16}
    with torch.no_grad():
        before = losses(load_model(base).eval(), made["validation"]).mean().item()
        after = losses(load_model(tmp_path / "run/model").eval(), made["validation"]).mean().item()
    assert after < before
    assert after == pytest.approx(run.summary["best_eval_loss"], rel=0.02)
    assert run.summary["precision"] == "bf16"


def test_the_saved_folder_is_a_model_and_its_tokenizer(made, whole):
    folder = whole.folder / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("river stone")["input_ids"] == models.tokenizer_of()("river stone")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.use_cache is True
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_model_that_mixes_packed_rows_is_refused_and_trains_with_rows_apart(made, tmp_path):
    base = models.base(tmp_path / "base", "opt")
    with pytest.raises(StageError, match=r"opt model does not keep packed rows apart; set `train.batching: length_gr"):
        Run(made, tmp_path / "packed", base, max_steps=1)()
    run = Run(made, tmp_path / "apart", base, max_steps=1, batching="length_grouped")
    run()
    with torch.no_grad():
        expected = losses(AutoModelForCausalLM.from_pretrained(tmp_path / "apart/model").eval(), made["validation"])
    assert run.summary["best_eval_loss"] == pytest.approx(expected.double().mean().item(), rel=1e-6)


def test_a_loss_that_is_no_number_stops_the_training_in_words(made, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(made["base"], base)
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.transformer.wte.weight[7] = math.nan
    model.save_pretrained(base)
    run = Run(made, tmp_path / "run", str(base))
    with pytest.raises(
        StageError, match=r"loss is (nan|inf) at step 1 \(learning rate [\d.e-]+\)\. Set a lower `train.l"
    ):
        run()
    assert not (run.store / "done").exists()
    assert not run.checkpoints, "no ruined checkpoint is left to go on from"


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["loss", "eval_loss"])
def test_the_guard_knows_either_loss_and_names_the_last_learning_rate(name, value):
    from transformers import TrainerState

    guard, state = Finite(), TrainerState(global_step=1200)
    guard.on_log(None, state, None, {"loss": 2.0, "learning_rate": 0.025})
    guard.on_log(None, state, None, {"eval_loss": 2.0, "grad_norm": math.inf})
    with pytest.raises(StageError, match=r"loss is (nan|inf) at step 1,200 \(learning rate 0.025\)"):
        guard.on_log(None, state, None, {name: value})


def test_fp16_on_a_cpu_a_missing_end_token_and_a_missing_model_are_refused_in_words(made, tmp_path):
    from test_lm import without_end

    with pytest.raises(StageError, match="fp16` needs a GPU"):
        Run(made, tmp_path / "fp16", precision="fp16")()
    shutil.copytree(made["base"], tmp_path / "endless")
    without_end(tmp_path / "endless")
    with pytest.raises(StageError, match="has no end-of-text token"):
        Run(made, tmp_path / "run", str(tmp_path / "endless"))()
    with pytest.raises(StageError, match="holds no causal language model"):
        Run(made, tmp_path / "none", str(tmp_path / "nothing"))()


def test_a_tokenizer_with_more_tokens_than_the_model_knows_is_refused(made, tmp_path):
    models.base(tmp_path / "base")
    models.build("gpt2", 290, 0).save_pretrained(tmp_path / "base")
    with pytest.raises(StageError, match=r"the tokenizer has 300 tokens, and the model knows 290"):
        Run(made, tmp_path / "run", str(tmp_path / "base"))()
