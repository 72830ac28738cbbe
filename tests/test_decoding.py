"""Decoding: the answer of a row alone whatever the batch, draws that follow the softmax, memory that runs out."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

import models
from chains import chain
from snaketune.job import StageError
from snaketune.model.decoding import Sampler, answer_all, answers, as_text, gumbel, row_key, splitmix

GREEDY = {"strategy": "greedy", "num_beams": 1, "max_new_tokens": 8, "cache": "dynamic", "batch_tokens": 99}
DRAWN = GREEDY | {"strategy": "sample", "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 5}
ROOM = models.POSITIONS - GREEDY["max_new_tokens"]


def prompts(tokenizer, count=12):
    """Prompts of varied length, the longest as long as the model allows, and their row ids."""
    texts = [prompt for prompt, _ in models.pairs(count - 1)] + [" ".join(models.WORDS * 3)]
    ids = [np.array(tokenizer(text)["input_ids"][:ROOM], np.int64) for text in texts]
    assert len({len(prompt) for prompt in ids}) > 5
    return ids, [f"{number * 7 % 101:03d}" for number in range(count)]


@pytest.fixture(scope="module", params=["gpt2", "gpt_neo", "llama"])
def made(request):
    """A model as generate.py opens it, its tokenizer, and prompts."""
    return opened(request.param)


def opened(kind, **options):
    tokenizer = models.tokenizer_of()
    assert tokenizer.pad_token_id is None, "padding needs no token of its own"
    network = models.build(kind, len(tokenizer), tokenizer.eos_token_id, **options)
    network.generation_config = GenerationConfig()
    return network, tokenizer, *prompts(tokenizer)


def plain(network, tokenizer, ids, **options):
    """The independent way: transformers' generate for one prompt alone, without padding or mask."""
    end = tokenizer.eos_token_id
    fixed = {"max_new_tokens": 8, "eos_token_id": end, "pad_token_id": end, "do_sample": False}
    with torch.no_grad():
        return network.generate(torch.from_numpy(ids)[None], **fixed | options)[0, len(ids) :].tolist()


def ending_early(tokenizer, answered):
    """A tokenizer whose end of text is the token that stands in most answers, but not as their first."""
    counts = Counter(token for answer in answered for token in set(answer[1:]) - {answer[0]})
    tokenizer = models.tokenizer_of()
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(max(counts, key=counts.get))
    return tokenizer


@pytest.mark.parametrize(("strategy", "num_beams"), [("greedy", 1), ("beam", 3)])
def test_batched_answers_are_those_of_plain_generate_one_by_one(made, strategy, num_beams):
    network, tokenizer, ids, row_ids = made
    without = [plain(network, tokenizer, prompt, num_beams=num_beams) for prompt in ids]
    tokenizer = ending_early(tokenizer, without)
    expected = [plain(network, tokenizer, prompt, num_beams=num_beams) for prompt in ids]
    assert len({len(answer) for answer in expected}) > 2, "answers end at different places"
    for budget in (1, 99, 200, 10**6):
        settings = GREEDY | {"strategy": strategy, "num_beams": num_beams, "batch_tokens": budget}
        assert answer_all(network, ids, row_ids, tokenizer, settings) == expected


@pytest.mark.parametrize("settings", [GREEDY, DRAWN], ids=["greedy", "sample"])
def test_the_order_of_the_rows_changes_no_answer(made, settings):
    network, tokenizer, ids, row_ids = made
    first = dict(zip(row_ids, answer_all(network, ids, row_ids, tokenizer, settings), strict=True))
    for order in (range(11, -1, -1), [3, 0, 11, 5, 1, 2, 4, 10, 9, 6, 8, 7]):
        given = [ids[row] for row in order], [row_ids[row] for row in order]
        assert dict(zip(given[1], answer_all(network, *given, tokenizer, settings), strict=True)) == first


def test_a_batch_has_as_many_tokens_as_it_may_and_at_least_one_row(made):
    network, tokenizer, ids, row_ids = made
    seen = []
    hook = network.get_input_embeddings().register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    for budget, beams in ((1, 1), (99, 1), (300, 1), (300, 3), (10**6, 1)):
        seen.clear()
        strategy = "beam" if beams > 1 else "greedy"
        settings = GREEDY | {"batch_tokens": budget, "num_beams": beams, "strategy": strategy}
        answer_all(network, ids, row_ids, tokenizer, settings)
        sizes, lengths = [shape for shape in seen if shape[1] > 1], sorted(map(len, ids), reverse=True)
        expected, left = [], lengths
        while left:  # by hand: rows are added one by one while the product allows it
            rows = 1
            while rows < len(left) and (rows + 1) * beams * (left[0] + 8) <= budget:
                rows += 1
            expected.append((rows * beams, left[0]))
            left = left[rows:]
        assert [tuple(size) for size in sizes] == [size for size in expected if size[1] > 1]
    hook.remove()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "qwen3", "opt", "gpt_neox", "bloom"])
