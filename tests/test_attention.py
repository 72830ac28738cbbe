"""Each way of computing attention, held against each document alone through the model's own."""

import json
import math
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from torch.nn.attention import varlen

import models
from snaketune.job import StageError
from snaketune.model import attention, documents_cpu
from snaketune.model.batches import Batch, collate
from snaketune.model.objective import Objective

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
draw = np.random.default_rng(7)
LENGTHS = [1, 2, 11, 7, 1, 30, 16, 3, 3, 5]  # 79 tokens: more than the models have positions for
ROWS = [draw.integers(1, 60, length).astype(np.int32) for length in LENGTHS]
VARLEN = ["gpt2", "gpt_neo", "gptj", "gpt_neox", "llama", "mistral", "qwen2", "opt"]


def build(kind: str, dropout: float = 0.0) -> torch.nn.Module:
    """A model whose documents are longer than its windows, and whose heads share keys where they can."""
    model = models.build(kind, 60, 0, dropout)
    if kind in ("mistral", "qwen2"):
        config = model.config
        config.num_attention_heads = 4  # two to a key
        config.sliding_window = 5 if kind == "mistral" else None
        weights = model.state_dict()
        model = type(model)(config)
        for name, tensor in model.state_dict().items():
            if tensor.shape == weights[name].shape:
                tensor.copy_(weights[name])
    return model.eval()


def flat(rows: list[np.ndarray] = ROWS, **options: int) -> Batch:
    return collate([list(range(len(rows)))], rows, [0] * len(rows), "all", 0, "flat", **options)


def outcome(model: torch.nn.Module, loss: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def alone(model: torch.nn.Module) -> tuple[float, dict[str, torch.Tensor]]:
    return outcome(model, torch.cat([models.document_losses(model, row.tolist()) for row in ROWS]).sum())


def assert_same(found: tuple, expected: tuple, tolerance: float = 1e-6) -> None:
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    largest = max(grad.abs().max().item() for grad in expected[1].values())
    assert found[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        assert (found[1][name] - grad).abs().max().item() <= tolerance * largest, name


def plain(query, key, value, lengths, scale, window=None) -> torch.Tensor:
    """The independent way, in fp64, document by document. query, key, value: [N, H, D]."""
    outs = []
    for start, end in pairwise([0, *accumulate(lengths)]):
        q, k, v = (tensor[start:end].double().transpose(0, 1) for tensor in (query, key, value))
        place = torch.arange(end - start)
        hidden = (place[None] > place[:, None]) | (place[None] <= place[:, None] - (window or math.inf))
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(hidden, -math.inf)
        outs.append((torch.softmax(scores, -1) @ v).transpose(0, 1))
    return torch.cat(outs)


@pytest.fixture
def flash(monkeypatch):
    """The path of a GPU on the CPU: torch's varlen operation with a plain kernel in the place of its own."""
    calls = []

    def scores(query, key, starts, scale, window):
        places = torch.arange(len(query))
        document = torch.searchsorted(starts[1:].contiguous(), places.int(), right=True)
        seen = (document[:, None] == document) & (places <= places[:, None])
        if window[0] >= 0:
            seen &= places >= places[:, None] - window[0]
        products = torch.einsum("qhd,khd->hqk", query, key) * scale
        return torch.softmax(products.masked_fill(~seen, -math.inf), -1)

    @varlen._varlen_attn.register_kernel("cpu")
    def _(query, key, value, starts, _starts, longest, _longest, causal, scale, window, gqa=False, *_more):
        assert starts.dtype == torch.int32
        assert longest >= int(starts.diff().max())
        calls.append((causal, tuple(window), gqa))
        groups = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
        out = torch.einsum("hqk,khd->qhd", scores(query, key, starts, scale, window), value).contiguous()
        return out, torch.zeros(out.shape[1], len(out)), torch.zeros(2, dtype=torch.uint64)

    @varlen._varlen_attn_backward.register_kernel("cpu")
    def _(grad, query, key, value, _out, _lse, starts, _starts, _l, _m, _causal, _rng, scale, window):
        heads, groups = key.shape[1], query.shape[1] // key.shape[1]
        keys, values = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
        weights = scores(query, keys, starts, scale, window)
        d_weights = torch.einsum("qhd,khd->hqk", grad, values)
        d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True)) * scale
        d_key = torch.einsum("hqk,qhd->khd", d_scores, query)
        d_value = torch.einsum("hqk,qhd->khd", weights, grad)
        shared = (tensor.unflatten(1, (heads, groups)).sum(2) for tensor in (d_key, d_value))
        return torch.einsum("hqk,khd->qhd", d_scores, keys).contiguous(), *shared

    monkeypatch.setattr(attention, "FLASH", {"cuda", "cpu"})
    return calls


