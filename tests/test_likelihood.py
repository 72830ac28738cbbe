"""Sums of nats and counts of tokens by row, held against one window at a time through the plain model."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features
from transformers import AutoModelForCausalLM, AutoTokenizer

import likelihood as stage
import models
from likelihood_runs import BINS, by_hand, ids_of, same, scored
from snaketune.job import StageError
from snaketune.model import lm
from snaketune.model.batches import Rows
from snaketune.model.scoring_windows import Documents, passes, windows_of
from snaketune.model.token_sums import TokenSums
from snaketune.scoring.likelihood import Likelihood
from snaketune.tokens.token_rows import FEATURES


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "llama", "opt", "gemma2", "bloom"])
def test_the_sums_are_those_of_each_row_alone(tmp_path, kind):
    """Pairs, short texts and texts in chunks; OPT and BLOOM cannot share a sequence, and their rows go one by one."""
    base = models.base(tmp_path / "base", kind)
    rows = models.pairs(9) + models.texts(7) + [(None, "ünïcode — 🦊"), ("日本?", "水"), (None, "!" * 32)]
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test")
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    table, sentence = scored(base, tokens, tmp_path / "out.parquet")
    expected = by_hand(model, ids_of(rows), 32 if kind == "bloom" else models.POSITIONS)  # BLOOM sets no limit
    assert models.manifest(tokens)["rows"] > len(rows), "some texts are cut into chunks"
    same(table, expected)
    total = {name: sum(line[name] for line in expected.values()) for name in ("nll", "n_tokens")}
    assert f"{len(rows)} rows, perplexity {math.exp(total['nll'] / total['n_tokens']):,.2f} over" in sentence


@pytest.mark.parametrize(("window", "stride"), [(48, None), (10, None), (16, 4), (48, 1), (48, 47), (7, 7), (2, 1)])
def test_a_text_is_read_in_windows_and_each_token_scored_once(tmp_path, window, stride):
    base = models.base(tmp_path / "base")
    rows = models.pairs(4) + models.texts(5) + [(None, "x"), (None, " ".join(models.WORDS * 4))]
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test")
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    table, _ = scored(base, tokens, tmp_path / "out.parquet", window=window, stride=stride)
    same(table, by_hand(model, ids_of(rows), window, stride))
    for row_id, (_, tail, _) in ids_of(rows).items():
        assert table[row_id]["token_ids"] == tail
    assert json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"windows"]) == {
        "window": window,
        "stride": stride,
    }


def test_windows_leave_no_token_out_and_have_as_much_context_as_fits():
    sizes = np.arange(1, 60)
    for window in (2, 3, 10, 59, 80):
        for stride in {1, 2, window // 2, window - 1, window}:
            windows = windows_of(sizes, np.zeros_like(sizes), window, stride)
            assert windows.lengths.max() <= window
            for document, size in enumerate(sizes):
                here = windows.document == document
                first, end, begin = windows.first[here], windows.end[here], windows.begin[here]
                assert np.concatenate([np.arange(*span) for span in zip(first, end, strict=True)]).tolist() == list(
                    range(size)
                )
                assert begin[0] == -1
                assert (windows.lengths[here][1:] == window).all()
                assert (end[1:] - first[1:] <= stride).all()
                assert (begin[1:] < first[1:]).all()


def test_a_prompt_with_its_completion_is_never_cut(tmp_path):
    base = models.base(tmp_path / "base")
    tokens = models.tokens(models.pairs(9), base, tmp_path / "tokens", "test")
    whole, _ = scored(base, tokens, tmp_path / "whole.parquet")
    same(scored(base, tokens, tmp_path / "out.parquet", window=2, stride=1)[0], whole)


@pytest.mark.parametrize("size", [16, 31, models.POSITIONS])
def test_it_does_not_matter_how_the_texts_were_cut(tmp_path, size):
    base = models.base(tmp_path / "base")
    rows = [*models.texts(6, low=10, high=60), (None, "!" * 2 * size), (None, "!" * (2 * size - 1)), (None, "?")]
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test", max_length=size)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    table, _ = scored(base, tokens, tmp_path / "out.parquet")
    same(table, by_hand(model, ids_of(rows)))
    assert sum(line["n_tokens"] for line in table.values()) == models.manifest(tokens)["tokens"]


def test_a_window_that_the_model_cannot_read_is_refused_in_words(tmp_path):
    base = models.base(tmp_path / "base")
    tokens = models.tokens(models.texts(3), base, tmp_path / "tokens", "test")
    with pytest.raises(
        StageError, match=r"`likelihood.window` is 49 tokens, and the model has 48 positions; set it to"
    ):
        scored(base, tokens, tmp_path / "out.parquet", window=49)
    with pytest.raises(StageError, match=r"`likelihood.stride` is 9 tokens and the window 8, so that tokens would be"):
        scored(base, tokens, tmp_path / "out.parquet", window=8, stride=9)


def test_a_model_without_a_limit_takes_any_window(tmp_path):
    base = models.base(tmp_path / "base", "bloom")
    rows = models.texts(3, low=50)
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test")
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    same(scored(base, tokens, tmp_path / "out.parquet", window=200)[0], by_hand(model, ids_of(rows), 200))


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_the_sums_do_not_depend_on_what_shares_a_sequence_or_a_batch(tmp_path, monkeypatch, kind):
    base = models.base(tmp_path / "base", kind)
    rows = models.pairs(9) + models.texts(3, high=6)
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test")
    few, _ = scored(base, tokens, tmp_path / "few.parquet")
    for name, value in (("BATCH_TOKENS", 1), ("BATCH_TOKENS", 20), ("BATCH_TOKENS", 100), ("LOGITS", 300 * 64)):
        with monkeypatch.context() as patch:
            patch.setattr(stage, name, value)
            same(scored(base, tokens, tmp_path / "other.parquet")[0], few)
    with monkeypatch.context() as patch:
        patch.setattr(lm, "CHUNK", 3)
        same(scored(base, tokens, tmp_path / "chunks.parquet")[0], few)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "isolates", lambda model: False)
        same(scored(base, tokens, tmp_path / "alone.parquet")[0], few)
    # One long row makes every sequence as long as the model allows.
    wide = models.tokens([*rows, (None, " ".join(models.WORDS * 2))], base, tmp_path / "wide", "test", max_length=47)
    table, _ = scored(base, wide, tmp_path / "wide.parquet")
    same({row_id: table[row_id] for row_id in few}, few)


@pytest.mark.parametrize(("kind", "most"), [("gpt2", 8192), ("gemma2", 64)])
def test_a_model_that_gives_all_logits_at_once_gets_smaller_batches(tmp_path, monkeypatch, kind, most):
    base = models.base(tmp_path / "base", kind)
    tokens = models.tokens(models.pairs(60), base, tmp_path / "tokens", "test")
    sizes = []

    def spied(network, ids, *rest):
        sizes.append(ids.numel())
        return lm.token_scores(network, ids, *rest)

    monkeypatch.setattr(stage, "LOGITS", 300 * 64)
    monkeypatch.setattr(stage, "token_scores", spied)
    scored(base, tokens, tmp_path / "out.parquet")
    assert max(sizes) <= most
    assert (len(sizes) == 1) == (kind == "gpt2")


def saved(documents, folder):
    """A token folder of given ids, [(row_id, prompt ids, completion ids)], with its split and its manifest."""
    columns = {"input_ids": [head + tail for _, head, tail in documents]}
    columns |= {"prompt_len": [len(head) for _, head, _ in documents], "row_id": [name for name, _, _ in documents]}
    Dataset.from_dict(columns, Features.from_dict(FEATURES)).save_to_disk(str(folder))
    (folder.parent / f"{folder.name}.json").write_text(json.dumps({"max_length": 32, "truncated": 0}))
    split = [{"row_id": name, "prompt": None, "completion": "?"} for name, _, _ in documents]
    Dataset.from_list(split).to_parquet(f"{folder}.parquet")
    return str(folder)


def test_the_order_of_the_rows_does_not_matter(tmp_path):
    base = models.base(tmp_path / "base")
    rows = ids_of(models.pairs(6) + models.texts(3, high=6))
    documents = [(row_id, head, tail) for row_id, (head, tail, _) in rows.items()]
    there = saved(documents, tmp_path / "there")
    back = saved(documents[::-1], tmp_path / "back")
    table, _ = scored(base, there, tmp_path / "there.out")
    reverse, _ = scored(base, back, tmp_path / "back.out")
    same(reverse, table)
    assert list(reverse) == list(table) == sorted(rows)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_batch_that_is_padded_on_either_side_with_a_mask_gives_the_same(tmp_path, kind, side):
    """Ours are packed, and padded on the right without a mask: nothing looks ahead."""
    base = models.base(tmp_path / "base", kind)
    tokens = models.tokens(models.pairs(8), base, tmp_path / "tokens", "test")
    table, _ = scored(base, tokens, tmp_path / "out.parquet")
    rows = ids_of(models.pairs(8))
    width = max(len(head + tail) for head, tail, _ in rows.values())
    ids, mask = torch.zeros((8, width), dtype=torch.long), torch.zeros((8, width), dtype=torch.long)
    for number, (head, tail, _) in enumerate(rows.values()):
        size = len(head + tail)
        place = slice(width - size, width) if side == "left" else slice(0, size)
        ids[number, place], mask[number, place] = torch.tensor(head + tail), 1
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        chances = model(ids, attention_mask=mask, position_ids=positions).logits.log_softmax(-1)
    for number, (row_id, (head, tail, _)) in enumerate(rows.items()):
        last = width if side == "left" else len(head + tail)
        places = torch.arange(last - len(tail), last)
        nll = -chances[number, places - 1, ids[number, places]]
        assert table[row_id]["token_nll"] == pytest.approx(nll.tolist(), rel=1e-5, abs=1e-5)


def test_a_text_follows_the_begin_of_text_token_where_the_tokenizer_has_one(tmp_path):
    base = models.base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.bos_token = "!"
    tokenizer.save_pretrained(base)
    rows = models.texts(4) + models.pairs(3)
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test")
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    start = tokenizer.convert_tokens_to_ids("!")
    assert start != tokenizer.eos_token_id
    same(scored(base, tokens, tmp_path / "out.parquet")[0], by_hand(model, ids_of(rows), start=start))


def test_a_bin_of_the_confidence_is_closed_above(tmp_path):
    sure = [0.5, 0.5000001, 1.0, 1.0000001, 1e-9, 0.25, 0.75]
    documents = Documents(Rows(saved([("a", [7], [1] * len(sure))], tmp_path / "tokens")))
    (batch,) = passes(documents, windows_of(documents.lengths, documents.prompt_lengths, 48, 48), 0, 0, 8192, True)
    sums = TokenSums(documents)
    ones = torch.ones(len(sure))
    sums.add(batch, lm.TokenScores(ones, ones, torch.tensor(sure), ones.int()))
    (line,) = sums.table({"a": 9}, 0, stage.LIKELIHOOD).to_pylist()
    assert [line[f"bin{k}_n"] for k in BINS] == [1, 0, 1, 0, 1, 1, 0, 1, 0, 2]


def test_weights_that_were_saved_in_bf16_are_computed_with_in_fp32(tmp_path):
    base = models.base(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base).bfloat16().save_pretrained(base)
    rows = models.pairs(4) + models.texts(3)
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).float().eval()
    same(scored(base, tokens, tmp_path / "out.parquet")[0], by_hand(model, ids_of(rows)))


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
        assert line["entropy"] == pytest.approx(line["n_tokens"] * math.log(300), rel=1e-6)
        assert line["bin0_n"] == line["n_tokens"]
        assert line["bin0_confidence"] == pytest.approx(line["n_tokens"] / 300, rel=1e-6)
        # All are equally likely, and the lower id comes first.
        assert line["n_correct"] == line["bin0_correct"] == sum(token == 0 for token in line["token_ids"])
        assert line["n_top5"] == sum(token < 5 for token in line["token_ids"])


def test_without_an_end_of_text_token_nothing_but_the_text_is_scored(tmp_path):
    base = models.base(tmp_path / "base")
    rows = models.pairs(5) + models.texts(4, low=3, high=9)
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test", append_eos=False)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    table, _ = scored(base, tokens, tmp_path / "out.parquet")
    same(table, by_hand(model, ids_of(rows, eos=False)))
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


def test_what_a_template_puts_after_the_end_belongs_to_the_end(tmp_path):
    base = models.base(tmp_path / "base")
    end, other = models.tokenizer_of().eos_token_id, 5
    counted = {  # the completion, and how many of its last tokens say that it ends
        "a": ([1, 2, end], 1),
        "b": ([1, end, other], 2),
        "c": ([1, end, end], 1),
        "d": ([end, 1, 2], 0),
        "e": ([1, 2, 3], 0),
        "f": ([other], 0),
        "g": ([end], 1),
    }
    documents = [(name, [7, end], ids) for name, (ids, _) in counted.items()]  # the prompts end so too
    table, _ = scored(base, saved(documents, tmp_path / "tokens"), tmp_path / "out.parquet")
    for name, (ids, cut) in counted.items():
        nll = table[name]["token_nll"]
        assert table[name]["nll_text"] == pytest.approx(sum(nll[: len(ids) - cut]), abs=1e-5), name


def test_the_end_of_text_token_that_stands_in_a_prompt_is_no_end(tmp_path):
    base = models.base(tmp_path / "base")
    rows = [("one <|endoftext|> two", "three"), ("four", "five <|endoftext|> six")]
    tokens = models.tokens(rows, base, tmp_path / "tokens", "test", special_tokens="parse")
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    same(scored(base, tokens, tmp_path / "out.parquet")[0], by_hand(model, ids_of(rows)))


def test_the_table_is_sorted_by_row_and_has_a_line_for_each(tmp_path):
    base = models.base(tmp_path / "base")
    tokens = models.tokens(models.texts(8), base, tmp_path / "tokens", "test")
    table, _ = scored(base, tokens, tmp_path / "out.parquet")
    assert list(table) == sorted(f"{number * 7 % 101:03d}" for number in range(8))
    assert np.isfinite([line["nll"] for line in table.values()]).all()
    scored(base, tokens, tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "out.parquet").read_bytes()


def test_the_table_has_every_column_of_the_measure(tmp_path):
    assert {*Likelihood.COLUMNS} == {*stage.LIKELIHOOD.names} - {"row_id", "token_ids", "token_nll"}
