"""Sums of nats and counts of tokens by row, held against one row at a time through the plain model."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

import likelihood as stage
import models
from likelihood import likelihood

COUNTS = ["n_tokens", "n_tokens_full", "n_bytes", "n_correct"]
SUMS = ["nll", "nll_full", "nll_text"]


def scored(model, tokens, out, special_tokens="text"):
    """The table, row_id -> line, and the sentence."""
    settings = {"trust_remote_code": False, "special_tokens": special_tokens}
    sentence = likelihood(tokens, f"{tokens}.parquet", model, str(out), settings, gpus=0, threads=1)
    return {row["row_id"]: row for row in pq.read_table(out).to_pylist()}, sentence


def by_hand(model, rows, size=32, positions=models.POSITIONS, eos=True):
    """The independent way: tokenize, cut and score each row alone."""
    tokenizer = models.tokenizer_of()
    bos = end = tokenizer.eos_token_id
    table = {}
    for number, (prompt, completion) in enumerate(rows):
        head = [] if prompt is None else tokenizer(prompt + "\n")["input_ids"]
        tail = tokenizer(completion)["input_ids"] + [end] * eos
        line = dict.fromkeys(COUNTS + SUMS, 0) | {"n_bytes": len(completion.encode())}
        parts = [tail[start : start + size] for start in range(0, len(tail), size)] if prompt is None else [head + tail]
        if len(parts) > 1 and len(parts[-1]) == 1:  # a last chunk of one token takes the one before along
            parts[-2:] = [parts[-2][:-1], parts[-2][-1:] + parts[-1]]
        for part in parts:
            ids, known = ([bos, *part], 1) if prompt is None else (part, len(head))  # known: the tokens that are given
            with torch.no_grad():
                if len(ids) > positions:  # the first token alone follows the begin-of-text token
                    alone = models.document_losses(model, ids[:2])
                    nll = torch.cat([alone, models.document_losses(model, ids[1:])]).double()
                    best = torch.cat(
                        [model(torch.tensor([piece])).logits[0, :-1].argmax(-1) for piece in (ids[:2], ids[1:])]
                    )
                else:
                    nll = models.document_losses(model, ids).double()
                    best = model(torch.tensor([ids])).logits[0, :-1].argmax(-1)
            answer = nll[known - 1 :]
            line["nll_full"] += nll.sum().item()
            line["n_tokens_full"] += len(nll)
            line["nll"] += answer.sum().item()
            line["n_tokens"] += len(answer)
            line["n_correct"] += int((best == torch.tensor(ids[1:]))[known - 1 :].sum())
            line["nll_text"] += (answer[:-1] if ids[-1] == end else answer).sum().item()
        table[f"{number * 7 % 101:03d}"] = line
    return table


def same(table, expected):
    assert table.keys() == expected.keys()
    for row_id, line in expected.items():
        assert {name: table[row_id][name] for name in COUNTS} == {name: line[name] for name in COUNTS}
        for name in SUMS:
            assert table[row_id][name] == pytest.approx(line[name], rel=2e-6), (row_id, name)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "llama", "opt"])
def test_the_sums_are_those_of_each_row_alone(tmp_path, kind):
    """Pairs, short texts and texts in chunks; OPT cannot share a sequence, and its rows go one by one."""
    base = models.base(tmp_path / "base", kind)
    rows = models.pairs(9) + models.texts(7) + [(None, "ünïcode — 🦊"), ("日本?", "水"), (None, "!" * 32)]
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test")
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    table, sentence = scored(base, tokens, tmp_path / "out.parquet")
    expected = by_hand(model, rows)
    assert models.manifest(tokens)["rows"] > len(rows), "some texts are cut into chunks"
    same(table, expected)
    total = {name: sum(line[name] for line in expected.values()) for name in ("nll", "n_tokens")}
    assert f"{len(rows)} rows, perplexity {math.exp(total['nll'] / total['n_tokens']):,.2f} over" in sentence


def test_the_first_token_of_a_text_is_counted_even_where_it_fills_all_positions(tmp_path):
    base = models.base(tmp_path / "base")
    rows = models.texts(6, low=10, high=60)
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test", max_length=models.POSITIONS)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    table, _ = scored(base, tokens, tmp_path / "out.parquet")
    same(table, by_hand(model, rows, size=models.POSITIONS))
    assert sum(line["n_tokens"] for line in table.values()) == models.manifest(tokens)["tokens"]


def test_the_sums_do_not_depend_on_what_shares_a_sequence_or_a_batch(tmp_path, monkeypatch):
    base = models.base(tmp_path / "base")
    rows = models.pairs(9) + models.texts(3, high=6)
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test")
    few, _ = scored(base, tokens, tmp_path / "few.parquet")
    monkeypatch.setattr(stage, "BATCH_TOKENS", 1)
    same(scored(base, tokens, tmp_path / "single.parquet")[0], few)
    # One long row makes every sequence as long as the model allows.
    wide = models.tokens([*rows, (None, " ".join(models.WORDS * 2))], base, tmp_path / "wide", "test", max_length=47)
    table, _ = scored(base, wide, tmp_path / "wide.parquet")
    same({row_id: table[row_id] for row_id in few}, few)


def test_a_model_that_says_nothing_has_the_perplexity_of_its_vocabulary(tmp_path):
    base = models.base(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.save_pretrained(base)
    tokens = models.tokens(models.pairs(5) + models.texts(4), base, tmp_path / "tokens", "test")
    table, sentence = scored(base, tokens, tmp_path / "out.parquet")
    assert "perplexity 300.00 over" in sentence
    for line in table.values():
        assert line["nll"] == pytest.approx(line["n_tokens"] * math.log(300), rel=1e-6)
        assert line["nll_full"] == pytest.approx(line["n_tokens_full"] * math.log(300), rel=1e-6)
        assert line["nll_text"] == pytest.approx((line["n_tokens"] - 1) * math.log(300), rel=1e-6)


def test_without_an_end_of_text_token_nothing_but_the_text_is_scored(tmp_path):
    base = models.base(tmp_path / "base")
    rows = models.pairs(5) + models.texts(4, low=3, high=9)
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test", append_eos=False)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    table, _ = scored(base, tokens, tmp_path / "out.parquet")
    same(table, by_hand(model, rows, eos=False))
    assert all(line["nll_text"] == line["nll"] for line in table.values())


def test_the_bytes_of_a_text_that_lost_its_tail_are_those_that_were_scored(tmp_path):
    base = models.base(tmp_path / "base")
    rows = models.texts(5, low=2, high=60)
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test", overlong_text="truncate")
    tokenizer = models.tokenizer_of()
    table, _ = scored(base, tokens, tmp_path / "out.parquet")
    assert models.manifest(tokens)["truncated"] >= 2
    for number, (_, text) in enumerate(rows):
        kept = tokenizer.decode(tokenizer(text)["input_ids"][:32])
        assert table[f"{number * 7 % 101:03d}"]["n_bytes"] == len(kept.encode())


@pytest.mark.parametrize("special_tokens", ["text", "parse"])
def test_a_special_token_in_a_text_has_its_bytes_however_it_is_tokenized(tmp_path, special_tokens):
    base = models.base(tmp_path / "base")
    text = "<|endoftext|> one two three " * 12
    options = {"overlong_text": "truncate", "special_tokens": special_tokens}
    tokens = models.tokens([(None, text)], base, tmp_path / "tokens", "test", **options)
    tokenizer = models.tokenizer_of()
    ids = tokenizer(text, split_special_tokens=special_tokens == "text")["input_ids"]
    ((_, line),) = scored(base, tokens, tmp_path / "out.parquet", special_tokens)[0].items()
    assert line["n_bytes"] == len(tokenizer.decode(ids[:32]).encode())
    assert 0 < line["n_bytes"] < len(text)


def test_what_a_template_puts_after_the_end_belongs_to_the_end():
    end, other = 9, 5
    endings = [[1, 2, end], [1, end, other], [1, end, end], [end, 1, 2], [1, 2, 3], [end, 1], [end]]
    assert [stage._end(np.array(ids), end) for ids in endings] == [2, 1, 2, 3, 3, 2, 1]


def test_the_end_of_text_token_that_stands_in_a_prompt_is_no_end(tmp_path):
    base = models.base(tmp_path / "base")
    rows = [("one <|endoftext|> two", "three"), ("four", "five <|endoftext|> six")]
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test", special_tokens="parse")
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    same(scored(base, tokens, tmp_path / "out.parquet")[0], by_hand(model, rows))


def test_the_table_is_sorted_by_row_and_has_a_line_for_each(tmp_path):
    base = models.base(tmp_path / "base")
    tokens = models.tokens(models.texts(8), base, tmp_path / "tokens", "test")
    table, _ = scored(base, tokens, tmp_path / "out.parquet")
    assert list(table) == sorted(f"{number * 7 % 101:03d}" for number in range(8))
    assert np.isfinite([line["nll"] for line in table.values()]).all()
