"""What learns, and nothing else: blocks, embeddings, heads, one after another, and what a checkpoint holds of them."""

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import models
from snaketune.job import StageError
from snaketune.model.anatomy import blocks_of
from snaketune.model.lm import load_model
from snaketune.model.methods import learnt_state, load_learnt, prepare, unfreeze

FREEZE = {"first": 0, "last": None, "embeddings": False, "patterns": [], "gradual": None}
KINDS = ["gpt2", "gpt_neo", "llama", "opt", "gpt_neox"]
BLOCKS = {
    "gpt2": "transformer.h.",
    "gpt_neo": "transformer.h.",
    "gptj": "transformer.h.",
    "bloom": "transformer.h.",
    "llama": "model.layers.",
    "mistral": "model.layers.",
    "qwen2": "model.layers.",
    "qwen3": "model.layers.",
    "phi": "model.layers.",
    "gemma2": "model.layers.",
    "opt": "model.decoder.layers.",
    "gpt_neox": "gpt_neox.layers.",
}
NORM = {
    "gpt2": ["transformer.ln_f.bias", "transformer.ln_f.weight"],
    "gpt_neo": ["transformer.ln_f.bias", "transformer.ln_f.weight"],
    "llama": ["model.norm.weight"],
    "opt": ["model.decoder.final_layer_norm.bias", "model.decoder.final_layer_norm.weight"],
    "gpt_neox": ["gpt_neox.final_layer_norm.bias", "gpt_neox.final_layer_norm.weight"],
}
IDS = (torch.arange(24).reshape(2, 12) * 7 + 3) % 300


def deep(kind: str, dropout: float = 0.0) -> Any:
    """A model of three blocks (GPT-Neo: of two)."""
    config = copy.deepcopy(models.build(kind, 300, 0, dropout).config)
    if kind != "gpt_neo":
        config.num_hidden_layers = 3
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def depth(kind: str) -> int:
    return 2 if kind == "gpt_neo" else 3


def settings(method: str, features: str = "head", **freeze: Any) -> dict[str, Any]:
    return {"method": method, "features": features, "freeze": FREEZE | freeze, "seed": 3}


def train(model: Any, steps: int = 3, before: Any = None) -> set[str]:
    """Steps of AdamW with weight decay over all parameters; returns the names of those that changed by a single bit."""
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
    for step in range(1, steps + 1):
        if before:
            before(step)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
        for parameter in model.parameters():
            assert (parameter.grad is None) == (not parameter.requires_grad)
        optimizer.step()
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, start[name])}


def names_of(model: Any, *parts: str) -> set[str]:
    """The names with one of the given beginnings."""
    return {name for name, _ in model.named_parameters() if name.startswith(parts)}


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_blocks_of_any_decoder_are_found_in_order(kind: str) -> None:
    model = models.build(kind, 300, 0)
    names = {id(module): name for name, module in model.named_modules()}
    count = 2 if kind == "gpt_neo" else 1
    assert [names[id(block)] for block in blocks_of(model)] == [f"{BLOCKS[kind]}{number}" for number in range(count)]


def test_a_model_without_blocks_is_refused() -> None:
    model = models.build("gpt2", 300, 0)
    model.config.n_layer = 7
    with pytest.raises(StageError, match="no list of 7 transformer blocks"):
        prepare(model, settings("freeze", first=1))


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_the_model_learns_by_default(kind: str) -> None:
    learner = prepare(deep(kind), settings("full"))
    assert learner.total == learner.trainable == sum(p.numel() for p in deep(kind).parameters())
    assert learner.words == f"all {learner.total:,} parameters learn"
    # the bias of attention's keys shifts all scores alike: its gradient is 0 up to rounding
    assert {name for name in names_of(learner.model, "") - train(learner.model) if "k_proj.bias" not in name} == set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["first", "last"])
def test_frozen_blocks_keep_every_bit_and_all_else_learns(kind: str, side: str) -> None:
    model = deep(kind)
    lower = 1 if side == "first" else depth(kind) - 1
    learner = prepare(model, settings("freeze", **{side: 1}))
    frozen = names_of(model, *(f"{BLOCKS[kind]}{number}." for number in range(lower)))
    assert set(learner.parameters) == names_of(model, "") - frozen
    moved = train(model)
    assert not moved & frozen
    assert {name for name in set(learner.parameters) - moved if "k_proj.bias" not in name} == set()
    assert f"the first {lower} of {depth(kind)} blocks are frozen" in learner.words


