"""What each method makes of a text: noise by hand, synonyms from a real lexicon file, rewriting by a real model."""

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from snaketune.augment import noise
from snaketune.augment.rewrite import Rewriter, there_and_back
from snaketune.augment.synonyms import Synonyms
from snaketune.job import StageError
from test_augment import member, run, way

TEXT = " One two,\n\nthree\tfour. Five  six\n"
WORDS = st.lists(st.sampled_from(["a", "b,", "C.", "dé"]), min_size=2, max_size=30).map(" ".join)
SHARES = st.sampled_from([0.01, 0.1, 0.3, 0.5, 1.0])


def test_noise_leaves_the_white_space_of_a_text() -> None:
    for seed in range(20):
        swapped = noise.swap(TEXT, 0.1, Random(seed))
        assert re.findall(r"\s+", swapped) == [" ", " ", "\n\n", "\t", " ", "  ", "\n"]
        assert noise.delete(TEXT, 0.1, Random(seed)) in {
            " two,\n\nthree\tfour. Five  six\n",
            " One three\tfour. Five  six\n",
            " One two,\n\nfour. Five  six\n",
            " One two,\n\nthree\tFive  six\n",
            " One two,\n\nthree\tfour. six\n",
            " One two,\n\nthree\tfour. Five\n",
        }
        assert noise.insert("One\n", 1, Random(seed)) is None


@bounds(max_examples=200)
@given(text=WORDS, share=SHARES, seed=st.integers(0, 99))
def test_a_swap_moves_neighbours_only_and_loses_no_word(text: str, share: float, seed: int) -> None:
    words, made = text.split(), noise.swap(text, share, Random(seed)).split()
    place = 0
    pairs = 0
    while place < len(words):
        if made[place] == words[place]:
            place += 1
        else:
            assert made[place : place + 2] == words[place : place + 2][::-1]
            place += 2
            pairs += 1
    assert pairs <= max(1, round(share * len(words) / 2))


@bounds(max_examples=200)
@given(text=WORDS, share=SHARES, seed=st.integers(0, 99))
def test_the_share_says_how_many_words_are_deleted_and_inserted(text: str, share: float, seed: int) -> None:
    words = text.split()
    count = max(1, round(share * len(words)))
    shorter, longer = (make(text, share, Random(seed)).split() for make in (noise.delete, noise.insert))
    assert len(shorter) == max(1, len(words) - count)
    assert len(longer) == len(words) + count
    for part, whole in ((shorter, words), (words, longer)):
        rest = iter(whole)
        assert all(word in rest for word in part)  # in order
    assert set(longer) == set(words)


def test_every_place_can_be_chosen() -> None:
    text = "a b c d"
    assert {noise.swap(text, 0.1, Random(seed)) for seed in range(50)} == {"b a c d", "a c b d", "a b d c"}
    assert {noise.delete(text, 0.1, Random(seed)) for seed in range(50)} == {"b c d", "a c d", "a b d", "a b c"}
    assert len({noise.insert("a b", 0.1, Random(seed)) for seed in range(99)}) == 4  # aab, bab, abb, aba


ENTRIES = {
    "big": "s1",
    "large": "s1",
    "Large": "s9",
    "dog": "s2 s3",
    "hound": "s2",
    "domestic dog": "s2",
    "Canis": "s3",
}
ENTRIES |= {
    "as": "s4",
    "arsenic": "s4",
    "alone": "s5",
    "Turkey": "s6",
    "Türkiye": "s6",
    "well-known": "s7",
    "famous": "s7",
}


@pytest.fixture
def lexicon(tmp_path: Path) -> str:
    """A WN-LMF 1.1 file with a few words."""
    entries = "".join(
        f'<LexicalEntry id="t-{number}"><Lemma writtenForm="{word}" partOfSpeech="n"/>'
        + "".join(f'<Sense id="t-{number}-{synset}" synset="t-{synset}"/>' for synset in synsets.split())
        + "</LexicalEntry>"
        for number, (word, synsets) in enumerate(ENTRIES.items())
    )
    names = sorted({synset for synsets in ENTRIES.values() for synset in synsets.split()})
    synsets = "".join(f'<Synset id="t-{name}" ili="" partOfSpeech="n"/>' for name in names)
    path = tmp_path / "lexicon.xml"
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE LexicalResource SYSTEM '
        '"http://globalwordnet.github.io/schemas/WN-LMF-1.1.dtd">\n'
        '<LexicalResource xmlns:dc="https://globalwordnet.github.io/schemas/dc/"><Lexicon id="t" label="t" '
        'language="en" '
        f'email="a@example.com" license="none" version="1">{entries}{synsets}</Lexicon></LexicalResource>\n',
        encoding="utf-8",
    )
    return str(path)


