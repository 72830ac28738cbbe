"""Answers: batched as alone, ended by the model or by the limit, the same question for base and tuned."""

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import models
from generate import generate
from snaketune.job import StageError

SETTINGS = {
    "max_new_tokens": 6,
    "strategy": "greedy",
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "num_beams": 1,
    "batch_size": 4,
    "text_prompt_tokens": 5,
    "limit": None,
    "seed": 3,
    "trust_remote_code": False,
}
KINDS = ["gpt2", "gpt_neo", "llama"]


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    """A base model, and pairs and plain texts as tokens."""
    folder = tmp_path_factory.mktemp(request.param)
    base = models.base(folder / "base", request.param)
    rows = models.pairs(9) + models.texts(4, low=2, high=9)
    return base, models.tokens(rows, base, folder / "tokens", "test"), rows


def answered(model, tokens, out, **settings):
    """The answers as dicts."""
    generate(tokens, f"{tokens}.parquet", model, str(out), SETTINGS | settings, gpus=0, threads=1)
    return pq.read_table(out).to_pylist()


def greedy(model, ids, count, end):
    """The independent way: one prompt alone, no cache, the likeliest token again and again."""
    ids = list(ids)
    new = []
    with torch.no_grad():
        while len(new) < count and (not new or new[-1] != end):
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return new


def test_a_batch_gives_each_prompt_the_greedy_answer_that_it_gets_alone(made, tmp_path):
    base, tokens, rows = made
    tokenizer, model = models.tokenizer_of(), AutoModelForCausalLM.from_pretrained(base).eval()
    table = {row["row_id"]: row for row in answered(base, tokens, tmp_path / "out.parquet")}
    assert len({len(tokenizer(prompt)["input_ids"]) for prompt, _ in rows[:9]}) > 3, "the prompts differ in length"
    for number, (prompt, completion) in enumerate(rows[:9]):
        row = table[f"{number * 7 % 101:03d}"]
        new = greedy(model, tokenizer(prompt + "\n")["input_ids"], 6, tokenizer.eos_token_id)
        text = [token for token in new if token != tokenizer.eos_token_id]
        assert row["output"] == tokenizer.decode(text, skip_special_tokens=True).strip()
        assert row["n_tokens"] == len(text)
        assert row["stopped"] == ("eos" if new[-1] == tokenizer.eos_token_id else "length")
        assert (row["prompt"], row["reference"]) == (prompt, completion)


