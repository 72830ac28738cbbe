"""The optimizers: which weights decay, what each takes, what is refused, and that a resumed one goes on bit for bit."""

import importlib.util
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

import models
from snaketune.job import StageError
from snaketune.model.optimizers import evaluating, make_optimizer, weight_groups
from snaketune.optimizer_names import OPTIMIZER_ARGS, OPTIMIZERS, PACKAGES, REFUSED

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    "optimizer": "adamw_torch_fused",
    "optimizer_args": {},
    "learning_rate": 0.01,
    "weight_decay": 0.1,
    "scheduler": "constant",
    "average": {"kind": "none"},
}
SLOW = {"adamw_torch_4bit", "adamw_torch_8bit"}  # torchao compiles for half a minute
HERE = [
    name
    for name in OPTIMIZERS
    if not name.startswith("paged")
    and name not in SLOW
    and (name not in PACKAGES or importlib.util.find_spec(PACKAGES[name][1]))
]
LACKING = [name for name in OPTIMIZERS if name in PACKAGES and not importlib.util.find_spec(PACKAGES[name][1])]


def made(model: torch.nn.Module, name: str = "adamw_torch_fused", **arguments: Any) -> torch.optim.Optimizer:
    settings = SETTINGS | {"optimizer": name, "optimizer_args": arguments}
    return make_optimizer(model.named_parameters(), settings, CPU)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Iterator[float]:
    ids = torch.arange(40)[None] * 7 % 300
    for _ in range(steps):
        logits = model(ids, use_cache=False).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


# Which weights decay


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt", "qwen3", "gpt_neox", "gemma2", "bloom", "phi", "gptj"])
def test_the_weights_that_decay_are_those_of_the_trainer(kind: str) -> None:
    model = models.build(kind, 300, 0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying, spared = weight_groups(model.named_parameters(), 0.1)
    own = {names[id(parameter)] for parameter in decaying["params"]}
    of_trainer = set(Trainer.get_decay_parameter_names(None, model)) & set(names.values())
    assert own == of_trainer
    assert (decaying["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert len(decaying["params"]) + len(spared["params"]) == len(names)


def test_embeddings_decay_and_no_vector_and_no_norm_does() -> None:
    spared_names = [
        "attn.relative_attention_bias.weight",
        "input_layernorm.weight",
        "blocks.0.norm.weight",
        "q_norm.weight",
    ]
    named = [(name, torch.nn.Parameter(torch.ones(4, 2))) for name in ["wte.weight", *spared_names]]
    named.append(("lora_magnitude_vector", torch.nn.Parameter(torch.ones(4))))
    decaying, spared = weight_groups(named, 0.1)
    assert [id(p) for p in decaying["params"]] == [id(named[0][1])]
    assert [id(p) for p in spared["params"]] == [id(p) for _, p in named[1:]]


def test_a_decaying_weight_without_gradient_signal_shrinks_and_a_bias_does_not() -> None:
    layer = torch.nn.Linear(3, 3)
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    optimizer = made(layer)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(layer.weight, before["weight"] * (1 - 0.01 * 0.1))
    assert torch.equal(layer.bias, before["bias"])


def test_where_nothing_may_learn_there_is_a_sentence() -> None:
    with pytest.raises(StageError, match=r"`train\.method`"):
        make_optimizer([], SETTINGS, CPU)


# Every optimizer


@pytest.mark.parametrize("name", HERE)
def test_a_resumed_optimizer_goes_on_bit_for_bit(name: str) -> None:
    model = models.build("gpt2", 300, 0, width=32)
    optimizer = made(model, name)
    first = list(train(model, optimizer, 7))
    saved = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], saved)
    rest = list(train(model, optimizer, 3))
    again = models.build("gpt2", 300, 0, width=32)
    resumed = made(again, name)
    weights, state = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert list(train(again, resumed, 3)) == rest
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert rest[-1] < first[0], "it learns"


@pytest.mark.parametrize("name", HERE)
def test_every_optimizer_has_two_groups_with_their_peak_rate(name: str) -> None:
    groups = made(models.build("gpt2", 300, 0), name).param_groups
    assert [(group["initial_lr"], float(group["lr"]), group["weight_decay"]) for group in groups] == [
        (0.01, pytest.approx(0.01), 0.1),
        (0.01, pytest.approx(0.01), 0.0),
    ]


def test_the_default_is_torchs_fused_adamw() -> None:
    model, reference = models.build("gpt2", 300, 0), models.build("gpt2", 300, 0)
    optimizer = made(model, beta2=0.95, eps="1e-6")
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["fused"] is True
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.9, 0.95), 1e-6)
    by_name = dict(reference.named_parameters())
    decays = [by_name[name] for name in Trainer.get_decay_parameter_names(None, reference) if name in by_name]
    rest = [p for p in by_name.values() if not any(p is decaying for decaying in decays)]
    groups = [{"params": decays, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-6)
    assert list(train(model, optimizer, 3)) == pytest.approx(list(train(reference, plain, 3)), rel=1e-5)


@pytest.mark.parametrize("name", ["adamw_torch_fused", "adamw_torch", "sgd", "adagrad", "rmsprop", "adafactor"])
def test_what_is_made_here_is_what_the_trainer_makes(name: str, tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path), optim=name, learning_rate=0.01, use_cpu=True, report_to=[])
    kind, given = Trainer.get_optimizer_cls_and_kwargs(arguments)
    theirs = kind([torch.nn.Parameter(torch.ones(1))], **given)
    own = made(models.build("gpt2", 300, 0), name)
    assert type(own) is type(theirs)
    assert own.defaults == theirs.defaults


