"""A new base model: a tokenizer that loses nothing, and weights that the seed decides."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import models
from init_base import END, init_base
from snaketune.job import StageError

SETTINGS = {
    "vocab_size": 290,
    "n_positions": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "seed": 4,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return models.split(models.pairs(20) + models.texts(5), tmp_path_factory.mktemp("rows") / "train.parquet")


@pytest.fixture(scope="module")
def base(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    init_base(rows, folder, SETTINGS)
    return folder


@pytest.fixture(scope="module")
def tokenizers(base):
    """The saved tokenizer, by both doors through which the stages open it."""
    return [AutoTokenizer.from_pretrained(base), PreTrainedTokenizerFast.from_pretrained(base)]


@settings(max_examples=200)
@given(st.text(max_size=60))
@example(" it 's  n't , a . test ! ")
@example("\r\n\t\x00 ́e 🦊👩‍👩‍👧 ﷺ")
@example("a <|endoftext|> b")
def test_any_text_comes_back_from_its_tokens(tokenizers, text):
    for tokenizer in tokenizers:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert all(0 <= token < 290 for token in ids)


def test_a_word_at_the_head_of_a_text_gets_no_space(tokenizers):
    for tokenizer in tokenizers:
        assert tokenizer("river")["input_ids"] != tokenizer(" river")["input_ids"]


def test_the_folder_is_a_model_that_fits_its_tokenizer(base, tokenizers):
    model = AutoModelForCausalLM.from_pretrained(base)
    assert model.get_input_embeddings().num_embeddings == len(tokenizers[0]) == 290
    assert model.config.n_positions == tokenizers[0].model_max_length == 16
    assert model.config.eos_token_id == model.config.bos_token_id == tokenizers[0].eos_token_id
    assert tokenizers[0].eos_token == END
    assert (model.config.resid_pdrop, model.config.embd_pdrop, model.config.attn_pdrop) == (0.1, 0.1, 0.0)


def test_a_vocabulary_that_the_texts_cannot_fill_is_refused_with_the_number_that_they_can(tmp_path):
    rows = models.split([("ab", "abab")], tmp_path / "train.parquet")
    with pytest.raises(StageError, match=r"yields only \d+ tokens; set `model.from_scratch.vocab_size`") as refused:
        init_base(rows, tmp_path / "base", SETTINGS | {"vocab_size": 400})
    possible = int(str(refused.value).split("only ")[1].split()[0])
    init_base(rows, tmp_path / "base", SETTINGS | {"vocab_size": possible})
    assert len(AutoTokenizer.from_pretrained(tmp_path / "base")) == possible


def test_the_seed_and_the_rows_decide_every_byte(rows, base, tmp_path):
    for name, seed in (("again", 4), ("other", 5)):
        init_base(rows, tmp_path / name, SETTINGS | {"seed": seed})
    first, again, other = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (base, tmp_path / "again", tmp_path / "other")
    )
    assert first == again
    assert [name for name in first if first[name] != other[name]] == ["model.safetensors"]


def test_the_vocabulary_is_learnt_from_prompts_and_completions(rows, tmp_path):
    asked = models.split([("zyx" * 30, "a")] * 3, tmp_path / "asked.parquet")
    init_base(asked, tmp_path / "base", SETTINGS | {"vocab_size": 259})
    assert AutoTokenizer.from_pretrained(tmp_path / "base").convert_tokens_to_ids("zyx") == 258