@pytest.mark.parametrize("kind", VARLEN)
def test_packed_losses_and_gradients_are_those_of_each_document_alone(kind, flash, monkeypatch):
    model = build(kind)
    expected = alone(model)
    attention.use(model, "varlen")
    assert_same(outcome(model, Objective(model)(flat())), expected)
    window = {"mistral": (4, 0), "gpt_neo": (3, 0)}.get(kind, (-1, 0))
    assert flash[-1] == (window == (-1, 0), window, kind in ("mistral", "qwen2"))
    monkeypatch.setattr(attention, "FLASH", {"cuda"})
    found = outcome(model, Objective(model)(flat()))
    assert_same(found, expected)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(outcome(model.train(), Objective(model)(flat())), found) if kind != "opt" else None  # OPT drops out
    model.eval().gradient_checkpointing_disable()
    if "sdpa" in attention.candidates(model, CPU, "fp32") and kind != "opt":
        attention.use(model, "sdpa")
        blocks = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]
        packed = collate(blocks, ROWS, [0] * len(ROWS), "all", 0, "rows")
        assert_same(outcome(model, Objective(model)(packed)), expected)


HOSTILE = [(1,), (1, 1, 1), (65,), (5, 1, 1, 30, 600, 2, 3, 700, 64, 65, 1), (63, 1, 1, 300), (256, 257, 513)]


@pytest.mark.parametrize(("window", "kept"), [(None, 512), (None, 0), (1, 0), (40, 512), (64, 0)])
@pytest.mark.parametrize("lengths", HOSTILE, ids=str)
def test_attention_on_a_cpu_is_that_of_ten_plain_lines(lengths, window, kept, monkeypatch):
    monkeypatch.setattr(documents_cpu, "KEPT", kept)
    documents_cpu.plan.cache_clear()
    torch.manual_seed(0)
    joined = torch.randn(sum(lengths), 3, 2, 8, requires_grad=True)  # strided, as GPT-2's are
    query, key, value = joined.unbind(1)
    grad = torch.randn(sum(lengths), 2, 8)
    out = documents_cpu.attention(query, key, value, lengths, 0.4, window)
    expected = plain(query, key, value, lengths, 0.4, window)
    assert (out - expected).abs().max() < 3e-6
    reference = torch.autograd.grad(expected, joined, grad.double())[0]
    found = torch.autograd.grad(out, joined, grad)[0]
    assert (found - reference).abs().max() < 1e-6 * reference.abs().max()
    starts = torch.tensor([0, *accumulate(lengths), *[sum(lengths)] * 3], dtype=torch.int32)
    traced = documents_cpu.traced_attention(query, key, value, starts, 0.4, window)
    torch.testing.assert_close(traced, out, rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(traced, joined, grad)[0], found, rtol=1e-6, atol=1e-6)


def test_the_plan_computes_little_that_is_not_seen_in_few_pieces():
    def cost(lengths: tuple[int, ...], window: int | None = None) -> tuple[int, int]:
        pieces = documents_cpu.plan(lengths, window, torch.float32)
        return sum((piece.last - piece.first) * (piece.last - piece.low) for piece in pieces), len(pieces)

    scores, pieces = cost((1024,))
    assert scores <= 0.54 * 1024**2
    assert cost((1024,), 64)[0] <= 1024 * 128
    scores, pieces = cost((20,) * 300)
    assert scores <= 3 * 300 * 20**2
    assert pieces == 100


def test_attention_in_bf16_is_as_near_as_its_digits():
    torch.manual_seed(0)
    lengths = (300, 5, 5, 90, 600)
    query, key, value = (torch.randn(1000, 2, 16).bfloat16() for _ in range(3))
    error = documents_cpu.attention(query, key, value, lengths, 0.25) - plain(query, key, value, lengths, 0.25)
    assert error.abs().max() < 3e-2
    assert error.abs().mean() < 2e-3


