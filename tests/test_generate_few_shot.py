"""Pairs of the train split before each prompt of a base model: which, how many, and where the answer then ends."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM

import models
from answer_runs import SETTINGS, answered, greedy
from chains import chain
from generate import drawn, generate
from snaketune.rows import SPLIT, write_table
from token_runs import tokenize

TRAIN = [("river", "stone"), ("light", "green small"), (None, "never seven"), ("", "bread"), ("water", "a\n \nb")]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A base model, and pairs as tokens."""
    folder = tmp_path_factory.mktemp("one")
    base = models.base(folder / "base")
    return base, models.tokens(models.pairs(9), base, folder / "tokens", "test")


def shot(train, tokenizer, order):
    """Examples as ids, by hand: each piece tokenized alone."""
    pieces = [text for number in order for text in (train[number][0] + "\n", train[number][1], "\n\n")]
    return [token for text in pieces for token in tokenizer(text)["input_ids"]]


def few_shot(base, tokens, out, train, **settings):
    """The answers of a base model with examples of a train split."""
    generate(tokens, f"{tokens}.parquet", base, str(out), SETTINGS | settings, train=train, gpus=0, threads=1)
    return pq.read_table(out).to_pylist()


def test_pairs_of_the_train_split_stand_before_each_prompt_the_same_for_all(gpt2, tmp_path):
    base, _ = gpt2
    rows = [("glass", "x"), ("north", "x"), ("cloud", "x"), (None, "quick paper under house")]
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test")
    train = models.split(TRAIN, tmp_path / "train.parquet")
    tokenizer, model = models.tokenizer_of(), AutoModelForCausalLM.from_pretrained(base).eval()
    table = few_shot(base, tokens, tmp_path / "out.parquet", train, few_shot=3)
    plain = answered(base, tokens, tmp_path / "plain.parquet")
    fits = []
    for order in ([0, 1], [1, 0]):  # the text, the empty prompt and the completion with a blank line are no examples
        texts = []
        for prompt, _ in rows[:3]:
            ids = shot(TRAIN, tokenizer, order) + tokenizer(prompt + "\n")["input_ids"]
            new = greedy(model, ids, 6, tokenizer.eos_token_id)
            texts.append(tokenizer.decode(new, skip_special_tokens=True).strip())
        fits.append(texts == [row["output"] for row in table[:3]])
    assert sorted(fits) == [False, True], "one order of the two, for all rows"
    assert [row["output"] for row in table[:3]] != [row["output"] for row in plain[:3]]
    assert table[3] == plain[3], "a plain text gets no examples"
    for row, other in zip(table, plain, strict=True):
        same = ("row_id", "prompt", "reference", "n_prompt_tokens", "n_cut")
        assert [row[name] for name in same] == [other[name] for name in same]


def test_examples_are_drawn_by_the_seed_from_the_whole_split(tmp_path):
    tokenizer = models.tokenizer_of()
    pairs = [(f"{word} {number}", word) for number, word in enumerate(models.WORDS)]
    train = models.split(pairs, tmp_path / "train.parquet")
    given = {"few_shot": 2, "separator": "\n"}
    draws = [[tuple(one) for one in drawn(train, tokenizer, given | {"seed": seed})] for seed in range(200)]
    known = {tuple(shot(pairs, tokenizer, [number])): number for number in range(len(pairs))}
    assert draws[0] == [tuple(one) for one in drawn(train, tokenizer, given | {"seed": 0})]
    taken = [known[one] for draw in draws for one in draw]
    assert all(len(set(draw)) == 2 for draw in draws)
    assert min(taken.count(number) for number in range(16)) > 8, "25 are expected of each"
    every = [known[tuple(one)] for one in drawn(train, tokenizer, given | {"few_shot": 99, "seed": 0})]
    assert sorted(every) == list(range(16)), "there are no more than the split has"
    assert every[:2] == [known[one] for one in draws[0]]


