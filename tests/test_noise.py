"""NEFTune: how strong the noise on the embeddings is, and where there is none."""

import math
from dataclasses import dataclass

import pytest
import torch

import models
from snaketune.model.noise import Neftune, token_lengths

ALPHA = 5.0
LENGTHS = [3, 1, 20, 8, 16]  # 48 tokens


@dataclass
class Documents:
    lengths: tuple[int, ...]
    starts: torch.Tensor


def documents(lengths: list[int], size: int | None = None) -> Documents:
    """Documents end to end; size: how many numbers `starts` has, the last of them again and again."""
    starts = [sum(lengths[:number]) for number in range(len(lengths) + 1)]
    starts += [starts[-1]] * ((size or 0) - len(starts))
    return Documents(tuple(lengths), torch.tensor(starts, dtype=torch.int32))


def noisy(kind: str = "gpt2", width: int = 64) -> tuple[torch.nn.Module, Neftune]:
    model = models.build(kind, 300, 0, width=width)
    noise = Neftune(ALPHA)
    noise.documents = documents(LENGTHS)
    noise.attach(model)
    return model.train(), noise


IDS = torch.arange(48)[None] * 5 % 300


def disturbance(model: torch.nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    """What is added to the embeddings: [B*T, d]."""
    table = model.get_input_embeddings()
    return (table(ids) - table.weight[ids]).detach().flatten(0, 1)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_the_noise_of_a_token_is_uniform_and_scaled_by_the_length_of_its_own_document(kind: str) -> None:
    model, _ = noisy(kind)
    torch.manual_seed(0)
    drawn = torch.stack([disturbance(model) for _ in range(200)])  # [200, 48, d]
    width = drawn.shape[2]
    start = 0
    for length in LENGTHS:
        bound = ALPHA / math.sqrt(length * width)
        own = drawn[:, start : start + length]
        assert own.abs().max() <= bound * 1.0001
        assert own.abs().max() > bound * 0.99
        assert own.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert abs(own.mean().item()) < bound * 0.03
        start += length


def test_every_number_is_drawn_by_itself() -> None:
    model, _ = noisy()
    drawn = disturbance(model)
    assert drawn.unique().numel() > 0.9 * drawn.numel()


def test_a_static_batch_has_the_same_noise_as_one_without_filling() -> None:
    model, noise = noisy()
    torch.manual_seed(3)
    plain = disturbance(model)
    noise.documents = documents(LENGTHS, size=12)
    torch.manual_seed(3)
    assert torch.equal(disturbance(model), plain)


def test_rows_of_a_batch_are_documents_too() -> None:
    model, noise = noisy()
    noise.documents = documents([4, 20, 24])  # [2, 24]: the first row holds a document of 4 tokens and filling
    torch.manual_seed(0)
    drawn = torch.stack([disturbance(model, IDS.view(2, 24)) for _ in range(50)]).abs().amax(dim=(0, 2))
    bounds = torch.tensor([ALPHA / math.sqrt(length * 64) for length in [4] * 4 + [20] * 20 + [24] * 24])
    assert (drawn <= bounds * 1.0001).all()
    assert (drawn > bounds * 0.95).all()


def test_token_lengths_are_those_of_the_documents() -> None:
    expected = [length for length in LENGTHS for _ in range(length)]
    assert token_lengths(documents(LENGTHS).starts, 48).tolist() == expected
    assert token_lengths(documents(LENGTHS, 9).starts, 48).tolist() == expected


def test_the_same_seed_gives_the_same_noise_and_another_another() -> None:
    model, _ = noisy()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(disturbance(model))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_evaluation_has_no_noise(kind: str) -> None:
    model, noise = noisy(kind)
    model.eval()
    noise.documents = None
    before = models.build(kind, 300, 0, width=64)(IDS).logits
    assert torch.equal(model(IDS).logits, before)


def test_a_detached_model_is_what_it_was() -> None:
    model, noise = noisy()
    noise.attach(model)  # a second time: still one noise
    before = models.build("gpt2", 300, 0, width=64).train()(IDS).logits
    assert not torch.equal(model(IDS).logits, before)
    noise.detach()
    assert torch.equal(model(IDS).logits, before)


def test_a_tied_head_and_the_table_are_left_alone() -> None:
    model, _ = noisy()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    before = model.lm_head.weight.detach().clone()
    hidden = torch.randn(1, 5, 64)
    expected = hidden @ before.T
    model(IDS).logits.sum().backward()
    assert torch.equal(model.lm_head.weight, before)
    assert torch.allclose(model.lm_head(hidden), expected)


def test_the_gradient_of_the_table_is_that_of_its_rows() -> None:
    model, _ = noisy()
    table = model.get_input_embeddings()
    table(IDS).sum().backward()
    counts = torch.bincount(IDS[0], minlength=table.num_embeddings).float()
    assert torch.equal(table.weight.grad, counts[:, None].expand_as(table.weight))


def test_the_noise_keeps_the_number_format_of_the_embeddings() -> None:
    model, _ = noisy()
    model.to(torch.bfloat16)
    assert model.get_input_embeddings()(IDS).dtype == torch.bfloat16


def test_training_without_documents_is_an_error_of_the_program() -> None:
    model, noise = noisy()
    noise.documents = None
    with pytest.raises(RuntimeError, match="documents of the batch"):
        model(IDS)


def test_a_compiled_model_takes_the_documents_of_each_batch_without_compiling_again() -> None:
    model, noise = noisy()
    table = model.get_input_embeddings().weight
    embed = lambda ids: model.get_input_embeddings()(ids) * 1  # noqa: E731 - so that the hook is compiled too
    compiled = torch.compile(embed, backend="aot_eager", fullgraph=True, dynamic=False)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for lengths in ([48], [24, 24], LENGTHS):
        noise.documents = documents(lengths, size=12)
        drawn = (compiled(IDS) - table[IDS]).detach()[0]
        bounds = torch.tensor([ALPHA / math.sqrt(length * 64) for length in lengths for _ in range(length)])
        assert (drawn.abs().amax(1) <= bounds * 1.0001).all()
        assert (drawn.abs().amax(1) > bounds * 0.8).all()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