@pytest.mark.parametrize("kept", [512, 0])
def test_dropout_of_weights_keeps_the_mean_and_has_its_own_gradient(kept, monkeypatch):
    monkeypatch.setattr(documents_cpu, "KEPT", kept)
    documents_cpu.plan.cache_clear()
    tensors = [torch.randn(9, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def seeded(*inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return documents_cpu.attention(*inputs, (1, 5, 3), 0.5, None, 0.4)

    assert torch.autograd.gradcheck(seeded, tensors)
    assert (seeded(*tensors) != documents_cpu.attention(*tensors, (1, 5, 3), 0.5)).any()
    many = [torch.randn(400, 8, 4), torch.randn(400, 8, 4), torch.ones(400, 8, 4)]
    sums = documents_cpu.attention(*many, (400,), 0.5, None, 0.4)  # of the weights: 1 without dropout
    assert sums.mean().item() == pytest.approx(1, abs=0.01)
    assert sums.std() > 0.02
    assert (documents_cpu.attention(*many, (400,), 0.5, None, 0.4) != sums).any(), "each call has its own mask"


def test_the_operation_for_the_compiler_keeps_its_promises():
    tensors = [torch.randn(9, 2, 4, requires_grad=True) for _ in range(3)]
    starts = torch.tensor([0, 1, 6, 9, 9], dtype=torch.int32)
    for dropout in (0.0, 0.4):
        torch.library.opcheck(documents_cpu._operation, (*tensors, starts, 0.5, 3, dropout, torch.tensor(5)))


@pytest.mark.parametrize(("kind", "device"), [("gpt2", "gpu"), ("gpt2", "cpu"), ("gpt_neo", "gpu"), ("mistral", "gpu")])
def test_a_compiled_model_has_one_graph_and_no_dense_mask(kind, device, flash, monkeypatch):
    if device == "cpu":
        monkeypatch.setattr(attention, "FLASH", {"cuda"})
    torch._dynamo.reset()
    model, graphs = build(kind), []
    objective = Objective(model)

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def dense() -> list[str]:
        nodes = [(node, node.meta.get("example_value")) for graph in graphs for node in graph.graph.nodes]
        return [str(node) for node, made in nodes if isinstance(made, torch.Tensor) and made.shape[-2:] == (99, 99)]

    parts = [ROWS, ROWS[2:6], ROWS[5:]]
    static = [flat(part, width=99, longest=40, most_documents=30) for part in parts]
    attention.use(model, "varlen")
    expected = [outcome(model, objective(part)) for part in static]
    getattr(model, model.base_model_prefix).compile(dynamic=False, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for part, one in zip(static, expected, strict=True):
            assert_same(outcome(model, objective(part)), one, 2e-6)
    assert len(graphs) == 1
    assert dense() == []
    with attention.plain(model):  # other shapes, and not compiled
        assert model(torch.ones(1, 7, dtype=torch.int64)).logits.shape == (1, 7, 60)
    assert len(graphs) == 1
    if kind == "gpt2":  # the way that this spares: transformers makes a mask when it is compiled
        torch._dynamo.reset()
        graphs.clear()
        attention.use(model, "sdpa")
        objective(static[0])
        assert dense()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        *[(kind, ["varlen", "sdpa", "eager"]) for kind in VARLEN if kind not in attention.OWN],
        *[(kind, ["varlen", "eager"]) for kind in attention.OWN],
        ("bloom", ["eager"]),
        ("gemma2", ["eager"]),  # caps the scores of its attention
    ],
)
def test_a_model_has_the_paths_that_it_has(kind, expected):
    model = build(kind)
    assert attention.candidates(model, CPU, "fp32") == expected
    for path in expected:
        attention.use(model, path)
        assert attention.used(model) == path
    for path in set(attention.PATHS) - set(expected) - {"varlen"}:
        with pytest.raises(StageError, match=f"{kind} model cannot be switched to `train.attention: {path}`; set"):
            attention.use(model, path)
        assert attention.used(model) == expected[-1]


def test_the_flash_kernel_is_offered_where_it_computes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    model = build("gpt2", dropout=0.1)
    rest = ["sdpa", "eager"]
    assert attention.dropout(model) == 0.1
    assert attention.candidates(model, CUDA, "bf16") == rest, "no dropout in the kernel"
    assert attention.candidates(model, CPU, "bf16") == ["varlen", *rest]
    attention.set_dropout(model, None)
    assert attention.dropout(model) == 0.1
    attention.set_dropout(model, 0.0)
    assert attention.dropout(model) == 0
    assert model.transformer.h[0].attn.resid_dropout.p == model.transformer.drop.p == 0.1
    assert attention.candidates(model, CUDA, "bf16") == attention.candidates(model, CUDA, "fp16") == ["varlen", *rest]
    assert attention.candidates(model, CUDA, "fp32") == rest
    monkeypatch.setattr(model.config, "n_embd", 2 * 264)
    assert attention.candidates(model, CUDA, "bf16") == rest, "heads of 264"
    monkeypatch.setattr(model.config, "n_embd", 2 * 128)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert attention.candidates(model, CUDA, "bf16") == rest, "Turing"


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "gptj", "llama", "gpt_neox", "opt", "bloom", "phi"])
def test_the_dropout_of_attention_is_found_and_no_other(kind):
    model = build(kind)
    attention.set_dropout(model, 0.25)
    assert attention.dropout(model) == 0.25
    ids = torch.arange(1, 20)[None]
    before = model(ids).logits
    torch.testing.assert_close(model(ids).logits, before)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and "attention_dropout" not in dir(module):
            module.p = module.p if module.p == 0.25 else 0.0
        if hasattr(module, "dropout") and "Layer" in type(module).__name__ and isinstance(module.dropout, float):
            module.dropout = 0.0
    assert (model.train()(ids).logits != before).any(), "the weights drop out"