def replaced(lexicon: str, text: str, share: float = 1) -> set[str | None]:
    synonyms = Synonyms(lexicon)
    return {synonyms.replace(text, share, Random(seed)) for seed in range(60)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a big one", {"a large one"}),
        ("Big, BIG (big)!", {"Large, LARGE (large)!"}),
        ("the dog\n  sat.", {"the hound\n  sat.", "the domestic dog\n  sat."}),
        ("Dog", {"Hound", "Domestic dog"}),
        ("in Turkey", {"in Türkiye"}),
        ("a well-known dog-house", {"a famous dog-house"}),
        ("as alone as turkey", {None}),
        ("dogs big_one bigger big's big.com @big big2 big-", {"dogs big_one bigger big's big.com @big big2 large-"}),
        ("", {None}),
    ],
)
def test_synonyms_keep_capitals_and_leave_parts_of_other_things(lexicon: str, text: str, expected: set[Any]) -> None:
    assert replaced(lexicon, text) == expected


def test_the_share_says_how_many_words_get_a_synonym(lexicon: str) -> None:
    text = "big " * 10
    for share, count in ((0.01, 1), (0.1, 1), (0.3, 3), (1, 10)):
        assert {made.split().count("large") for made in replaced(lexicon, text, share)} == {count}
    assert len(replaced(lexicon, text, 0.1)) == 10


def test_a_lexicon_leaves_nothing_in_the_users_home(lexicon: str, tmp_path: Path, monkeypatch: Any) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WN_DATA_DIR", str(home / "wn"))
    before = set(tmp_path.rglob("*"))
    Synonyms(lexicon)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("text", "message"), [(None, "is not there"), ("<a/>", "as WN-LMF"), ("no xml", "as WN-LMF")])
def test_a_lexicon_that_cannot_be_read_is_told_in_a_sentence(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "lexicon.xml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(StageError, match=rf"lexicon\.xml .*{message}"):
        Synonyms(path)


def test_children_by_synonyms_are_made_in_a_whole_run(lexicon: str, tmp_path: Path) -> None:
    _, children, said = run(
        tmp_path, [member("a big day"), member("no word")], way("synonyms", lexicon=lexicon, copies=2)
    )
    assert [child["completion"] for child in children] == ["a large day"]
    assert said == "1 rows made of 2 train rows; left out: 2 without another version, 1 equal to a row that is there"


def build(folder: Path, seed: int) -> str:
    """A T5 of a few thousand random weights, with a tokenizer of whole words, saved as users save theirs."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    words = [f"w{number}" for number in range(40)]
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", "say:", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 24}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    torch.manual_seed(seed)
    size = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": len(vocabulary)}
    config = T5Config(**size, initializer_factor=8.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return build(folder / "there", 1), build(folder / "back", 2)


def alone(folder: str, text: str, copies: int) -> list[str]:
    """What transformers itself makes of one text, by beams."""
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    tokenizer, model = AutoTokenizer.from_pretrained(folder), T5ForConditionalGeneration.from_pretrained(folder).eval()
    given = tokenizer(text, return_tensors="pt")["input_ids"]
    most = min(int(1.5 * given.shape[1]) + 16, 24)
    made = model.generate(given, num_beams=4, num_return_sequences=copies, max_new_tokens=most, do_sample=False)
    return [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]


QUESTIONS = ["w1 w2 w3", "w9 w8 w7", "w5 w5 w6"]


def test_a_model_rewrites_each_text_as_it_would_alone(models: tuple[str, str]) -> None:
    texts = [*QUESTIONS, "w1 w2 w3 w4 w5 w6"]
    made = Rewriter(models[0], "say: ").rewrite(texts, 2)
    assert [copies[0] for copies in made] == [alone(models[0], f"say: {text}", 1)[0] for text in texts]
    assert all(one != other for one, other in made)
    assert len({text for copies in made for text in copies}) > 4


def test_a_text_longer_than_the_model_reads_is_left_out_not_cut(models: tuple[str, str]) -> None:
    made = Rewriter(models[0]).rewrite(["w1 " * 23, "w1 " * 24], 1)
    assert made[0] != [None]
    assert made[1] == [None]


def test_a_text_is_translated_and_each_of_its_copies_translated_back(models: tuple[str, str]) -> None:
    there, back = map(Rewriter, models)
    abroad = [alone(models[0], text, 1)[0] for text in QUESTIONS]
    assert there_and_back(there, back, QUESTIONS, 1) == [alone(models[1], text, 1) for text in abroad]
    assert there_and_back(there, back, ["w1 " * 30], 2) == [[None, None]]


def test_children_of_the_rewriters_are_made_in_a_whole_run(models: tuple[str, str], tmp_path: Path) -> None:
    rows = [member("yes", text) for text in QUESTIONS]
    ways = [way("paraphrase", model=models[0]), way("back_translation", model=models[0], back_model=models[1])]
    _, children, _ = run(tmp_path, rows, *ways)
    paraphrased = {child["prompt"] for child in children if child["source"] == "augment:paraphrase"}
    assert paraphrased == {alone(models[0], text, 1)[0] for text in QUESTIONS}
    assert all(child["completion"] == "yes" for child in children)


def test_a_model_that_cannot_be_loaded_is_told_in_a_sentence(models: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no such folder"):
        Rewriter(str(tmp_path / "none"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(StageError, match="sequence-to-sequence"):
        Rewriter(str(tmp_path / "bare"))
