"""Who turns texts into token ids. The ids are by definition those of the Hugging Face tokenizer.

gigatoken (github.com/marcelroed/gigatoken) makes the same ids of byte-level BPE vocabularies, 15 to 100 times faster:
it looks a word up that it has seen before. It is taken only after `parity.check` has found no difference, and never
for two kinds of text, which always go to Hugging Face: those that hold what an added token is written as, and those
with characters that came with Unicode 17. The two libraries class these characters differently, because their tables
are of different years; over all 1,112,064 code points there is no other difference.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.job import StageError
from snaketune.tokens.ragged import Ragged, merged, offsets_of
from snaketune.tokens.tokenizer import added_texts

CALL_BYTES = 1_000_000  # of text in a call of Hugging Face, which takes some 60 times as much memory meanwhile
CACHE_BYTES = 64_000_000  # of text until gigatoken is opened anew: its memory of words grows with what it reads
UNICODE_17 = (
    "\\x{88F}\\x{C5C}\\x{CDC}\\x{1ACF}-\\x{1ADD}\\x{1AE0}-\\x{1AEB}\\x{20C1}\\x{2B96}\\x{A7CE}\\x{A7CF}\\x{A7D2}"
    "\\x{A7D4}\\x{A7F1}\\x{FBC3}-\\x{FBD2}\\x{FD90}\\x{FD91}\\x{FDC8}-\\x{FDCE}\\x{10940}-\\x{1095F}"
    "\\x{10EC5}-\\x{10EC7}\\x{10ED0}-\\x{10ED8}\\x{10EFA}\\x{10EFB}\\x{11B60}-\\x{11B67}\\x{11DB0}-\\x{11DEF}"
    "\\x{16EA0}-\\x{16EDF}\\x{16FF2}-\\x{16FF6}\\x{187F8}-\\x{187FF}\\x{18D09}-\\x{18D1E}\\x{18D80}-\\x{18DF2}"
    "\\x{1CCFA}-\\x{1CCFC}\\x{1CEBA}-\\x{1CED0}\\x{1CEE0}-\\x{1CEF0}\\x{1E6C0}-\\x{1E6FF}\\x{1F6D8}"
    "\\x{1F777}-\\x{1F77A}\\x{1F8D0}-\\x{1F8D8}\\x{1FA54}-\\x{1FA57}\\x{1FA8A}\\x{1FA8E}\\x{1FAC8}\\x{1FACD}"
    "\\x{1FAEA}\\x{1FAEF}\\x{1FBFA}\\x{2B73A}-\\x{2B73F}\\x{2CEA2}-\\x{2CEAD}\\x{323B0}-\\x{3347F}"
)


class Backend(Protocol):
    """Texts to token ids, without a begin or an end."""

    name: str
    texts: dict[str, int]  # how many texts each library has tokenized

    def encode(self, texts: pa.Array) -> Ragged:
        """The ids of each text; texts: an array of strings, none of them null."""


class HuggingFace:
    """The tokenizer itself. `parse`: text that reads like a special token is that token."""

    name = "huggingface"

    def __init__(self, tokenizer: Any, parse: bool) -> None:
        self.texts = {"huggingface": 0}
        self._tokenizer = tokenizer
        self._parse = parse
        self._fast = getattr(tokenizer, "backend_tokenizer", None)  # none: written in Python
        if self._fast is not None:
            self._fast.no_truncation()
            self._fast.no_padding()
            self._special = special_ids(tokenizer)

    def encode(self, texts: pa.Array) -> Ragged:
        self.texts["huggingface"] += len(texts)
        sizes = np.cumsum(pc.binary_length(texts).to_numpy())
        cuts = np.searchsorted(sizes, np.arange(0, sizes[-1] if len(texts) else 0, CALL_BYTES)).tolist()
        borders = sorted({0, *cuts, len(texts)})
        return Ragged.joined([self._ids(texts[start:end].to_pylist()) for start, end in pairwise(borders)])

    def _ids(self, texts: list[str]) -> Ragged:
        if self._fast is None:
            wanted = {"add_special_tokens": False, "split_special_tokens": not self._parse, "verbose": False}
            return Ragged.of(self._tokenizer(texts, **wanted)["input_ids"] if texts else [])
        self._fast.encode_special_tokens = not self._parse
        made = Ragged.of([text.ids for text in self._fast.encode_batch_fast(texts, add_special_tokens=False)])
        if not self._parse and (found := np.flatnonzero(self._special[made.values])).size:
            token = self._tokenizer.convert_ids_to_tokens(int(made.values[found[0]]))
            raise StageError(
                f"this tokenizer makes its special token {token!r} of plain text, so that text cannot stay text; "
                "set `tokenize.special_tokens: parse`, or take the characters out of the data"
            )
        return made


class Gigatoken:
    """gigatoken, with Hugging Face for the texts that it is known to read otherwise.

    Raises ValueError where gigatoken does not know this kind of tokenizer.
    """

    name = "gigatoken"

    def __init__(self, tokenizer: Any, parse: bool, threads: int) -> None:
        self._exact = HuggingFace(tokenizer, parse)
        if self._exact._fast is None:
            raise ValueError("this tokenizer has no tokenizer.json")
        if self._exact._fast.normalizer is not None and any(
            token.normalized for token in tokenizer.added_tokens_decoder.values()
        ):
            raise ValueError("some added tokens are looked for after normalization")
        self._json = self._exact._fast.to_str()
        self._parallel = threads > 1
        self._others = "|".join([*map(re2_literal, added_texts(tokenizer)), f"[{UNICODE_17}]"])
        self._quick = 0
        self._open()

    def _open(self) -> None:
        from gigatoken import Tokenizer

        self._fast: Any = None  # the old memory goes before the new one comes
        self._fast = Tokenizer.from_json(self._json)
        self._read = 0

    @property
    def texts(self) -> dict[str, int]:
        return {"gigatoken": self._quick} | self._exact.texts

    def encode(self, texts: pa.Array) -> Ragged:
        other = pc.match_substring_regex(texts, self._others).to_numpy(zero_copy_only=False)
        if not other.any():
            return self._ids(texts)
        return merged(
            other, self._exact.encode(texts.filter(pa.array(other))), self._ids(texts.filter(pa.array(~other)))
        )

    def _ids(self, texts: pa.Array) -> Ragged:
        size = texts.nbytes
        if self._read and self._read + size > CACHE_BYTES:
            self._open()
        self._read += size
        self._quick += len(texts)
        if not len(texts):
            return Ragged.of([])
        made = self._fast.encode_batch(texts.to_pylist(), parallel=self._parallel).layout
        offsets = np.asarray(made.offsets.data, np.int64)
        values = np.asarray(made.content.data)[offsets[0] : offsets[-1]]
        return Ragged(values.astype(np.int32, copy=False), offsets_of(np.diff(offsets)))


def special_ids(tokenizer: Any) -> np.ndarray:
    """Which ids no plain text may give, [vocabulary] bool: the special ones, but for the model's own unknown token."""
    special = np.zeros(max(tokenizer.get_vocab().values(), default=0) + 1, bool)
    special[[number for number, token in tokenizer.added_tokens_decoder.items() if token.special]] = True
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    unknown = tokenizer.backend_tokenizer.token_to_id(model.get("unk_token") or "")
    unknown = model.get("unk_id") if unknown is None else unknown
    if unknown is not None:
        special[unknown] = False
    return special


def re2_literal(text: str) -> str:
    """A pattern of RE2 that finds a text itself."""
    return re.sub(r"[^\w]", lambda found: f"\\x{{{ord(found[0]):X}}}", text, flags=re.ASCII)
