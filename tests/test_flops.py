"""FLOPs of a training step against PyTorch's own counter, and the peak that they are held against."""

from __future__ import annotations

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from snaketune.model.flops import Flops, peak_flops, seen, training_flops, vendor_peak

LENGTH, VOCABULARY = 20, 90
KINDS = ["gpt2", "gpt_neo", "llama", "qwen3", "phi", "gpt_neox", "gptj", "opt", "bloom"]


def counted(model: torch.nn.Module) -> int:
    """The FLOPs of one pass forward and backward over one document, all tokens trained, as PyTorch counts them."""
    ids = torch.arange(LENGTH)[None] % VOCABULARY
    for parameter in model.parameters():
        parameter.grad = None
    with FlopCounterMode(display=False) as counter:
        logits = model(ids, use_cache=False).logits[0]
        torch.nn.functional.cross_entropy(logits, ids[0], reduction="sum").backward()
    return counter.get_total_flops()


def ours(model: torch.nn.Module) -> int:
    """The same by our count, but with every pair of tokens, as an attention without a causal kernel computes it."""
    flops = training_flops(model)
    every_pair = sum(of_pair for _, of_pair in flops.pairs) * LENGTH**2
    return (flops.token + flops.trained) * LENGTH + every_pair


def built(kind: str) -> torch.nn.Module:
    model = models.build(kind, VOCABULARY, 0)
    model.set_attn_implementation("eager")  # what its kernels do is matrix products that the counter sees
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_training_is_counted_as_pytorch_counts_it(kind: str) -> None:
    model = built(kind)
    assert ours(model) == counted(model)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo"])
def test_what_is_frozen_costs_less_just_as_it_does(kind: str) -> None:
    model = built(kind)
    body = model.transformer
    whole = ours(model)
    for part in (body.wte, body.wpe, body.h[0]):  # GPT-Neo's second layer learns, of GPT-2 the last norm alone
        part.requires_grad_(False)
    assert ours(model) == counted(model) < whole


def test_a_lora_pays_for_no_gradient_of_the_weights_below_it() -> None:
    from peft import LoraConfig, get_peft_model

    model = built("gpt_neo")
    whole = ours(model)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    assert ours(model) < 0.8 * whole
    assert ours(model) == pytest.approx(counted(model), rel=0.04), "one layer of two is the first, and all but exact"


def test_attention_is_counted_by_document_and_within_the_window_of_a_layer() -> None:
    flops = Flops(token=1000, trained=50, pairs=((None, 12), (4, 12)))
    by_hand = 0
    for length in (7, 3):
        for later in range(length):
            for earlier in range(later + 1):
                by_hand += 12 + 12 * (later - earlier < 4)
    assert flops.of([7, 3], trained=6) == 1000 * 10 + 50 * 6 + by_hand
    assert [seen(length, None) for length in (0, 1, 5)] == [0, 1, 15]
    assert seen(5, 2) == 9


def test_gpt2_small_costs_what_nanogpt_says_it_costs() -> None:
    """6 N + 12 L T width for each token, where N has the head and no positions; the last term halved (causal)."""
    from transformers import AutoModelForCausalLM, GPT2Config

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(GPT2Config())
    layers, width, length = 12, 768, 1024
    weights = 12 * layers * width**2 + 50257 * width
    nanogpt = 6 * weights + 12 * layers * width * (length + 1) / 2
    assert training_flops(model).of([length] * 3, trained=3 * length) == nanogpt * 3 * length


def test_a_frozen_head_costs_no_gradient_of_itself() -> None:
    model = built("llama")
    whole = training_flops(model)
    model.lm_head.weight.requires_grad_(False)
    assert training_flops(model).trained == whole.trained * 2 / 3
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    assert training_flops(model).trained == whole.trained * 2 / 3
    assert training_flops(model).token == whole.token / 3
    assert training_flops(model).pairs == tuple((window, of_pair // 3) for window, of_pair in whole.pairs)


def test_a_model_without_attention_has_its_matrix_products_counted() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4))
    flops = training_flops(model)
    assert flops.pairs == ()
    assert flops.of([10], trained=10) > 6 * 10 * VOCABULARY * 16


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5e12),
        ("NVIDIA H100 PCIe", "bf16", 756.5e12),
        ("NVIDIA H200", "fp16", 989.5e12),
        ("NVIDIA B200", "bf16", 2250e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA A100-PCIE-40GB", "tf32", 156e12),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5e12),
        ("NVIDIA A10", "bf16", 125e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", 362.05e12),
        ("Tesla T4", "fp16", 65e12),
        ("Tesla V100-SXM2-16GB", "fp16", 125e12),
        ("Tesla V100-SXM2-16GB", "fp32", 15.7e12),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12),
    ],
)
def test_a_known_gpu_has_its_dense_peak(name: str, precision: str, peak: float) -> None:
    known = vendor_peak(name, precision)
    assert known is not None
    assert known[0] == peak
    assert name in known[1]


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16"),  # a seventh of one
        ("NVIDIA A10G", "bf16"),
        ("NVIDIA A100X", "bf16"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"),
        ("NVIDIA GeForce RTX 4090 D", "bf16"),
        ("Tesla T4", "bf16"),
        ("Tesla V100-SXM2-16GB", "tf32"),
        ("Tesla K80", "fp32"),
    ],
)
def test_what_is_not_in_the_table_is_not_taken_for_its_neighbour(name: str, precision: str) -> None:
    assert vendor_peak(name, precision) is None


def test_a_cpu_is_measured_without_touching_the_random_numbers() -> None:
    state = torch.get_rng_state()
    peak, source = peak_flops(torch.device("cpu"), "fp32")
    assert torch.equal(torch.get_rng_state(), state)
    assert "measured" in source
    a = torch.ones(1024, 1024)
    taken = []
    for _ in range(20):
        started = time.perf_counter()
        a @ a
        taken.append(time.perf_counter() - started)
    assert peak == pytest.approx(2 * 1024**3 / min(taken), rel=0.7), "as fast as here, on a machine with other work"
