"""The loss of each token, held against one document at a time through the plain model; and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from snaketune.job import StageError
from snaketune.model import lm
from snaketune.model.batches import collate
from snaketune.model.lm import (
    PLAIN_HEADS,
    device_of,
    isolates,
    load_model,
    load_tokenizer,
    positions_of,
    precision_of,
    token_losses,
    token_scores,
)
from snaketune.packing import pack

draw = np.random.default_rng(3)
LENGTHS = [5, 2, 11, 7, 3, 16, 9, 2]
ROWS = [draw.integers(1, 60, length) for length in LENGTHS]
PROMPTS = [2, 1, 4, 0, 1, 9, 3, 1]
KINDS = ["gpt2", "gpt_neo", "llama"]


def build(kind: str) -> torch.nn.Module:
    return models.build(kind, 60, 0)


def batch(blocks: list[list[int]], loss_on: str = "completion") -> dict[str, torch.Tensor]:
    made = collate(blocks, ROWS, PROMPTS, loss_on, 0, "rows")
    return {"input_ids": made.input_ids, "position_ids": made.position_ids, "labels": made.labels()}


def plain(model: torch.nn.Module) -> torch.Tensor:
    """The losses of all trained tokens, document by document."""
    parts = [models.document_losses(model, row.tolist()) for row in ROWS]
    return torch.cat([losses[max(0, prompt - 1) :] for losses, prompt in zip(parts, PROMPTS, strict=True)])


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "blocks",
    [[[row] for row in range(8)], pack(LENGTHS, 30), [[5, 4, 3, 2, 1, 0], [7, 6]]],
    ids=["padded", "packed", "many in a row"],
)
def test_losses_and_gradients_are_those_of_each_document_alone(kind, blocks):
    model = build(kind)
    expected = plain(model).sum() / 30
    gradient = gradients(model, expected)
    nll, _, _ = token_losses(model, **batch(blocks))
    assert len(nll) == sum(length - max(1, prompt) for length, prompt in zip(LENGTHS, PROMPTS, strict=True))
    assert nll.sum().item() / 30 == pytest.approx(expected.item(), abs=1e-6 * expected.item())
    torch.testing.assert_close(gradients(model, nll.sum() / 30), gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_each_loss_stands_at_its_own_token(kind):
    model = build(kind)
    with torch.no_grad():
        nll, hit, counted = token_losses(model, **batch([[2, 5], [3]], "all"))
        places = torch.zeros(counted.shape).masked_scatter(counted, nll)
        hits = torch.zeros(counted.shape, dtype=torch.bool).masked_scatter(counted, hit)
        torch.testing.assert_close(places[0, 11:26], models.document_losses(model, ROWS[5].tolist()), rtol=0, atol=5e-6)
        torch.testing.assert_close(places[1, :6], models.document_losses(model, ROWS[3].tolist()), rtol=0, atol=5e-6)
        best = model(torch.tensor([ROWS[3].tolist()])).logits[0, :-1].argmax(-1)
    assert not counted[0, 10]  # the first token of the second document
    assert not counted[1, 6:].any()  # padding
    assert hits[1, :6].tolist() == (best == torch.tensor(ROWS[3][1:])).tolist()


@pytest.mark.parametrize("kind", [*sorted(PLAIN_HEADS), "gemma2"])
def test_the_head_on_counted_tokens_alone_gives_what_the_full_logits_give(kind):
    model = build(kind)
    assert (model.config.model_type in PLAIN_HEADS) == (kind != "gemma2")
    with torch.no_grad():
        nll, _, _ = token_losses(model, **batch([[row] for row in range(8)]))
        torch.testing.assert_close(nll.sum(), plain(model).sum(), rtol=2e-6, atol=0)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "bloom"])
def test_what_a_model_says_of_a_token_is_what_its_chances_say(kind, monkeypatch):
    model = build(kind)
    monkeypatch.setattr(lm, "CHUNK", 5)
    ids = torch.from_numpy(np.stack([ROWS[5], ROWS[5][::-1]]))
    targets = torch.full_like(ids, -100)[:, :-1]
    targets[:, 3:] = ids[:, 4:]
    scores = token_scores(model, ids[:, :-1], torch.arange(15).repeat(2, 1), targets)
    with torch.no_grad():
        chances = model(ids).logits[:, 3:-1].double().softmax(-1).flatten(0, 1).numpy()  # [24, V]
    for number, (token, row) in enumerate(zip(ids[:, 4:].flatten().tolist(), chances, strict=True)):
        assert scores.nll[number].item() == pytest.approx(-math.log(row[token]), rel=1e-5)
        assert scores.entropy[number].item() == pytest.approx(-(row * np.log(row)).sum(), rel=1e-5)
        assert scores.confidence[number].item() == pytest.approx(row.max(), rel=1e-5)
        assert scores.rank[number].item() == sorted(row, reverse=True).index(row[token])
    assert len(scores.rank) == 24


class Said(torch.nn.Module):
    """A head that says the same of every token."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(states), -1)


