"""The loss, held against ten lines of plain torch; and what of it must not depend on how it is computed."""

import numpy as np
import pytest
import torch

import models
from snaketune.model import attention, objective
from snaketune.model.batches import Batch, collate
from snaketune.model.objective import Objective

draw = np.random.default_rng(5)
LENGTHS = [5, 1, 11, 7, 2, 16, 9]
ROWS = [draw.integers(1, 60, length).astype(np.int32) for length in LENGTHS]
PROMPTS = np.array([2, 1, 4, 0, 1, 9, 3])
EVERY = list(range(len(ROWS)))
TRAINED = 30


def build(kind: str) -> torch.nn.Module:
    return models.build(kind, 60, 0)


def batch(layout: str = "flat", rows: list[int] = EVERY, loss_on: str = "completion") -> Batch:
    blocks = [rows] if layout == "flat" else [[row] for row in rows]
    return collate(blocks, ROWS, PROMPTS, loss_on, 0, layout)


def log_probabilities(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """The independent way: of each trained token's place, document by document, [n, V]; and the tokens, [n]."""
    logits, targets = [], []
    for row, prompt in zip(ROWS, PROMPTS, strict=True):
        ids = torch.from_numpy(row.astype(np.int64))
        first = max(int(prompt), 1)
        logits.append(model(ids[None]).logits[0, first - 1 : -1])
        targets.append(ids[first:])
    return torch.log_softmax(torch.cat(logits).double(), -1), torch.cat(targets)


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    largest = max(grad.abs().max().item() for grad in expected.values())
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        assert (found[name] - grad).abs().max().item() <= tolerance * largest, name


def lora(model: torch.nn.Module, targets: list[str]) -> torch.nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    return inject_adapter_in_model(config, model)


@pytest.mark.parametrize("layout", ["flat", "rows"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "opt"])  # Gemma 2 caps its logits
def test_the_loss_and_its_gradients_are_those_of_plain_torch(kind, layout):
    model = build(kind)
    logs, targets = log_probabilities(model)
    assert len(targets) == TRAINED
    expected = -logs[torch.arange(TRAINED), targets].sum()
    reference = gradients(model, expected)
    if layout == "flat" and "varlen" in attention.candidates(model, torch.device("cpu"), "fp32"):
        attention.use(model, "varlen")
    loss = Objective(model)(batch("rows" if kind == "gemma2" else layout))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert_same(gradients(model, loss), reference, 2e-6)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_label_smoothing_mixes_the_target_with_the_uniform_distribution(kind, smoothing):
    model = build(kind)
    logs, targets = log_probabilities(model)
    expected = -(1 - smoothing) * logs[torch.arange(TRAINED), targets].sum() - smoothing * logs.mean(-1).sum()
    reference = gradients(model, expected)
    smoothed = Objective(model, smoothing)
    loss = smoothed(batch("rows"))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert_same(gradients(model, loss), reference, 2e-6)
    nll, _ = smoothed(batch("rows"), scored=True)  # scoring knows of no smoothing
    torch.testing.assert_close(nll.double(), -logs[torch.arange(TRAINED), targets], rtol=0, atol=5e-6)


@pytest.mark.parametrize("chunk", [1, 60 * 7, 60 * 64])
@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_scores_stand_in_order_whatever_the_chunks(kind, chunk, monkeypatch):
    monkeypatch.setattr(objective, "LEAST", 1)
    monkeypatch.setattr(objective, "MOST", chunk)
    model = build(kind)
    logs, targets = log_probabilities(model)
    nll, hit = Objective(model)(batch("rows"), scored=True)
    torch.testing.assert_close(nll.double(), -logs[torch.arange(TRAINED), targets], rtol=0, atol=5e-6)
    assert hit.tolist() == (logs.argmax(-1) == targets).tolist()
    assert nll.dtype == torch.float32
    assert not nll.requires_grad


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_chunks_change_neither_the_loss_nor_its_gradients(precision, monkeypatch):
    model = build("gpt2")
    found = []
    for most, factor in ((1 << 27, 1.0), (60 * 4, 0.25)):
        monkeypatch.setattr(objective, "LEAST", 1)
        monkeypatch.setattr(objective, "MOST", most)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = Objective(model, 0.1)(batch("rows"))
        grads = gradients(model, loss * factor)
        found.append((loss.item(), {name: grad / factor for name, grad in grads.items()}))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    assert_same(found[1][1], found[0][1], 1e-6 if precision == "fp32" else 1e-2)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_the_sum_of_a_bf16_batch_has_the_digits_of_fp32(weights):
    model = build("gpt2").to(weights)
    long = collate([EVERY * 40], ROWS, PROMPTS, "all", 0, "flat")
    attention.use(model, "varlen")
    with torch.autocast("cpu", torch.bfloat16, enabled=weights == torch.float32):
        loss = Objective(model)(long)
        nll, _ = Objective(model)(long, scored=True)
    assert loss.item() == pytest.approx(nll.double().sum().item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_a_batch_without_a_trained_token_has_no_loss_and_reaches_all_weights(kind):
    model = build(kind)
    empty = batch("rows", rows=[1])  # one token, and nothing before it
    assert len(empty.targets) == 0
    loss = Objective(model, 0.1)(empty)
    assert loss.item() == 0
    reached = gradients(model, loss)
    assert reached.keys() == dict(model.named_parameters()).keys()
    assert not any(grad.any() for grad in reached.values())
    nll, hit = Objective(model)(empty, scored=True)
    assert (nll.shape, hit.shape, hit.dtype) == ((0,), (0,), torch.bool)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_the_head_sees_no_token_that_is_not_trained(kind):
    model = build(kind)
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _, inputs, out: seen.append(out[..., 0].numel()))
    Objective(model)(batch("rows"))
    Objective(model)(batch("rows"), scored=True)
    assert seen == [TRAINED, TRAINED]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "gptj", "llama"])