def test_dropout_of_attention_reaches_the_cpu_path_in_training_alone():
    model = build("gpt2")
    attention.set_dropout(model, 0.5)
    attention.use(model, "varlen")
    objective = Objective(model)
    assert objective(flat()).item() == objective(flat()).item()
    model.train()
    assert objective(flat()).item() != objective(flat()).item()


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo"])
def test_generation_inside_plain_is_the_models_own(kind, tmp_path):
    model = build(kind)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    expected = model.generate(ids, max_new_tokens=8, do_sample=False)
    attention.use(model, "varlen")
    with pytest.raises(RuntimeError, match=r"generate inside `attention\.plain"):
        model.generate(ids, max_new_tokens=8, do_sample=False)
    with attention.plain(model):
        assert attention.used(model) != "varlen"
        assert model.generate(ids, max_new_tokens=8, do_sample=False).tolist() == expected.tolist()
    assert attention.used(model) == "varlen"
    model.save_pretrained(tmp_path)
    assert attention.NAME not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


@pytest.mark.parametrize(
    ("kind", "path", "packed", "far"),
    [
        ("gpt2", "varlen", True, False),
        ("gpt_neo", "eager", True, False),
        ("opt", "varlen", True, False),
        ("llama", "varlen", True, False),  # its queries are fp32 where its values are bf16
        ("opt", "sdpa", True, True),  # takes position ids, and makes no mask of them
        ("bloom", "eager", True, True),
        ("bloom", "eager", False, False),
    ],
)
def test_a_path_that_mixes_documents_is_told_from_one_that_does_not(kind, path, packed, far):
    model = build(kind).train()
    before = attention.used(model)
    found = attention.agrees(model, path, [row for row in ROWS if len(row) > 1], CPU, "fp32", packed)
    assert (found > 0.05) if far else (found < 5e-6)
    assert attention.agrees(model, path, ROWS[2:4], CPU, "bf16", False) < 0.1
    assert model.training
    assert attention.used(model) == before


def test_a_batch_of_other_documents_than_those_set_is_refused():
    model = build("gpt2")
    attention.use(model, "varlen")
    attention.set_documents(flat().documents)
    with pytest.raises(RuntimeError, match="documents of 79 tokens are set, and the batch has 5"):
        model(torch.ones(1, 5, dtype=torch.int64), use_cache=False)
    query, mask = torch.ones(1, 1, 79, 8), torch.zeros(1, 1, 79, 79)
    with pytest.raises(RuntimeError, match="has no mask and no cache"):
        attention._varlen(torch.nn.Module(), query, query, query, mask)


def test_scores_that_the_path_does_not_know_are_refused():
    query = torch.ones(1, 1, 2, 8)
    with pytest.raises(StageError, match="attention has `softcap`, which varlen does not compute"):
        attention._varlen(torch.nn.Module(), query, query, query, softcap=50.0)