def test_adafactor_follows_the_schedule_and_not_its_own_rate() -> None:
    defaults = made(models.build("gpt2", 300, 0), "adafactor", eps2=0.01, beta1=0.9).defaults
    assert (defaults["scale_parameter"], defaults["relative_step"], defaults["lr"]) == (False, False, 0.01)
    assert (defaults["eps"], defaults["beta1"]) == ((1e-30, 0.01), 0.9)


# What is refused, in words


def test_an_unknown_argument_is_answered_with_those_that_are_taken() -> None:
    with pytest.raises(StageError, match=r"`momentum`, which adamw_torch does not take; it takes beta1, beta2, eps"):
        made(models.build("gpt2", 300, 0), "adamw_torch", momentum=0.9)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("adamw_torch", {"eps": "small"}, "must be a number"),
        ("adamw_torch", {"beta1": True}, "must be a number"),
        ("sgd", {"nesterov": 0.5}, "must be true or false"),
        ("adamw_torch", {"beta2": 1.5}, "do not suit"),
        ("sgd", {"nesterov": True}, "do not suit"),  # torch asks for a momentum with it
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(StageError, match=says):
        made(models.build("gpt2", 300, 0), name, **arguments)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_work_here_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(StageError) as refusal:
        made(models.build("gpt2", 300, 0), name)
    assert REFUSED[name] in str(refusal.value)


def test_paged_memory_needs_a_gpu() -> None:
    for name in OPTIMIZERS:
        if name.startswith("paged"):
            with pytest.raises(StageError, match="of a GPU, and there is none"):
                made(models.build("gpt2", 300, 0), name)


@pytest.mark.skipif(not LACKING, reason="all optional packages are installed")
def test_a_missing_package_is_named_with_how_to_install_it() -> None:
    for name in (name for name in LACKING if not name.startswith("paged")):
        with pytest.raises(StageError, match=f"pip install {PACKAGES[name][0]}"):
            made(models.build("gpt2", 300, 0), name)


def test_every_name_of_transformers_is_offered_or_refused() -> None:
    known = {name.value for name in OptimizerNames}
    assert set(OPTIMIZERS) | set(REFUSED) == known
    assert not set(OPTIMIZERS) & set(REFUSED)
    assert set(PACKAGES) < set(OPTIMIZERS)
    assert all(OPTIMIZER_ARGS.values())


def test_the_names_are_read_without_torch() -> None:
    scripts = Path(__file__).parents[1] / "workflow/scripts"
    code = "import snaketune.optimizer_names, sys; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=scripts, check=False).returncode == 0


# Evaluation


def test_around_an_evaluation_an_ordinary_optimizer_leaves_the_weights_alone() -> None:
    model = models.build("gpt2", 300, 0)
    optimizer = made(model)
    list(train(model, optimizer, 2))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with evaluating(optimizer):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_around_an_evaluation_a_schedule_free_optimizer_shows_its_average_and_comes_back_exactly() -> None:
    pytest.importorskip("schedulefree", reason="an optional package")
    model = models.build("gpt2", 300, 0)
    optimizer = made(model, "schedule_free_adamw")
    list(train(model, optimizer, 5))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with evaluating(optimizer):
        moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True)]
    assert sum(moved) > len(moved) / 2
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    list(train(model, optimizer, 1))  # it is in its training mode again


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"scheduler": "linear"}, r"train\.scheduler: constant"), ({"average": {"kind": "ema"}}, r"train\.average\.kind")],
)
def test_a_schedule_free_optimizer_goes_with_no_schedule_and_no_average(changes: dict[str, Any], key: str) -> None:
    pytest.importorskip("schedulefree", reason="an optional package")
    settings = SETTINGS | {"optimizer": "schedule_free_adamw"} | changes
    with pytest.raises(StageError, match=key):
        make_optimizer(models.build("gpt2", 300, 0).named_parameters(), settings, CPU)


def test_an_8_bit_optimizer_keeps_the_state_of_embeddings_in_32_bits() -> None:
    pytest.importorskip("bitsandbytes", reason="an optional package")
    for _ in range(3):  # its list is kept by addresses, which are used again
        model = models.build("gpt2", 300, 0, width=64)
        tables = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
        settings = SETTINGS | {"optimizer": "adamw_8bit"}
        optimizer = make_optimizer(model.named_parameters(), settings, CPU, tables)
        list(train(model, optimizer, 1))
        assert {optimizer.state[table]["state1"].dtype for table in tables} == {torch.float32}
        assert optimizer.state[model.transformer.h[0].mlp.c_fc.weight]["state1"].dtype == torch.uint8
