"""What the preflight looks at: the ends of rows, the rows that it compares, padding, and the examples that it shows."""

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

import models
from snaketune.model.checks import ends, examples, marked, not_finite_weight, padding_difference, sample
from snaketune.tokens.pieces import pieces

CHARACTERS = "caf\u00e9 \u4f60\u597d \U0001f600 end"


class Given:
    """Rows that stand in memory; each is a prompt and a completion."""

    def __init__(self, *rows: tuple[list[int], list[int]]) -> None:
        self.rows = [np.array([*prompt, *rest], dtype=np.int32) for prompt, rest in rows]
        self.prompt_lengths = np.array([len(prompt) for prompt, _ in rows])
        self.lengths = np.array([len(row) for row in self.rows])
        self.row_ids = [f"row{number}" for number in range(len(rows))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.rows[row]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return models.tokenizer_of()


@pytest.fixture(scope="module")
def spaced() -> Any:
    """As Llama's: words carry the space before them, which is dropped before the first one; single bytes elsewhere."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581river", "\u2581stone", "s"]
    made = Tokenizer(tokenizer_models.BPE({word: n for n, word in enumerate(words)}, [], byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def plan_of(*rows: int) -> Any:
    return SimpleNamespace(blocks=lambda step: [[row] for row in rows])


def test_the_end_is_looked_for_among_trained_tokens(tokenizer):
    end, word = tokenizer.eos_token_id, tokenizer("river").input_ids[0]
    feed = tokenizer("\n\n ").input_ids
    assert len(feed) >= 2
    share = {
        "at the end": ([word], [word, end]),
        "white space follows, as chat templates have it": ([word], [word, end, *feed]),
        "words follow": ([word], [word, end, word]),
        "none": ([word], [word, word]),
        "in the prompt alone": ([word, end], [word]),
        "in the prompt, and white space is the answer": ([word, end], feed),
    }
    found = {name: ends(Given(row), tokenizer, "completion")["end_trained"] for name, row in share.items()}
    assert list(found.values()) == [1, 1, 0, 0, 0, 0], found
    assert ends(Given(([word, end], [])), tokenizer, "completion")["end_trained"] == 0
    assert ends(Given(([word], [end])), tokenizer, "completion")["end_trained"] == 1


def test_only_pairs_are_asked_for_their_end_where_there_are_pairs(tokenizer):
    end = tokenizer.eos_token_id
    rows = Given(([5], [6, end]), ([], [5, 6, 7]), ([5, 5], [6, 6]), ([5], [end]))
    found = ends(rows, tokenizer, "completion")
    assert found == {"rows": 4, "pairs": 3, "tokens": 12, "trained_tokens": 2 + 2 + 2 + 1, "end_trained": 0.6667}
    assert ends(rows, tokenizer, "all")["trained_tokens"] == 12 - 4
    texts = ends(Given(([], [5, end]), ([], [5, 6])), tokenizer, "completion")
    assert (texts["pairs"], texts["end_trained"], texts["trained_tokens"]) == (0, 0.5, 2)


def test_the_rows_that_are_compared_are_few_and_of_varied_length():
    lengths = [1, *range(2, 2000, 7)]
    documents = sample(Given(*(([], list(range(length))) for length in lengths)))
    assert [len(document) for document in documents][:2] == [512, 96]
    assert sum(map(len, documents)) < 1024
    assert min(map(len, documents)) >= 2
    assert all(document.dtype == np.int64 for document in documents)
    assert [len(document) for document in sample(Given(([], [3, 4])))] == [2]


def test_a_weight_that_is_not_finite_is_named():
    model = models.build("gpt2", 50, 0)
    assert not_finite_weight(model) == ""
    model.transformer.wte.weight.data[0, 0] = float("inf")
    assert not_finite_weight(model) == "transformer.wte.weight"


DOCUMENTS = [np.array(ids) for ids in ([5, 9, 11, 3, 8, 2, 7], [4, 6], [10, 12, 13, 1])]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "llama", "opt", "bloom", "gptj"])
def test_the_padding_of_a_sound_model_changes_no_loss(kind):
    found = padding_difference(models.build(kind, 50, 0), DOCUMENTS, 0)
    assert max(found.values()) < 1e-4


@pytest.mark.parametrize(("kind", "ignored"), [("gpt2", "position_ids"), ("bloom", "attention_mask")])
def test_a_model_that_ignores_what_tells_padding_is_found(kind, ignored):
    model = models.build(kind, 50, 0)

    def ignore(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {ignored: None}

    getattr(model, model.base_model_prefix).register_forward_pre_hook(ignore, with_kwargs=True)
    found = padding_difference(model, DOCUMENTS, 0)
    assert found["left"] > 0.05
    assert found["batch"] < 1e-4


def test_a_model_that_looks_ahead_is_found_in_a_padded_batch():
    model = models.build("gpt2", 50, 0)
    model.transformer.ln_f.register_forward_hook(lambda module, given, made: made + made.mean(1, keepdim=True))
    assert padding_difference(model, DOCUMENTS, 0)["batch"] > 0.05


def test_a_loss_that_is_no_number_is_not_taken_for_agreement():
    model = models.build("gpt2", 50, 0)
    model.transformer.ln_f.weight.data[:] = float("nan")
    assert not any(difference < 1 for difference in padding_difference(model, DOCUMENTS, 0).values())


def decoding(tokenizer):
    return partial(tokenizer.decode, clean_up_tokenization_spaces=False)


def test_the_pieces_of_a_text_are_readable_and_make_it_up(tokenizer):
    ids = tokenizer(CHARACTERS).input_ids
    found = pieces(decoding(tokenizer), ids, 0, len(ids))
    assert len(found) == len(ids)
    assert "".join(found) == CHARACTERS
    assert "\u00e9" in found
    assert "\u4f60" in found
    assert "\U0001f600" in [piece.strip() for piece in found]
    assert "\ufffd" in tokenizer.decode([ids[found.index("\u00e9")]])  # alone it is half a character


def test_the_space_before_a_word_is_kept_where_a_tokenizer_drops_it_from_a_first_one(spaced):
    river, stone, s = (spaced.convert_tokens_to_ids(word) for word in ("\u2581river", "\u2581stone", "s"))
    snow = [spaced.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "\u2603".encode()]
    ids = [river, stone, s, *snow, river]
    assert pieces(decoding(spaced), ids, 0, len(ids)) == ["river", " stone", "s", "", "", "\u2603", " river"]
    assert pieces(decoding(spaced), ids, 1, 3) == [" stone", "s"]


def test_characters_that_are_cut_stay_marked_and_nothing_else_is_lost(tokenizer):
    ids = tokenizer("a\u4f60b").input_ids
    assert len(ids) == 5
    assert pieces(decoding(tokenizer), ids, 0, 3) == ["a", "", "\ufffd"]
    assert "".join(pieces(decoding(tokenizer), ids, 0, 4)) == "a\u4f60"
    assert "".join(pieces(decoding(tokenizer), tokenizer("a\ufffdb").input_ids, 0, 5)) == "a\ufffdb"  # the data's own


def test_an_example_tells_trained_tokens_and_what_is_not_shown(tokenizer):
    prompt = tokenizer("river stone " * 80).input_ids
    answer = [*tokenizer(" light").input_ids, tokenizer.eos_token_id]
    rows = Given(([], [7, 8, 9]), (prompt, answer), (prompt[:4], answer * 50))
    cut, long = examples(rows, plan_of(1, 2, 0), tokenizer, "completion", 2)
    assert cut["row_id"] == "row1"
    assert (cut["before"], cut["after"], len(cut["tokens"])) == (len(prompt) - 60, 0, 60 + len(answer))
    assert cut["trained"] == [False] * 60 + [True] * len(answer)
    assert "".join(cut["tokens"][60:]) == " light<|endoftext|>"
    assert (long["before"], long["after"], sum(long["trained"])) == (0, len(answer) * 50 - 60, 60)
    (text,) = examples(rows, plan_of(0), tokenizer, "completion", 2)
    assert text["trained"] == [False, True, True]
    (whole,) = examples(rows, plan_of(1), tokenizer, "all", 1)
    assert (whole["before"], whole["trained"][0], sum(whole["trained"])) == (0, False, 60)


def example(**changed: Any) -> dict[str, Any]:
    return {"tokens": ["a", " b", "c"], "trained": [False, True, True], "before": 0, "after": 0} | changed


def test_trained_tokens_are_marked_with_and_without_colour():
    assert marked(example(), colour=True) == "  trained in green: a\033[32m bc\033[0m"
    assert marked(example(), colour=False) == "  trained between \u27e6 and \u27e7: a\u27e6 bc\u27e7"
    cut = marked(example(before=3, after=2), colour=False)
    assert cut.endswith(": \u2026a\u27e6 bc\u27e7\u2026")
    ended = marked(example(trained=[True, True, False]), colour=True)
    assert ended.endswith(": \033[32ma b\033[0mc")


def test_nothing_in_the_data_can_steer_the_terminal():
    hostile = ["\033[2J", "\r\n", "\x9b31m", "\u202e", "\x07", "\u0000", "[0m", "\u2028"]
    text = marked(example(tokens=hostile, trained=[False] * 4 + [True] * 4), colour=False)
    assert text.isprintable()
    assert "\\x1b[2J\\r\\n\\x9b31m\\u202e" in text
    coloured = marked(example(tokens=hostile, trained=[False] * 4 + [True] * 4), colour=True)
    assert re.findall("\033[^m]*m", coloured) == ["\033[32m", "\033[0m"]
    assert coloured.replace("\033", "").isprintable()


def test_the_rows_of_a_token_folder_are_taken_as_they_are(tmp_path: Path):
    from snaketune.model.batches import Rows

    base = models.base(tmp_path / "base")
    rows = Rows(models.tokens(models.pairs(9), base, tmp_path / "tokens", "train"))
    tokenizer = models.tokenizer_of()
    found = ends(rows, tokenizer, "completion")
    assert (found["rows"], found["pairs"], found["end_trained"]) == (9, 9, 1.0)
    assert found["trained_tokens"] == sum(len(rows[row]) - int(rows.prompt_lengths[row]) for row in range(9))
    assert torch.from_numpy(sample(rows)[0]).dtype == torch.int64
