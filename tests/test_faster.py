"""The faster modules, held against what they replace and against what chance allows."""

import math

import pytest
import torch
from torch import nn
from transformers import activations

import models
from snaketune.model import faster

CPU = torch.device("cpu")
MANY = 1 << 20
RATES = [0.5, 0.1, 0.25, 0.9, 0.003]


def dropped(p: float, inputs: torch.Tensor) -> torch.Tensor:
    return faster.Dropout(p).train()(inputs)


@pytest.mark.parametrize("p", RATES)
def test_dropout_drops_at_its_rate_in_each_quarter_of_a_random_word(p):
    torch.manual_seed(0)
    kept = (dropped(p, torch.ones(MANY)) > 0).double().view(-1, 4)
    deviation = math.sqrt(p * (1 - p) / len(kept))
    assert (kept.mean(0) - (1 - p)).abs().max() < 4.5 * deviation


@pytest.mark.parametrize("p", RATES)
def test_neighbours_are_dropped_independently(p):
    torch.manual_seed(1)
    kept = (dropped(p, torch.ones(MANY)) > 0).double()
    kept = (kept - kept.mean()) / kept.std()
    for lag in (1, 2, 3, 4, 5, 8, 1024):
        assert abs((kept[lag:] * kept[:-lag]).mean()) < 4.5 / math.sqrt(MANY), lag


def test_every_probability_of_a_sixteenth_is_met_by_all_quarters():
    """Masks of fifteen probabilities from the same random words: their quarters are uniform in every sixteenth."""
    shares = []
    for step in range(1, 16):
        torch.manual_seed(2)
        shares.append(1 - faster.keep_mask(torch.Size([MANY]), step / 16)[0].view(-1, 4).double().mean(0))
    shares = torch.stack(shares)  # [15, 4]: how many lie below each sixteenth
    cells = torch.cat([shares[:1], shares.diff(dim=0), 1 - shares[-1:]]) * (MANY // 4)
    chi_square = ((cells - MANY / 64) ** 2 / (MANY / 64)).sum(0)
    assert chi_square.max() < 44.3  # 15 degrees of freedom: one in 10,000


@pytest.mark.parametrize("p", [0.1, 0.5, 1 / 3])
def test_what_is_kept_is_divided_by_the_share_that_is_kept(p):
    torch.manual_seed(3)
    inputs = torch.randn(1001, dtype=torch.float64)
    out = dropped(p, inputs)
    share = 1 - round(p * 65536) / 65536
    torch.testing.assert_close(out[out != 0], inputs[out != 0] / share, rtol=1e-15, atol=0)
    assert abs(share - (1 - p)) <= 2**-17


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_goes_where_the_input_went(dtype):
    torch.manual_seed(4)
    inputs = torch.ones(7, 33, dtype=dtype, requires_grad=True)
    out = dropped(0.3, inputs)
    grad = torch.randn_like(out)
    assert out.dtype == dtype
    assert [tensor.element_size() for tensor in out.grad_fn.saved_tensors] == [1]
    out.backward(grad)
    torch.testing.assert_close(inputs.grad, out.detach() * grad)


def test_the_seed_of_torch_fixes_the_mask():
    def drawn(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return torch.cat([dropped(0.5, torch.ones(50)), dropped(0.5, torch.ones(50))]).tolist()

    assert drawn(5) == drawn(5) != drawn(6)
    assert drawn(5)[:50] != drawn(5)[50:]


def test_scoring_drops_nothing_and_the_ends_of_the_scale_hold():
    inputs = torch.randn(10)
    assert faster.Dropout(0.5).eval()(inputs) is inputs
    assert dropped(0.0, inputs) is inputs
    assert dropped(1.0, inputs).tolist() == [0.0] * 10
    assert (dropped(1 - 1e-9, torch.ones(MANY)) > 0).double().mean() < 1e-4
    assert dropped(0.5, torch.ones(0, 3)).shape == (0, 3)
    assert dropped(0.5, torch.ones(())).item() in (0.0, 2.0)


@pytest.mark.parametrize("kind", ["gelu_new", "gelu_fast", "gelu_accurate"])
def test_a_gelu_is_replaced_by_the_same_function(kind):
    holder = nn.Sequential(activations.ACT2FN[kind])
    inputs = torch.linspace(-9, 9, 20001, dtype=torch.float64, requires_grad=True)
    before = holder(inputs)
    slope = torch.autograd.grad(before.sum(), inputs)[0]
    assert faster.quicken(holder, CPU) == {"GELU": 1}
    after = holder(inputs)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.autograd.grad(after.sum(), inputs)[0], slope, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["gelu", "quick_gelu", "relu", "silu", "gelu_10"])
def test_other_activations_stay(kind):
    assert faster.quicken(nn.Sequential(activations.ACT2FN[kind]), CPU) == {}


def test_a_quickened_model_says_what_it_said_and_has_the_same_weights():
    model = models.build("gpt2", 60, 0, dropout=0.1)
    ids = torch.arange(1, 30)[None]
    before, names = model(ids).logits, list(model.state_dict())
    assert faster.quicken(model, CPU) == {"GELU": 1, "Dropout": 4}
    torch.testing.assert_close(model(ids).logits, before, rtol=1e-6, atol=1e-5)
    assert list(model.state_dict()) == names
    assert not any(module.training for module in model.modules())
    assert faster.quicken(model, CPU) == {}, "nothing is left to replace"
    assert model.train().transformer.drop(torch.ones(1000)).min() == 0


def test_on_a_gpu_dropout_stays_torchs_own():
    model = models.build("gpt2", 60, 0, dropout=0.1)
    assert faster.quicken(model, torch.device("cuda")) == {"GELU": 1}
    assert type(model.transformer.drop) is nn.Dropout