def test_frozen_embeddings_freeze_the_positions_and_a_tied_head() -> None:
    model = deep("gpt2")
    learner = prepare(model, settings("freeze", embeddings=True))
    assert names_of(model, "") - train(model) == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert "the head tied to them" in learner.words


def test_an_untied_head_learns_over_frozen_embeddings() -> None:
    model = deep("llama")
    learner = prepare(model, settings("freeze", embeddings=True))
    assert names_of(model, "") - train(model) == {"model.embed_tokens.weight"}
    assert "tied" not in learner.words


def test_opts_positions_which_are_no_plain_embedding_are_frozen_too() -> None:
    model = deep("opt")
    prepare(model, settings("freeze", embeddings=True))
    assert not train(model) & {"model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight"}


def test_a_pattern_freezes_what_it_is_found_in() -> None:
    model = deep("gpt2")
    learner = prepare(model, settings("freeze", patterns=[r"\.ln_\d\.", "h.2.mlp"]))
    frozen = {name for name in names_of(model, "") if ".ln_1." in name or ".ln_2." in name or ".h.2.mlp" in name}
    assert len(frozen) == 12 + 4
    assert names_of(model, "") - set(learner.parameters) == frozen
    assert not train(model) & frozen
    assert r"12 tensors named like `\.ln_\d\.` are frozen" in learner.words


def test_a_pattern_may_name_a_tied_tensor_by_its_second_name() -> None:
    model = deep("gpt2")
    prepare(model, settings("freeze", patterns=["lm_head"]))
    assert "transformer.wte.weight" not in train(model)


def test_a_body_whose_embeddings_alone_learn_is_no_frozen_body() -> None:
    learner = prepare(deep("gpt2"), settings("freeze", patterns=[r"\.h\.", "ln_f", "wpe"]))
    assert list(learner.parameters) == ["transformer.wte.weight"]  # the tied head is the same tensor
    assert learner.body_learns


@pytest.mark.parametrize(
    ("freeze", "sentence"),
    [
        ({"patterns": ["c_atn"]}, "`c_atn` is found in the name of no parameter"),
        ({"patterns": ["."]}, "leaves nothing to learn"),
        ({"first": 4}, "`train.freeze.first: 4`: the model has 3 blocks"),
        ({"last": 4}, "`train.freeze.last: 4`: the model has 3 blocks"),
        ({}, "with nothing frozen"),
    ],
)
def test_a_freeze_that_makes_no_sense_is_refused(freeze: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StageError, match=sentence):
        prepare(deep("gpt2"), settings("freeze", **freeze))


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_alone_learns_and_comes_back_from_the_disk_beside_the_bases_embeddings(kind: str, tmp_path) -> None:
    model = deep(kind)
    base = {name: value.clone() for name, value in model.state_dict().items()}
    learner = prepare(model, settings("features"))
    assert train(model) == set(learner.parameters) == {"lm_head.weight"}
    assert not learner.body_learns
    assert ("untied" in learner.words) == (kind in ("gpt2", "gpt_neo", "opt"))
    model.eval().save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, base[name]) == (name != "lm_head.weight"), name
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert loaded.config.tie_word_embeddings is False
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_an_untied_head_stays_untied_when_the_model_ties_its_weights_anew() -> None:
    model = deep("gpt2")
    prepare(model, settings("features"))
    model.tie_weights()
    assert model.lm_head.weight is not model.transformer.wte.weight


@pytest.mark.parametrize("kind", KINDS)
def test_of_the_last_block_and_the_norm_after_it_learns_no_more(kind: str) -> None:
    model = deep(kind)
    learner = prepare(model, settings("features", "last_block"))
    assert set(learner.parameters) == names_of(model, f"{BLOCKS[kind]}{depth(kind) - 1}.", *NORM[kind])
    assert train(model) <= set(learner.parameters)
    assert learner.body_learns


TABLE = {  # of 10 steps, all learns after 60 %: four groups, begun after 0, 2, 4 and 6 steps
    (1, 2): ["transformer.h.2.", "transformer.ln_f."],
    (3, 4): ["transformer.h.1.", "transformer.h.2.", "transformer.ln_f."],
    (5, 6): ["transformer.h.", "transformer.ln_f."],
    (7, 8, 9, 10): ["transformer."],
}