def test_a_static_cache_gives_the_same_answers(kind):
    network, tokenizer, ids, row_ids = opened(kind)
    for settings in (GREEDY, DRAWN, GREEDY | {"strategy": "beam", "num_beams": 2}):
        expected = answer_all(network, ids, row_ids, tokenizer, settings)
        assert answer_all(network, ids, row_ids, tokenizer, settings | {"cache": "static"}) == expected


def test_with_a_static_cache_all_batches_but_the_last_have_as_many_rows(made):
    network, tokenizer, ids, row_ids = made
    seen = []
    hook = network.get_input_embeddings().register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    answer_all(network, ids, row_ids, tokenizer, GREEDY | {"cache": "static", "batch_tokens": 5 * 48})
    hook.remove()
    assert set(seen) == {5, 2}


def out_of_memory_above(rows):
    """A hook on a model that has memory for so many rows."""

    def check(_module, given):
        if given[0].shape[0] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return check


def test_a_batch_that_has_no_memory_is_halved_until_it_has_and_the_log_says_so(made, capsys):
    network, tokenizer, ids, row_ids = made
    settings = GREEDY | {"batch_tokens": 10**6}
    expected = answer_all(network, ids, row_ids, tokenizer, settings)
    hook = network.get_input_embeddings().register_forward_pre_hook(out_of_memory_above(3))
    assert answer_all(network, ids, row_ids, tokenizer, settings) == expected
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"out of memory with 12 prompts of at most {ROOM} tokens; going on with 6",
        f"out of memory with 6 prompts of at most {ROOM} tokens; going on with 3",
    ]
    hook.remove()


def test_memory_that_ends_in_the_midst_of_an_answer_costs_no_answer(made):
    network, tokenizer, ids, row_ids = made
    expected = answer_all(network, ids, row_ids, tokenizer, DRAWN | {"batch_tokens": 10**6})
    calls = Counter()

    def check(_module, given):
        calls["all"] += 1
        if calls["all"] == 5:
            raise torch.OutOfMemoryError

    hook = network.get_input_embeddings().register_forward_pre_hook(check)
    assert answer_all(network, ids, row_ids, tokenizer, DRAWN | {"batch_tokens": 10**6}) == expected
    hook.remove()


def test_one_prompt_that_has_no_memory_is_refused_in_words(made):
    network, tokenizer, ids, row_ids = made
    hook = network.get_input_embeddings().register_forward_pre_hook(out_of_memory_above(0))
    with pytest.raises(StageError, match=rf"no memory for one prompt of {ROOM} tokens.*generate\.max_new_tokens"):
        answer_all(network, ids, row_ids, tokenizer, GREEDY)
    hook.remove()


def test_other_faults_of_the_model_are_not_taken_for_a_lack_of_memory(made):
    network, tokenizer, ids, row_ids = made

    def fault(_module, _given):
        raise RuntimeError("device-side assert")

    hook = network.get_input_embeddings().register_forward_pre_hook(fault)
    with pytest.raises(RuntimeError, match="device-side assert"):
        answer_all(network, ids, row_ids, tokenizer, GREEDY)
    hook.remove()


def test_drawn_answers_do_not_depend_on_the_batch(made):
    network, tokenizer, ids, row_ids = made
    settings = DRAWN | {"temperature": 1.3, "top_k": 200, "top_p": 0.97}
    alone = [
        answers(network, [prompt], tokenizer, settings, row_ids=[row_id])[0]
        for prompt, row_id in zip(ids, row_ids, strict=True)
    ]
    assert len({len(answer) for answer in alone}) > 1 or len(set(map(tuple, alone))) == len(alone)
    for budget in (1, 99, 200, 10**6):
        assert answer_all(network, ids, row_ids, tokenizer, settings | {"batch_tokens": budget}) == alone