def test_a_plain_text_is_asked_with_its_first_tokens_and_referred_to_what_follows(made, tmp_path):
    base, tokens, rows = made
    tokenizer, model = models.tokenizer_of(), AutoModelForCausalLM.from_pretrained(base).eval()
    table = {row["row_id"]: row for row in answered(base, tokens, tmp_path / "out.parquet")}
    for number, (_, text) in list(enumerate(rows))[9:]:
        ids = tokenizer(text)["input_ids"]
        cut = min(5, (len(ids) + 1) // 2)  # + 1: the row ends with the end-of-text token
        row = table[f"{number * 7 % 101:03d}"]
        assert row["prompt"] == tokenizer.decode(ids[:cut])
        assert row["reference"] == tokenizer.decode(ids[cut : cut + 6]).strip()
        new = greedy(model, ids[:cut], 6, tokenizer.eos_token_id)
        assert row["n_tokens"] == len([token for token in new if token != tokenizer.eos_token_id])
        assert row["output"] == tokenizer.decode(new, skip_special_tokens=True).strip()


def test_the_answers_do_not_depend_on_the_size_of_the_batches_and_are_sorted_by_row(made, tmp_path):
    base, tokens, rows = made
    tables = [answered(base, tokens, tmp_path / "out.parquet", batch_size=size) for size in (1, 5, 99)]
    assert tables[0] == tables[1] == tables[2]
    ids = [row["row_id"] for row in tables[0]]
    assert ids == sorted(f"{number * 7 % 101:03d}" for number in range(len(rows)))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    base = models.base(folder / "base")
    return base, models.tokens(models.pairs(9), base, folder / "tokens", "test"), folder


def test_an_answer_ends_with_the_end_of_text_token_and_says_so(gpt2, tmp_path):
    """By hand: a newline is followed by `stone`, `stone` by `light`, `light` by the end, every other by itself."""
    tokenizer = models.tokenizer_of()
    after, stone, light = (tokenizer(text)["input_ids"] for text in ("\n", "stone", "light"))
    end = tokenizer.eos_token_id
    folder = tmp_path / "base"
    tokenizer.save_pretrained(folder)
    model = models.build("gpt2", len(tokenizer), end, width=32)
    follower = {after[-1]: stone[0]} | dict(zip([*stone, *light], [*stone[1:], *light, end], strict=True))
    codes = torch.sign(torch.randn(len(tokenizer), 32, generator=torch.manual_seed(0)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.ln_f.weight.fill_(1)
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(codes.clone())
        model.transformer.wte.weight = torch.nn.Parameter(codes.clone())
        for token, following in follower.items():
            model.transformer.wte.weight[token] = codes[following]
    model.save_pretrained(folder)
    assert len(follower) == len(stone) + len(light) + 1, "no token stands twice in the chain"
    tokens = models.tokens([("river", "glass"), ("thin paper", "glass")], str(folder), tmp_path / "tokens", "test")
    for row in answered(str(folder), tokens, tmp_path / "out.parquet", max_new_tokens=20):
        assert row["output"] == "stonelight"
        assert row["n_tokens"] == len(stone) + len(light)
        assert row["stopped"] == "eos"
    for row in answered(str(folder), tokens, tmp_path / "out.parquet", max_new_tokens=len(stone) + len(light)):
        assert row["output"] == "stonelight"
        assert row["stopped"] == "length"


def test_a_prompt_that_leaves_no_room_for_an_answer_loses_its_head(tmp_path):
    base = models.base(tmp_path / "base")
    prompt = " ".join(models.WORDS[:8])
    tokens = models.tokens([(prompt, "glass")], base, tmp_path / "tokens", "test", max_length=48)
    tokenizer, model = models.tokenizer_of(), AutoModelForCausalLM.from_pretrained(base).eval()
    ids = tokenizer(prompt + "\n")["input_ids"]
    room = 4
    assert len(ids) > room
    [row] = answered(base, tokens, tmp_path / "out.parquet", max_new_tokens=models.POSITIONS - room)
    new = greedy(model, ids[-room:], models.POSITIONS - room, tokenizer.eos_token_id)
    assert row["output"] == tokenizer.decode(new, skip_special_tokens=True).strip()
    assert row["prompt"] == prompt


def test_answers_as_long_as_all_positions_are_refused_in_words(gpt2, tmp_path):
    base, tokens, _ = gpt2
    with pytest.raises(StageError, match=r"`generate.max_new_tokens` is 48, and the model has 48 positions"):
        answered(base, tokens, tmp_path / "out.parquet", max_new_tokens=48)


def test_the_limit_takes_the_first_rows_by_id(gpt2, tmp_path):
    base, tokens, _ = gpt2
    every = answered(base, tokens, tmp_path / "all.parquet")
    assert answered(base, tokens, tmp_path / "some.parquet", limit=4) == every[:4]


def test_a_long_text_in_chunks_is_asked_once_with_its_first_chunk(gpt2, tmp_path):
    base, _, _ = gpt2
    rows = models.texts(2, low=40, high=60)
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test", max_length=16)
    assert models.manifest(tokens)["rows"] > 4
    table = answered(base, tokens, tmp_path / "out.parquet")
    assert [row["row_id"] for row in table] == ["000", "007"]
    assert all(text.startswith(row["prompt"]) for (_, text), row in zip(rows, table, strict=True))


def test_an_empty_prompt_is_asked_like_a_plain_text(gpt2, tmp_path):
    base, _, _ = gpt2
    tokens = models.tokens([("", "river stone light")], base, tmp_path / "tokens", "test", separator="")
    [row] = answered(base, tokens, tmp_path / "out.parquet")
    assert row["prompt"] != ""
    assert row["n_tokens"] > 0


def test_sampling_is_decided_by_the_seed(gpt2, tmp_path):
    base, tokens, _ = gpt2
    first, again, other = (
        answered(base, tokens, tmp_path / "out.parquet", strategy="sample", seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert [row["output"] for row in first] != [row["output"] for row in other]
    narrow = answered(base, tokens, tmp_path / "out.parquet", strategy="sample", top_k=1)
    assert narrow == answered(base, tokens, tmp_path / "out.parquet")


def test_a_beam_search_gives_other_answers_than_greedy_decoding(gpt2, tmp_path):
    base, tokens, _ = gpt2
    beam = answered(base, tokens, tmp_path / "beam.parquet", strategy="beam", num_beams=4)
    assert [row["output"] for row in beam] != [row["output"] for row in answered(base, tokens, tmp_path / "g.parquet")]
    assert len(beam) == 9


def test_base_and_tuned_are_asked_the_same(gpt2, tmp_path):
    base, tokens, folder = gpt2
    tuned = folder / "tuned"
    models.tokenizer_of().save_pretrained(tuned)
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tuned)
    weights = load_file(tuned / "model.safetensors")
    weights["transformer.ln_f.weight"] *= -1
    save_file(weights, tuned / "model.safetensors", metadata={"format": "pt"})
    sides = [answered(model, tokens, tmp_path / "out.parquet") for model in (base, str(tuned))]
    asked = [[(row["row_id"], row["prompt"], row["reference"]) for row in side] for side in sides]
    assert asked[0] == asked[1]
    assert [row["output"] for row in sides[0]] != [row["output"] for row in sides[1]]


def test_what_a_model_s_own_generation_config_adds_changes_no_answer(gpt2, tmp_path):
    base, tokens, folder = gpt2
    expected = answered(base, tokens, tmp_path / "out.parquet")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.3
    model.generation_config.suppress_tokens = list(range(200))
    chatty = folder / "chatty"
    models.tokenizer_of().save_pretrained(chatty)
    model.save_pretrained(chatty)
    assert answered(str(chatty), tokens, tmp_path / "out.parquet") == expected