def test_examples_that_do_not_fit_are_left_out_and_no_prompt_is_cut_for_them(gpt2, tmp_path):
    base, _ = gpt2
    tokenizer, model = models.tokenizer_of(), AutoModelForCausalLM.from_pretrained(base).eval()
    train = [("river stone light", "stone river light water"), (" ".join(models.WORDS * 9), "far too long")]
    path = models.split(train, tmp_path / "train.parquet")
    example = shot(train, tokenizer, [0])
    words = ["glass", " ".join(models.WORDS[:14]), "j" * 44]  # a token for each j
    lengths = [len(tokenizer(prompt + "\n")["input_ids"]) for prompt in words]
    room = models.POSITIONS - 6
    assert lengths[0] + len(example) <= room < lengths[1] + len(example)
    assert lengths[1] <= room < lengths[2]
    tokens = models.tokens([(prompt, "x") for prompt in words], base, tmp_path / "tokens", "test", max_length=48)
    table = few_shot(base, tokens, tmp_path / "out.parquet", path, few_shot=5)
    for row, prompt, length, before in zip(table, words, lengths, (example, [], []), strict=True):
        ids = [*before, *tokenizer(prompt + "\n")["input_ids"][-room:]]
        new = greedy(model, ids, 6, tokenizer.eos_token_id)
        assert row["output"] == tokenizer.decode(new, skip_special_tokens=True).strip()
        assert (row["n_prompt_tokens"], row["n_cut"]) == (length, max(0, length - room))


def test_with_examples_an_answer_ends_with_its_first_blank_line(tmp_path):
    """By hand: `:` is followed by `stone`, that by newlines without an end; every other token by itself."""
    tokenizer = models.tokenizer_of()
    colon, stone, newline, river = (tokenizer(text)["input_ids"] for text in (":", "stone", "\n", "river"))
    base = chain([*colon, *stone, *newline, *newline], tokenizer, tmp_path / "base")
    rows = [("river", "x"), ("light", "x"), (None, "river: river: river:")]
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test", separator=":")
    train = models.split([("glass", "paper")], tmp_path / "train.parquet")
    settings = {"separator": ":", "max_new_tokens": 10, "few_shot": 1, "text_prompt_tokens": len(river) + 1}
    *pairs, text = few_shot(base, tokens, tmp_path / "out.parquet", train, **settings)
    assert [(row["output"], row["n_tokens"], row["stopped"]) for row in pairs] == [("stone", len(stone), "blank")] * 2
    assert (text["output"], text["n_tokens"], text["stopped"]) == ("stone", 10, "length"), "no example, no such end"
    for row in answered(base, tokens, tmp_path / "out.parquet", **settings):
        assert (row["output"], row["n_tokens"], row["stopped"]) == ("stone", 10, "length")


def test_text_of_an_example_that_reads_like_a_special_token_stays_text(tmp_path):
    tokenizer = models.tokenizer_of()
    end = tokenizer.eos_token
    train = models.split([(f"river {end}", f"stone{end}light")], tmp_path / "train.parquet")
    [example] = drawn(train, tokenizer, {"few_shot": 1, "seed": 0, "separator": "\n"})
    assert tokenizer.eos_token_id not in example
    assert tokenizer.decode(example) == f"river {end}\nstone{end}light\n\n"


def test_a_prompt_that_a_chat_template_wrote_gets_no_examples(tmp_path):
    base = models.base(tmp_path / "base")
    tokenizer = models.tokenizer_of()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    tokenizer.save_pretrained(base)
    chat = [{"role": "user", "content": "river"}, {"role": "assistant", "content": "stone"}]
    table = [
        {"row_id": "a", "prompt": "river", "completion": "stone", "messages": json.dumps(chat), "line": 1},
        {"row_id": "b", "prompt": "river", "completion": "stone", "line": 2},
    ]
    test = tmp_path / "tokens/test.parquet"
    write_table(pa.Table.from_pylist(table, schema=SPLIT), test, SPLIT)
    tokens = tokenize(str(test), base, tmp_path / "tokens", "test", models.TOKENIZE)
    train = models.split([("glass", "paper")], tmp_path / "train.parquet")
    with_examples = few_shot(base, tokens, tmp_path / "out.parquet", train, few_shot=1)
    chat, pair = answered(base, tokens, tmp_path / "plain.parquet")
    assert with_examples[0] == chat
    assert with_examples[1] != pair


def test_a_split_without_pairs_gives_no_examples(gpt2, tmp_path):
    base, tokens = gpt2
    train = models.split(models.texts(5), tmp_path / "train.parquet")
    plain = answered(base, tokens, tmp_path / "plain.parquet")
    assert few_shot(base, tokens, tmp_path / "out.parquet", train, few_shot=4) == plain