def test_blocks_join_from_the_top_at_equal_shares_and_the_embeddings_last() -> None:
    learner = prepare(deep("gpt2"), settings("freeze", gradual=0.6))
    expected = {step: names_of(learner.model, *parts) for steps, parts in TABLE.items() for step in steps}
    learns = lambda: {name for name, p in learner.model.named_parameters() if p.requires_grad}  # noqa: E731
    assert learns() == expected[1]
    assert [unfreeze(learner, step, 10) for step in range(1, 11)] == [step in (3, 5, 7) for step in range(1, 11)]
    for step in (10, 2, 6, 1, 7, 4, 3):  # as after a checkpoint: the step alone decides
        for parameter in learner.parameters.values():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        unfreeze(learner, step, 10)
        assert learns() == expected[step], step
        assert all(p.grad is None for name, p in learner.parameters.items() if name not in expected[step])


def test_what_has_not_joined_yet_keeps_every_bit() -> None:
    learner = prepare(deep("gpt2"), settings("freeze", gradual=0.6))
    moved = train(learner.model, 4, lambda step: unfreeze(learner, step, 10))
    assert moved == names_of(learner.model, *TABLE[(3, 4)])
    assert set(learner.parameters) == names_of(learner.model, "")


def test_what_is_frozen_never_joins() -> None:
    learner = prepare(deep("gpt2"), settings("freeze", gradual=0.5, first=1, embeddings=True))
    assert unfreeze(learner, 6, 10)  # two groups are left: the second begins after half of the steps
    assert {name for name, p in learner.model.named_parameters() if p.requires_grad} == set(learner.parameters)
    assert set(learner.parameters) == names_of(
        learner.model, "transformer.h.1.", "transformer.h.2.", "transformer.ln_f"
    )


def test_a_tenth_of_ten_steps_is_one_step() -> None:
    learner = prepare(deep("gpt2"), settings("freeze", gradual=0.1, first=1, embeddings=True))
    assert [unfreeze(learner, step, 10) for step in (1, 2, 3)] == [False, True, False]


def test_an_untied_head_learns_from_the_first_step_and_all_learns_at_the_last() -> None:
    learner = prepare(deep("llama"), settings("freeze", gradual=1.0))
    assert names_of(learner.model, "lm_head") <= {n for n, p in learner.model.named_parameters() if p.requires_grad}
    unfreeze(learner, 2, 2)
    assert all(parameter.requires_grad for parameter in learner.model.parameters())


def test_without_a_schedule_nothing_joins() -> None:
    learner = prepare(deep("gpt2"), settings("freeze", first=2))
    assert not any(unfreeze(learner, step, 5) for step in range(1, 6))


CASES = [
    settings("full"),
    settings("freeze", first=1),
    settings("freeze", gradual=0.5),
    settings("features"),
    settings("features", "last_block"),
]


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gpt_neox"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['method']}-{case['features']}")
def test_a_learnt_state_makes_a_fresh_model_the_trained_one_bit_for_bit(kind: str, case: dict[str, Any]) -> None:
    learner = prepare(deep(kind), case)
    train(learner.model, 4, lambda step: unfreeze(learner, step, 4))
    state = learnt_state(learner)
    assert set(state) == set(learner.parameters)
    assert sum(tensor.numel() for tensor in state.values()) == learner.trainable
    logits = learner.model(IDS).logits
    train(learner.model, 1)  # a state is a copy
    fresh = prepare(deep(kind), case)
    assert not torch.equal(fresh.model(IDS).logits, logits)
    load_learnt(fresh, state)
    assert torch.equal(fresh.model(IDS).logits, logits)


def test_a_state_of_another_method_is_refused() -> None:
    state = learnt_state(prepare(deep("gpt2"), settings("features")))
    with pytest.raises(StageError, match="the checkpoint is of another model"):
        load_learnt(prepare(deep("gpt2"), settings("full")), state)


def test_the_training_draws_the_same_numbers_whatever_learns() -> None:
    for case in CASES:
        model = deep("gpt2", dropout=0.5).train()
        before = torch.get_rng_state()
        prepare(model, case)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(module.training for module in model.modules())