def test_the_last_mlp_sees_no_token_that_is_not_trained(kind):
    model = build(kind)
    blocks = model.model.layers if kind == "llama" else model.transformer.h
    last, seen = blocks[-1].mlp, []
    inner = next(module for module in last.modules() if module is not last)
    inner.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0].shape[:-1].numel()))
    tokens = batch("rows").input_ids.numel()
    expected = Objective(model)(batch("rows")).item()
    Objective(model)(batch("rows"), scored=True)
    assert seen == [TRAINED, TRAINED]
    assert not last._forward_hooks
    assert not last._forward_pre_hooks
    assert model(batch("rows").input_ids).logits.shape == (7, 16, 60)
    model.train().gradient_checkpointing_enable()
    loss = Objective(model)(batch("rows"))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()  # computes the block again, without the objective
    assert seen[2:] == [tokens, tokens, tokens]


@pytest.mark.parametrize("targets", [["lm_head"], ["lm_head", "c_attn"]])
def test_an_adapter_on_the_head_is_used_and_learns(targets):
    model = lora(build("gpt2"), targets)
    logs, wanted = log_probabilities(model)
    expected = -logs[torch.arange(TRAINED), wanted].sum()
    reference = gradients(model, expected)
    loss = Objective(model)(batch("rows"))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    found = gradients(model, loss)
    assert any("lm_head.lora_A" in name for name in found)
    assert_same(found, reference, 2e-6)


def test_a_head_that_learns_alone_and_one_that_does_not_learn():
    model = build("llama")
    reference = gradients(model, Objective(model)(batch("rows")))
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    assert_same(gradients(model, Objective(model)(batch("rows"))), {"lm_head.weight": reference["lm_head.weight"]}, 0)
    model.requires_grad_(True)
    model.lm_head.requires_grad_(False)
    rest = {name: grad for name, grad in reference.items() if name != "lm_head.weight"}
    assert_same(gradients(model, Objective(model)(batch("rows"))), rest, 0)
    model.requires_grad_(False)
    with torch.no_grad():
        silent = Objective(model)(batch("rows"))
    assert not silent.requires_grad
    assert silent.item() == Objective(model)(batch("rows")).item()


def test_compiling_touches_the_body_alone_and_no_names():
    model = build("gpt2")
    names = [f"model.{name}" for name in model.state_dict()]
    compiled = Objective(model)
    expected = compiled(batch("rows")).item()
    inner, seen = model.transformer.h[-1].mlp.c_fc, []
    inner.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0].shape[:-1].numel()))
    compiled.compile_body()
    assert list(compiled.state_dict()) == names
    assert [module for module in compiled.modules() if module._compiled_call_impl] == [model.transformer]
    with torch.compiler.set_stance("force_eager"):
        assert compiled(batch("rows")).item() == pytest.approx(expected, rel=1e-6)
    assert seen == [batch("rows").input_ids.numel()], "its shapes do not depend on what is trained"