def said(logits: list[float], targets: list[int]) -> lm.TokenScores:
    model = build("gpt2")
    model.lm_head = Said(logits)
    ids = torch.ones(1, len(targets), dtype=torch.long)
    return token_scores(model, ids, torch.arange(len(targets))[None], torch.tensor([targets]))


def test_of_equally_likely_tokens_the_lower_id_comes_first_as_in_argmax():
    logits = [1.0, 3.0, 3.0, 0.0, 3.0, 1.0]
    assert said(logits, [0, 1, 2, 3, 4, 5]).rank.tolist() == [3, 0, 1, 5, 2, 4]
    assert torch.tensor(logits).argmax() == 1


def test_a_token_that_cannot_come_adds_nothing_to_the_entropy():
    scores = said([0.0, -math.inf, 0.0, -math.inf], [0, 2, 1])
    assert scores.entropy.tolist() == pytest.approx([math.log(2)] * 3)
    assert scores.nll.tolist() == pytest.approx([math.log(2), math.log(2), math.inf])
    assert scores.confidence.tolist() == pytest.approx([0.5] * 3)


@pytest.mark.parametrize("logits", [[math.nan] * 4, [0.0, math.nan, 1.0, 2.0]])
def test_a_model_that_gives_no_numbers_is_not_given_any(logits):
    scores = said(logits, [0, 2, 3])
    assert all(torch.isnan(values).all() for values in scores[:3])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_logits_of_a_batch_never_exist_together(kind, monkeypatch):
    monkeypatch.setattr(lm, "CHUNK", 7)
    model, seen = build(kind), []
    model.get_output_embeddings().register_forward_hook(lambda _, states, logits: seen.append(len(logits)))
    ids = torch.from_numpy(np.stack([ROWS[5]] * 3))
    token_scores(model, ids, torch.arange(16).repeat(3, 1), ids.roll(-1, 1))
    assert seen == [7, 7, 7, 7, 7, 7, 6]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "llama"])
def test_a_document_may_have_one_token_more_than_the_model_has_positions(kind):
    model = build(kind)
    ids = torch.from_numpy(draw.integers(1, 60, (1, models.POSITIONS + 1)))
    scores = token_scores(model, ids[:, :-1], torch.arange(models.POSITIONS)[None], ids[:, 1:])
    with torch.no_grad():
        plain = model(ids[:, :-1]).logits[0].log_softmax(-1)
    torch.testing.assert_close(scores.nll, -plain[torch.arange(models.POSITIONS), ids[0, 1:]], rtol=1e-5, atol=1e-5)