def test_a_row_s_draws_go_on_as_before_when_another_row_of_the_batch_has_ended(made):
    network, tokenizer, ids, _ = made
    settings, row_ids = DRAWN | {"temperature": 2.0}, [f"row-{number}" for number in range(40)]
    tokenizer = ending_early(tokenizer, answers(network, ids[:1] * 40, tokenizer, settings, row_ids=row_ids))
    batched = answers(network, ids[:1] * 40, tokenizer, settings, row_ids=row_ids)
    assert len({len(answer) for answer in batched}) > 3
    assert batched == [answers(network, ids[:1], tokenizer, settings, row_ids=[row_id])[0] for row_id in row_ids]


def chi_square(counts, shares):
    """Pearson's statistic of observed counts against expected shares."""
    total = sum(counts)
    return sum((count - total * share) ** 2 / (total * share) for count, share in zip(counts, shares, strict=True))


LOGITS = [math.log(share) for share in (0.4, 0.3, 0.2, 0.06, 0.04)]


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({}, [0.4, 0.3, 0.2, 0.06, 0.04]),
        ({"temperature": 0.5, "top_k": 3}, [0.16 / 0.29, 0.09 / 0.29, 0.04 / 0.29, 0, 0]),
        ({"top_p": 0.75}, [0.4 / 0.9, 0.3 / 0.9, 0.2 / 0.9, 0, 0]),  # two tokens have 0.7, which is less
        ({"top_k": 1}, [1, 0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("over", ["rows", "steps"])
def test_draws_follow_the_softmax_over_rows_and_over_the_steps_of_a_row(changes, shares, over):
    count = 20_000 if over == "rows" else 3000
    row_ids = [f"{number:032x}" for number in range(count)] if over == "rows" else ["one row"]
    sampler = Sampler(DRAWN | changes, row_ids, 2, torch.device("cpu"))
    logits = torch.tensor([LOGITS]).expand(len(row_ids), -1)
    tokens = []
    for step in range(1 if over == "rows" else count):
        tokens += sampler(torch.zeros(len(row_ids), 2 + step, dtype=torch.int64), logits).argmax(-1).tolist()
    counts = [tokens.count(token) for token in range(5)]
    possible = [token for token in range(5) if shares[token]]
    assert sum(counts[token] for token in possible) == count
    # 23.51 is exceeded by chance once in 10,000 with 4 degrees of freedom, more rarely with fewer
    assert chi_square([counts[token] for token in possible], [shares[token] for token in possible]) < 23.51


def test_draws_at_two_steps_of_two_seeds_and_of_two_rows_are_independent():
    keys = torch.tensor([row_key(0, str(number)) for number in range(20_000)])
    others = torch.tensor([row_key(1, str(number)) for number in range(20_000)])
    first = gumbel(keys, 0, 4).argmax(-1)
    for second in (
        gumbel(keys, 1, 4).argmax(-1),
        gumbel(others, 0, 4).argmax(-1),
        gumbel(keys.roll(1), 0, 4).argmax(-1),
    ):
        counts = (first * 4 + second).bincount(minlength=16).tolist()
        assert chi_square(counts, [1 / 16] * 16) < 44.26  # once in 10,000, 15 degrees of freedom


def test_the_first_token_of_many_rows_follows_the_model_s_softmax():
    network, tokenizer, ids, _ = opened("llama")
    with torch.no_grad():
        shares = network(torch.from_numpy(ids[0])[None]).logits[0, -1].softmax(-1)
    row_ids = [f"row-{number}" for number in range(2000)]
    settings = DRAWN | {"max_new_tokens": 1}
    tokens = [new for [new] in answers(network, ids[:1] * 2000, tokenizer, settings, row_ids=row_ids)]
    top = shares.topk(6).indices.tolist()
    counts = [tokens.count(token) for token in top]
    parts = [float(shares[token]) for token in top]
    assert min(parts) * 2000 > 5, "the test has power"
    assert chi_square([*counts, 2000 - sum(counts)], [*parts, 1 - sum(parts)]) < 27.86  # once in 10,000, 6 degrees


def test_the_uniform_numbers_are_those_of_splitmix64():
    """The numbers of a generator that starts at 1234567, as Rosetta Code and others list them."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    got = splitmix(torch.tensor([1234567]), torch.arange(4))
    assert [number % 2**64 for number in got.tolist()] == expected


def reference(key, step, token):
    """Gumbel noise in Python's own integers."""

    def number(state, count):
        z = (state + (count + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    return -math.log(-math.log(((number(number(key % 2**64, step), token) >> 12) + 0.5) / 2**52))


def test_noise_is_a_function_of_seed_row_step_and_token_alone_and_always_finite():
    keys = [row_key(seed, row) for seed, row in ((0, "a"), (1, "a"), (0, "b"))] + [-1, 0, 2**63 - 1, -(2**63)]
    for step in (0, 1, 511):
        noise = gumbel(torch.tensor(keys), step, 50)
        expected = [[reference(key, step, token) for token in range(50)] for key in keys]
        assert torch.allclose(noise, torch.tensor(expected, dtype=torch.float64), rtol=1e-12)
    assert torch.equal(gumbel(torch.tensor(keys[:1]), 3, 70)[:, :50], gumbel(torch.tensor(keys), 3, 50)[:1])
    assert all(0 < (bits + 0.5) * 2.0**-52 < 1 for bits in (0, 2**52 - 1))


def test_gumbel_noise_has_the_mean_and_variance_of_its_distribution():
    noise = gumbel(torch.tensor([row_key(3, str(number)) for number in range(200)]), 0, 1000)
    assert noise.mean().item() == pytest.approx(0.5772156649, abs=0.012)  # 4 standard errors of 200,000 numbers
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.04)


def test_transformers_own_sampling_filters_are_used_in_its_order():
    """Against the processors that transformers itself prepares for a sampling call."""
    network, tokenizer, *_ = opened("gpt2")
    config = GenerationConfig(do_sample=True, temperature=0.7, top_k=20, top_p=0.8)
    scores = torch.randn(3, len(tokenizer), generator=torch.manual_seed(0)) * 3
    theirs = network._get_logits_processor(config, device="cpu")(torch.zeros(3, 4, dtype=torch.int64), scores)
    settings = DRAWN | {"temperature": 0.7, "top_k": 20, "top_p": 0.8}
    sampler = Sampler(settings, ["a", "b", "c"], 4, torch.device("cpu"))
    ours = sampler(torch.zeros(3, 4, dtype=torch.int64), scores)
    kept = theirs.isfinite()
    assert 3 < kept.sum() < 60
    assert torch.equal(ours.isfinite(), kept)
    noise = gumbel(sampler.keys, 0, len(tokenizer))
    assert torch.allclose((ours - noise)[kept].float(), theirs[kept], atol=1e-5)


def test_answers_that_end_with_a_blank_line_are_cut_there_whatever_the_others_do(tmp_path):
    """By hand: `:` is followed by `stone`, that by two newlines; every other token by itself."""
    tokenizer = models.tokenizer_of()
    colon, stone, newline, river = (tokenizer(text)["input_ids"] for text in (":", "stone", "\n", "river"))
    folder = chain([*colon, *stone, *newline, *newline], tokenizer, tmp_path)
    network = AutoModelForCausalLM.from_pretrained(folder)
    network.generation_config = GenerationConfig()
    ids = [np.array(prompt, np.int64) for prompt in ([*river, *colon], river[-1:], colon)]
    got = answers(network, ids, tokenizer, GREEDY, to_blank=True)
    assert [as_text(answer, tokenizer, True) for answer in got] == [
        ("stone", len(stone), "blank"),
        (tokenizer.decode(river[-1:] * 8).strip(), 8, "length"),
        ("stone", len(stone), "blank"),
    ]
    assert len(got[0]) < 8
    without = answers(network, ids, tokenizer, GREEDY)
    assert [as_text(answer, tokenizer)[1:] for answer in without] == [(8, "length")] * 3


@pytest.mark.parametrize(
    ("text", "output", "blank"),
    [
        ("stone", "stone", False),
        (" stone\n\nriver", "stone", True),
        (" stone \n\t \n", "stone", True),
        ("\n\n", "", True),
        ("", "", False),
        (" \n ", "", False),
        ("a\nb", "a\nb", False),
    ],
)
def test_a_blank_line_ends_an_answer_and_is_no_part_of_it(text, output, blank):
    tokenizer = models.tokenizer_of()
    ids = tokenizer(text)["input_ids"] if text else []
    got, count, stopped = as_text(ids, tokenizer, True)
    assert (got, stopped) == (output, "blank" if blank else "length")
    if blank:
        assert tokenizer.decode(ids[:count]).strip() == output
        assert not count or tokenizer.decode(ids[: count - 1]).strip() != output, (
            "no token is counted for the blank line"
        )
    else:
        assert count == len(ids)
    ended = as_text([*ids, tokenizer.eos_token_id], tokenizer, True)
    assert ended == (output, count, "blank" if blank else "eos")
    assert as_text(ids, tokenizer)[0] == text.strip()
