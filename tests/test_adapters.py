"""Adapters: they alone learn, and merged they are the same model, a plain one that anything can load."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch

import models
from snaketune.job import StageError
from snaketune.model.adapters import load_quantised, merge, save_adapter
from snaketune.model.lm import load_model
from snaketune.model.methods import Learner, learnt_state, load_learnt, prepare

LORA = {"variant": "lora", "rank": 4, "alpha": 12, "dropout": 0.0, "targets": "auto", "save_adapter": False}
VARIANTS = ["lora", "rslora", "dora", "pissa"]
KINDS = ["gpt2", "gpt_neo", "llama", "opt", "gpt_neox"]
IDS = (torch.arange(24).reshape(2, 12) * 7 + 3) % 300
C_FC = "transformer.h.0.mlp.c_fc"


def settings(method: str = "lora", seed: int = 3, **lora: Any) -> dict[str, Any]:
    return {"method": method, "lora": LORA | lora, "seed": seed}


def train(learner: Learner, steps: int = 3) -> torch.Tensor:
    """Steps of AdamW with weight decay over all that takes a gradient; returns the logits afterwards."""
    optimizer = torch.optim.AdamW(learner.model.parameters(), lr=0.02, weight_decay=0.1)
    learner.model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        ids = IDS.to(learner.model.device)
        logits = learner.model(ids).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
    learner.model.eval()
    return logits_of(learner.model)


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS.to(model.device)).logits


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_alone_learn_and_merged_they_are_the_same_plain_model(kind: str, variant: str, tmp_path: Any) -> None:
    model = models.build(kind, 300, 0)
    base, before = {name: value.clone() for name, value in model.state_dict().items()}, logits_of(model)
    learner = prepare(model, settings(variant=variant))
    assert near(logits_of(model), before)  # adapters begin as nothing
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if name not in learner.parameters}
    start = learnt_state(learner)
    after = train(learner)
    assert (after - before).abs().max() > 0.1
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in frozen.items())
    assert all(model.get_parameter(name).grad is None for name in frozen)
    assert all(not torch.equal(p, start[name]) for name, p in learner.parameters.items())
    assert all("lora_" in name for name in learner.parameters)
    merged = merge(learner)
    assert near(logits_of(merged), after)
    merged.save_pretrained(tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    loaded = load_model(tmp_path)
    assert type(loaded) is type(merged)
    assert set(loaded.state_dict()) == set(base)
    assert torch.equal(logits_of(loaded), logits_of(merged))
    outside = [name for name in base if not any(f".{number}." in name for number in (0, 1))]
    assert all(torch.equal(loaded.state_dict()[name], base[name]) for name in outside)


@pytest.mark.parametrize(("variant", "scale"), [("lora", 12 / 4), ("rslora", 12 / 2)])
def test_the_merged_weight_is_the_bases_plus_scale_times_b_times_a(variant: str, scale: float) -> None:
    model = models.build("gpt2", 300, 0)
    weight = model.get_submodule(C_FC).weight.detach().clone()  # Conv1D: [in, out]
    learner = prepare(model, settings(variant=variant))
    train(learner)
    a, b = (learner.parameters[f"{C_FC}.lora_{side}.default.weight"].detach() for side in "AB")
    assert near(merge(learner).get_submodule(C_FC).weight, weight + scale * (b @ a).T)


def test_dora_learns_the_length_of_each_output_apart() -> None:
    model = models.build("gpt2", 300, 0)
    weight = model.get_submodule(C_FC).weight.detach().clone()
    learner = prepare(model, settings(variant="dora"))
    name = f"{C_FC}.lora_magnitude_vector.default.weight"
    assert near(learner.parameters[name], weight.norm(dim=0))
    train(learner)
    magnitude = learner.parameters[name].detach().clone()
    assert near(merge(learner).get_submodule(C_FC).weight.norm(dim=0), magnitude)


def test_pissa_starts_from_the_largest_singular_values() -> None:
    model = models.build("gpt2", 300, 0)
    left, _, right = torch.linalg.svd(model.get_submodule(C_FC).weight.detach(), full_matrices=False)
    large, small = torch.tensor([9.0, 8, 7, 6] + [0] * 12), torch.tensor([0.0] * 4 + [1] * 12)
    model.get_submodule(C_FC).weight.data = (left * (large + small)) @ right
    learner = prepare(model, settings(variant="pissa"))
    a, b = (learner.parameters[f"{C_FC}.lora_{side}.default.weight"].detach() for side in "AB")
    assert torch.allclose(3 * (b @ a).T, (left * large) @ right, atol=1e-4)
    assert torch.allclose(model.get_submodule(C_FC).base_layer.weight, (left * small) @ right, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_adapters_begin_by_the_seed_and_draw_no_number_of_the_trainings(variant: str) -> None:
    def first(seed: int, drawn: int) -> dict[str, torch.Tensor]:
        model = models.build("gpt2", 300, 0)
        torch.manual_seed(drawn)
        before = torch.get_rng_state()
        state = learnt_state(prepare(model, settings(variant=variant, seed=seed)))
        assert torch.equal(torch.get_rng_state(), before)
        return state

    one, same, other = first(1, 10), first(1, 20), first(2, 10)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_by_default_every_linear_layer_of_the_blocks_gets_an_adapter_and_no_other() -> None:
    learner = prepare(models.build("gpt2", 300, 0), settings())
    layers = {name.partition(".lora_")[0] for name in learner.parameters}
    assert layers == {f"transformer.h.0.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert learner.trainable == 4 * ((16 + 48) + (16 + 16) + (16 + 64) + (64 + 16))
    assert learner.words == "1,024 of 8,880 parameters learn: LoRA of rank 4 on c_attn, c_proj, c_fc"


def test_named_layers_get_an_adapter_by_the_end_of_their_name() -> None:
    learner = prepare(models.build("gpt2", 300, 0), settings(targets=["attn.c_proj", "c_fc"]))
    layers = {name.partition(".lora_")[0] for name in learner.parameters}
    assert layers == {"transformer.h.0.attn.c_proj", C_FC}


@pytest.mark.parametrize("target", ["q_proj", "fc", "wte", "ln_1"])
def test_a_name_of_no_linear_layer_is_refused_with_those_that_there_are(target: str) -> None:
    with pytest.raises(StageError, match=f"no linear layer `{target}`; it has c_attn, c_proj, c_fc, lm_head"):
        prepare(models.build("gpt2", 300, 0), settings(targets=["c_attn", target]))


def test_pissa_of_a_rank_beyond_the_singular_values_is_refused() -> None:
    with pytest.raises(StageError, match=r"`train.lora.rank: 17` is more than the 16 singular values"):
        prepare(models.build("gpt2", 300, 0), settings(variant="pissa", rank=17))


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gpt_neox"])
def test_an_adapter_on_a_tied_head_leaves_the_embeddings_alone(kind: str, tmp_path: Any) -> None:
    model = models.build(kind, 300, 0)
    table = model.get_input_embeddings().weight.detach().clone()
    head = model.get_output_embeddings().weight.detach().clone()
    learner = prepare(model, settings(targets=["lm_head"]))
    after = train(learner)
    merge(learner).save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert torch.equal(loaded.get_input_embeddings().weight, table)
    assert not torch.equal(loaded.get_output_embeddings().weight, head)
    assert near(logits_of(loaded), after)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_learnt_state_holds_the_adapters_alone_and_brings_them_back(kind: str, variant: str) -> None:
    learner = prepare(models.build(kind, 300, 0), settings(variant=variant))
    after = train(learner)
    state = learnt_state(learner)
    assert all("lora_" in name for name in state)
    fresh = prepare(models.build(kind, 300, 0), settings(variant=variant))
    load_learnt(fresh, state)
    assert torch.equal(logits_of(fresh.model), after)


def test_a_pissa_state_fits_a_base_from_which_another_machine_took_other_values() -> None:
    weight = models.build("gpt2", 300, 0).get_submodule(C_FC).weight.detach().clone()
    state = learnt_state(prepare(models.build("gpt2", 300, 0), settings(variant="pissa")))
    torch.manual_seed(4)
    state = {name: torch.randn_like(tensor) * 0.3 for name, tensor in state.items()}
    learner = prepare(models.build("gpt2", 300, 0), settings(variant="pissa"))
    load_learnt(learner, state)
    (a, b), (a0, b0) = ([state[f"{C_FC}.lora_{side}.default.weight{end}"] for side in "AB"] for end in ("", ".start"))
    assert all(torch.equal(value, state[name]) for name, value in learnt_state(learner).items())
    assert near(merge(learner).get_submodule(C_FC).weight, weight + 3 * (b @ a - b0 @ a0).T)


@pytest.mark.parametrize("targets", ["auto", ["lm_head", "c_attn"]])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_adapter_makes_the_base_the_tuned_model(variant: str, targets: Any, tmp_path: Any) -> None:
    from peft import PeftModel

    learner = prepare(models.build("gpt2", 300, 0), settings(variant=variant, targets=targets))
    after = train(learner)
    save_adapter(learner, tmp_path / "adapter", "made/base")
    assert near(logits_of(learner.model), after)
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    loaded = PeftModel.from_pretrained(models.build("gpt2", 300, 0), tmp_path / "adapter")
    assert near(logits_of(loaded), after)
    config = loaded.peft_config["default"]
    assert (config.base_model_name_or_path, config.r) == ("made/base", 8 if variant == "pissa" else 4)
    assert near(logits_of(merge(learner)), after)


def test_dropout_falls_on_what_the_adapters_read_in_training_alone() -> None:
    learner = prepare(models.build("gpt2", 300, 0), settings(dropout=0.5))
    after = train(learner)
    assert torch.equal(logits_of(learner.model), after)
    learner.model.train()
    assert not near(logits_of(learner.model), after)
    with learner.peft.disable_adapter():
        assert torch.equal(logits_of(learner.model), logits_of(models.build("gpt2", 300, 0)))


def test_adapters_learn_under_recomputed_activations() -> None:
    learner = prepare(models.build("gpt2", 300, 0), settings())
    plain = train(learner)
    again = prepare(models.build("gpt2", 300, 0), settings())
    again.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert torch.equal(train(again), plain)


def test_without_adapters_the_merged_model_is_the_model() -> None:
    learner = prepare(models.build("gpt2", 300, 0), {"method": "full", "seed": 1})
    assert merge(learner) is learner.model


def test_adapters_over_a_quantised_base_are_merged_into_the_whole_one() -> None:
    learner = prepare(models.build("gpt2", 300, 0), settings("qlora"))  # a base that happens to be exact
    after = train(learner)
    assert learner.words.endswith("over a base in 4 bits")
    with pytest.raises(ValueError, match="hand it over as `base`"):
        merge(learner)
    base = models.build("gpt2", 300, 0)
    merged = merge(learner, base)
    assert merged is base
    assert near(logits_of(merged), after)


@pytest.mark.skipif(not torch.cuda.is_available() or not find_spec("bitsandbytes"), reason="needs a GPU, bitsandbytes")
@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_what_was_trained_in_4_bits_is_what_is_published(kind: str, variant: str, tmp_path: Any) -> None:
    models.build(kind, 300, 0, width=64).save_pretrained(tmp_path)
    model = load_quantised(tmp_path, torch.device("cuda"), torch.float32)
    learner = prepare(model, settings("qlora", variant=variant))
    assert learner.total == sum(parameter.numel() for parameter in load_model(tmp_path).parameters())
    after = train(learner, 10).cpu()
    merged = merge(learner, load_model(tmp_path))
    assert torch.allclose(logits_of(merged), after, rtol=0, atol=1e-3)
    assert all(parameter.dtype == torch.float32 for parameter in merged.parameters())


def test_qlora_is_refused_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"needs a CUDA GPU; set `train\.method: lora`"):
        load_quantised("base", torch.device("cpu"), torch.bfloat16)
    if find_spec("bitsandbytes") is None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        with pytest.raises(StageError, match="`pip install bitsandbytes`"):
            load_quantised("base", torch.device("cuda"), torch.bfloat16)


def test_pissa_has_nothing_to_decompose_in_4_bits() -> None:
    with pytest.raises(StageError, match="in 4 bits; set `lora`"):
        prepare(models.build("gpt2", 300, 0), settings("qlora", variant="pissa"))