def test_the_true_loss_of_gpt2_is_given_where_the_trainer_gives_another(tmp_path):
    from transformers import Trainer, TrainingArguments

    model = build("gpt2")
    with torch.no_grad():
        documents = [models.document_losses(model, row.tolist()) for row in ROWS]
        nll, _, _ = token_losses(model, **batch(pack(LENGTHS, 30), "all"))
    truth = sum(losses.sum().item() for losses in documents) / sum(map(len, documents))
    assert nll.mean().item() == pytest.approx(truth, rel=1e-6)

    padded = collate([[row] for row in range(8)], ROWS, PROMPTS, "all", 0, "rows").input_ids
    labels = padded.where(torch.arange(16) < torch.tensor(LENGTHS)[:, None], -100)
    data = [{"input_ids": ids, "labels": own} for ids, own in zip(padded, labels, strict=True)]
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True)
    reported = Trainer(model, arguments, eval_dataset=data).evaluate()["eval_loss"]
    assert reported < 0.95 * truth, "the Trainer is right now: snaketune.model.lm may become simpler"


@pytest.mark.parametrize("kind", [*sorted(PLAIN_HEADS - {"opt"}), "gemma2"])
def test_documents_of_one_row_leave_each_other_alone(kind):
    assert isolates(build(kind))


@pytest.mark.parametrize("kind", ["bloom", "opt"])  # OPT takes position ids, and makes no mask of them
def test_a_model_that_mixes_the_documents_of_a_row_is_recognised(kind):
    model = build(kind).train()
    assert not isolates(model)
    assert model.training, "the trial leaves the model as it was"


def test_a_model_that_says_nothing_pays_the_logarithm_of_its_vocabulary():
    model = build("gpt2")
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    nll, _, _ = token_losses(model, **batch([[0, 1, 2]]))
    torch.testing.assert_close(nll, torch.full_like(nll, math.log(60)))


def test_a_model_is_loaded_in_fp32_whatever_it_was_saved_in(tmp_path):
    build("gpt2").bfloat16().save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.use_cache is False
    assert all(p.requires_grad for p in model.parameters())


def test_a_folder_without_safetensors_is_refused(tmp_path):
    build("gpt2").save_pretrained(tmp_path)
    torch.save(build("gpt2").state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(StageError, match="holds no causal language model that can be loaded"):
        load_model(tmp_path)


def test_a_file_of_weights_that_was_cut_off_is_refused(tmp_path):
    build("gpt2").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(StageError, match="holds no causal language model that can be loaded"):
        load_model(tmp_path)


def test_a_model_of_which_weights_are_missing_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    build("gpt2").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["transformer.h.0.mlp.c_fc.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match=r"1 weights are missing, as transformer\.h\.0\.mlp\.c_fc\.weight"):
        load_model(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StageError, match="holds no causal language model"):
        load_model(tmp_path / "nothing")
    with pytest.raises(StageError, match="holds no tokenizer"):
        load_tokenizer(tmp_path / "nothing")


def test_a_tokenizer_without_an_end_of_text_token_is_refused(tmp_path):
    models.base(tmp_path)
    without_end(tmp_path)
    with pytest.raises(StageError, match="has no end-of-text token; name its `eos_token`"):
        load_tokenizer(tmp_path)
    for append_eos in (True, False):  # before hours of training, not after
        with pytest.raises(StageError, match="has no end-of-text token; name its `eos_token`"):
            models.tokens(models.pairs(2), str(tmp_path), tmp_path, "test", append_eos=append_eos)


def without_end(folder: Path) -> None:
    """Take the end-of-text token from a tokenizer's folder."""
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about |= {"eos_token": None, "bos_token": None, "unk_token": None, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)


@pytest.mark.parametrize(("kind", "positions"), [("gpt2", 48), ("gpt_neo", 48), ("llama", 48), ("bloom", None)])
def test_the_positions_of_a_model_come_from_its_config(kind, positions):
    assert positions_of(build(kind).config) == positions


def test_the_cpu_is_used_where_a_job_has_no_gpu():
    assert device_of(0) == torch.device("cpu")
    assert device_of(1).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_fp16_on_a_cpu_is_refused_in_words():
    cpu = torch.device("cpu")
    with pytest.raises(StageError, match=r"`train.precision: fp16` needs a GPU; set `auto`, `bf16` or `fp32`"):
        precision_of("fp16", cpu)
    assert precision_of("fp32", cpu) == "fp32"
    assert precision_of("auto", cpu) in ("bf16", "fp32")
