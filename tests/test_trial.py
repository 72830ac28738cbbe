"""The trial of the heaviest step: which one it is, what it holds, and what happens where it does not fit."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import flight_runs
import models
from flight_runs import Flight
from snaketune.job import StageError
from snaketune.model import memory
from snaketune.model.batches import Plan, Rows
from snaketune.model.lm import load_model
from snaketune.model.methods import Learner, prepare
from snaketune.model.passes import How
from snaketune.model.trial import TRIED, Heaviest, _too_large, tried

CPU = torch.device("cpu")
HOW = How(
    precision="fp32",
    attention="varlen",
    compile=False,
    pass_blocks=4,
    width=32,
    longest=32,
    most_rows=64,
    packed=True,
    loss_on="completion",
    pad=0,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are slower with several threads, and much slower where other programs run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    return flight_runs.made(tmp_path_factory.mktemp("trial"), rows=models.pairs(40))


def how(**changed: Any) -> How:
    return How(**vars(HOW) | changed)


def learner_of(flight: Flight, **settings: Any) -> Learner:
    return prepare(load_model(flight.made["base"]), flight.settings | settings)


def trial_of(flight: Flight, how: How = HOW, **settings: Any) -> Any:
    """The trial of a flight by itself."""
    asked = flight.settings | settings
    rows = Rows(flight.made["train"])
    return tried(lambda: learner_of(flight, **settings), Heaviest(flight.order, rows), asked, how, CPU)


def deep_trial(made: dict[str, str], folder: Path, size: int, width: int = 32, **settings: Any) -> dict[str, Any]:
    """The bytes of a trial of a model of eight blocks, `size` sequences in a pass."""
    flight = Flight(made, folder, batch_size=16, batching="length_grouped", max_steps=1, **settings)
    config = GPT2Config(vocab_size=len(models.tokenizer_of()), n_positions=48, n_embd=width, n_layer=8, n_head=2)
    heaviest = Heaviest(flight.order, Rows(made["train"]))
    settings = flight.settings
    return tried(
        lambda: prepare(GPT2LMHeadModel(config), settings), heaviest, settings, how(pass_blocks=size), CPU
    ).bytes


@pytest.mark.parametrize("attention", ["varlen", "eager"])
@pytest.mark.parametrize("batching", ["packed", "length_grouped", "padded"])
@pytest.mark.parametrize(("processes", "size"), [(1, 4), (1, 3), (1, 1), (2, 2), (2, 1), (3, 1)])
def test_the_heaviest_pass_of_the_whole_plan_is_found(made, tmp_path, attention, batching, processes, size):
    flight = Flight(made, tmp_path, batching=batching, max_steps=17)
    rows, plan = Rows(made["train"]), Plan(flight.order)

    def weight(blocks: list[list[int]]) -> int:
        sizes = [sum(len(rows[row]) for row in block) for block in blocks]
        return sum(sizes) if attention == "varlen" else max(sizes) * len(sizes)

    most = 0
    for step in range(1, plan.steps + 1):
        for process in range(processes):
            share = plan.blocks(step)[process::processes]
            most = max([most, *(weight(share[at : at + size]) for at in range(0, len(share), size))])
    passes, place = Heaviest(flight.order, rows).passes(how(attention=attention, pass_blocks=size), processes)
    assert weight(passes[place]) == most
    assert any(
        [block for blocks in passes for block in blocks] == plan.blocks(step)[process::processes]
        for step in range(1, plan.steps + 1)
        for process in range(processes)
    )


def test_a_padded_pass_is_as_heavy_as_its_longest_row_makes_it(tmp_path):
    rows: Any = SimpleNamespace(lengths=np.array([30, 2, 18, 19, 3, 4]))  # two rows a step
    lines = {"split": ["train"] * 6, "epoch": [0] * 6, "step": [1, 1, 2, 2, 3, 3], "block": [0, 1] * 3}
    batch = pa.record_batch([pa.array(lines[name]) for name in lines] + [pa.array(range(6))], [*lines, "row"])
    with pa.ipc.new_file(tmp_path / "plan.arrow", batch.schema.with_metadata({"plan": '{"steps": 3, "rows": 6}'})) as f:
        f.write_batch(batch)
    heaviest = Heaviest(str(tmp_path / "plan.arrow"), rows)
    assert heaviest.passes(how(attention="varlen"), 1) == ([[[2], [3]]], 0)
    assert heaviest.passes(how(attention="sdpa"), 1) == ([[[0], [1]]], 0)
    assert heaviest.passes(how(attention="sdpa", pass_blocks=1), 1) == ([[[0]], [[1]]], 0)
    assert heaviest.passes(how(attention="varlen", pass_blocks=2), 2) == ([[[0]]], 0)


def test_of_a_gradual_training_its_end_is_tried(made, tmp_path):
    frozen = Flight(made, tmp_path).settings["freeze"] | {"embeddings": True}
    gradual = (None, None, 0.5)  # the first leaves something in caches
    _, *held = [deep_trial(made, tmp_path, 4, method="freeze", freeze=frozen | {"gradual": at}) for at in gradual]
    assert held[0]["activations"] == held[1]["activations"]
    assert held[0]["optimizer"] == held[1]["optimizer"] > 0


def test_gradients_are_no_part_of_the_activations(made, tmp_path):
    held = deep_trial(made, tmp_path, 1, width=128)
    assert held["gradients"] == held["weights"]
    assert held["activations"] < held["gradients"] / 2


def test_the_loss_of_the_trial_is_that_of_the_base_on_the_heaviest_pass(made, tmp_path):
    flight = Flight(made, tmp_path, batching="length_grouped", max_steps=10)
    rows = Rows(made["train"])
    passes, place = Heaviest(flight.order, rows).passes(how(pass_blocks=2), 1)
    model = load_model(made["base"]).eval()
    losses = [
        models.document_losses(model, rows[row].tolist())[int(rows.prompt_lengths[row]) - 1 :]
        for block in passes[place]
        for row in block
    ]
    found = trial_of(flight, how(pass_blocks=2))
    assert found.step["loss"] == pytest.approx(torch.cat(losses).mean().item(), abs=1e-3)
    assert (found.step["passes"], found.step["sequences"]) == (2, 4)
    assert found.step["tokens"] == sum(len(rows[row]) for blocks in passes for block in blocks for row in block)


def test_a_step_of_many_passes_is_tried_with_two_and_its_seconds_are_those_of_all(made, tmp_path):
    flight = Flight(made, tmp_path, batching="length_grouped", batch_size=20)
    step = trial_of(flight, how(pass_blocks=1)).step
    assert (step["passes"], step["sequences"]) == (20, 20)
    assert step["seconds"] == pytest.approx(step["tokens"] / step["tokens_per_second"], rel=0.2, abs=2e-4)


@pytest.mark.parametrize("name", ["adamw_torch_fused", "adamw_torch", "sgd", "rmsprop", "adagrad", "adafactor"])
def test_the_state_that_an_optimizer_will_have_is_foretold(made, tmp_path, name):
    learner = learner_of(Flight(made, tmp_path))
    settings = flight_runs.SETTINGS | TRIED | {"optimizer": name}
    optimizer = memory.make_optimizer(learner.parameters.items(), settings, CPU)
    for parameter in learner.parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    assert memory.state_size(optimizer) == held
    assert memory.future_state_size(learner, settings, CPU) == held
    assert (held == 0) == (name == "sgd")


def test_what_lives_is_counted_with_views_once_and_what_was_there_before_not_at_all():
    megabyte = 1 << 18  # numbers of four bytes
    weights = torch.ones(megabyte, requires_grad=True)
    with memory.Held() as held:
        first = weights.detach() * 2
        view = first.view(2, -1)[1:]
        view.add_(1)
        weights.detach().t()
        assert held.now == 1 << 20
        del first
        assert held.now == 1 << 20
        del view
        assert held.now == 0
        out = (weights.sigmoid().tanh().exp() * 3).sum()  # keeps three for its backward pass
        assert held.now == pytest.approx(3 << 20, abs=64)
        assert held.peak == pytest.approx(4 << 20, abs=64)
        out.backward()
        assert held.now == pytest.approx(1 << 20, abs=64)  # the gradient
    assert weights.grad is not None


def test_activations_grow_with_the_pass_and_shrink_with_checkpointing(made, tmp_path):
    held = {size: deep_trial(made, tmp_path, size)["activations"] for size in (4, 8, 16)}
    assert 1.6 < held[8] / held[4] < 2.2
    assert 1.6 < held[16] / held[8] < 2.2
    assert deep_trial(made, tmp_path, 16, gradient_checkpointing=True)["activations"] < held[16] / 2


def test_the_learner_of_the_trial_is_made_for_it_alone(made, tmp_path):
    flight = Flight(made, tmp_path)
    first = learner_of(flight)
    before = {name: parameter.clone() for name, parameter in first.parameters.items()}
    one, other = trial_of(flight), trial_of(flight)
    assert one.step["loss"] == other.step["loss"]
    assert all(torch.equal(before[name], parameter) for name, parameter in first.parameters.items())


CASES: dict[str, tuple[int, dict[str, Any]]] = {  # MB of addresses that are left, and settings
    "roomy": (4000, {}),
    "auto": (20, {}),
    "given": (20, {"gradient_accumulation": 1}),
    "tiny": (2, {}),
    "saving": (2, {"gradient_checkpointing": True}),
}


@pytest.fixture(scope="module")
def limited(tmp_path_factory) -> dict[str, Any]:
    """Trials in a process that may have little memory: what each found, or its refusal."""
    folder = tmp_path_factory.mktemp("limited")
    made = flight_runs.made(folder, rows=models.pairs(64))
    base = models.base(folder / "wide", width=256)
    (folder / "made.json").write_text(json.dumps(made | {"base": base}))
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent / "workflow/scripts")])
    # Every tensor is given back at once, so that the limit is met at the same place each time.
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    environment |= {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_where_memory_is_full_a_pass_has_half_as_many_sequences_until_it_fits(limited):
    found, roomy = limited["auto"], limited["roomy"]
    assert (roomy["tries"], roomy["pass_blocks"], roomy["passes"]) == (1, 32, 1)
    assert found["tries"] > 1
    assert found["pass_blocks"] == 32 // 2 ** (found["tries"] - 1)
    assert (found["sequences"], found["passes"]) == (32, 32 // found["pass_blocks"])
    assert found["tokens"] == roomy["tokens"]  # the step stays what it was
    assert found["activations"] < roomy["activations"] / 1.5


def test_a_given_number_of_passes_that_does_not_fit_is_refused(limited):
    said = limited["given"]["refused"]
    assert "does not fit into memory" in said
    assert "with 32 sequences in a pass: set `train.gradient_accumulation: auto`, or more than 1" in said


def test_a_single_sequence_that_does_not_fit_is_refused_with_what_is_left_to_do(limited):
    said = {name: limited[name]["refused"] for name in ("tiny", "saving")}
    assert all("not even one sequence of the heaviest step fits" in sentence for sentence in said.values())
    assert limited["tiny"]["tries"] == 6
    assert "`train.gradient_checkpointing: true` or `train.method: lora` or a lower `tokenize.max_" in said["tiny"]
    assert "Set `train.method: lora` or a lower `tokenize.max_length`" in said["saving"]


def test_nothing_that_is_done_already_is_proposed(made, tmp_path):
    flight = Flight(made, tmp_path, method="lora", gradient_checkpointing=True)
    said = _too_large(learner_of(flight), flight.settings, how(pass_blocks=1), CPU)
    assert "Set a lower `tokenize.max_length`, or take a smaller model" in said


def test_errors_of_full_memory_are_told_from_others():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 58, dtype=torch.uint8)
    assert memory.is_full(error.value)
    assert memory.is_full(torch.OutOfMemoryError("CUDA out of memory"))
    assert not memory.is_full(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    wrapped = ValueError("x")
    wrapped.__cause__ = error.value
    assert memory.is_full(wrapped)


def test_faults_that_are_no_lack_of_memory_are_not_tried_again(made, tmp_path):
    tries = []

    def broken() -> Learner:
        learner = learner_of(flight)
        learner.model.transformer.h[0].mlp.c_fc.weight = torch.nn.Parameter(torch.ones(3, 3))
        tries.append(learner)
        return learner

    flight = Flight(made, tmp_path)
    with pytest.raises(RuntimeError, match=r"shape|size"):
        tried(broken, Heaviest(flight.order, Rows(made["train"])), flight.settings, HOW, CPU)
    assert len(tries) == 1


def test_a_step_without_a_finite_loss_is_refused(made, tmp_path):
    flight = Flight(made, tmp_path)

    def broken() -> Learner:
        learner = learner_of(flight)
        learner.model.transformer.ln_f.weight.data *= 1e30
        learner.model.transformer.wte.weight.data *= 1e30
        return learner

    with pytest.raises(StageError, match=r"has a loss of (inf|nan) a token .*another `model.base`"):
        tried(broken, Heaviest(flight.order, Rows(made["train"])), flight.settings, HOW, CPU)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    torch._dynamo.reset()
    monkeypatch.setattr(config.cpp, "cxx", ("/no/such/compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)


def test_compiling_is_given_up_where_it_does_not_work_and_refused_where_it_was_asked_for(made, tmp_path, no_compiler):
    flight = Flight(made, tmp_path)
    found = trial_of(flight, how(compile=True), compile="auto")
    assert found.how == how(compile=False)
    with pytest.raises(StageError, match=r"`train.compile: true` does not work here.*Set `false`"):
        trial_of(flight, how(compile=True), compile=True)


def test_a_limit_of_the_process_is_the_memory_that_there_is():
    there = memory.memory_of(CPU)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (there - 4096, before[1]))
    try:
        assert memory.memory_of(CPU) == there - 4096
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert memory.memory_of(CPU) == there


def main(folder: Path) -> None:
    """Try a step with little memory left, and print what came of it."""
    torch.set_num_threads(1)
    made = json.loads((folder / "made.json").read_text())
    flight = Flight(made, folder / "flight", batch_size=32, batching="length_grouped", max_steps=1)
    heaviest = Heaviest(flight.order, Rows(made["train"]))
    trial_of(flight, how(pass_blocks=1))  # all that is loaded or made once
    print(json.dumps({name: tried_with(flight, heaviest, room, more) for name, (room, more) in CASES.items()}))


def tried_with(flight: Flight, heaviest: Heaviest, room: int, settings: dict[str, Any]) -> dict[str, Any]:
    learners = [learner_of(flight, **settings) for _ in range(6)]  # before memory is short: to load one takes some too
    handed: list[Learner] = []

    def given() -> Learner:
        for learner in handed:  # they are held here, and their gradients are not part of what is tried
            learner.model.zero_grad()
        handed.append(learners[len(handed)])
        return handed[-1]

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (room << 20), resource.RLIM_INFINITY))
    try:
        found = tried(given, heaviest, flight.settings | settings, how(pass_blocks=32), CPU)
        said = {"pass_blocks": found.how.pass_blocks} | found.bytes | found.step
    except StageError as error:
        said = {"refused": str(error)}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return said | {"tries": len(handed)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
