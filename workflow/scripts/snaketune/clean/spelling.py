"""Spelling correction by symspellpy (Garbe's symmetric delete), held back wherever a word may be right as it stands.

Looked at is only a word that stands by itself: lower-case letters between white space, punctuation at its ends aside;
the parts of a hyphenated word one by one. So these stay as they are: words with a capital (names, but also the first
word of a sentence), with a digit, an underscore or camelCase, with an apostrophe; whatever holds a sign inside (URLs,
e-mail addresses, paths, code); back-ticked spans; lines indented by a tab or four spaces; short words; words of the
dictionary.

A correction is taken only where one is clearly best: the fewest edits, and of several with as few it must be
DOMINANCE times as frequent as the next. Everything between the corrected words stays byte for byte.

symspellpy's own dictionary writes British English: "labor" becomes "labour". A right word that it does not know, such
as a rare plural, may become a neighbour. Loading it takes 0.7 s and 70 MB for one edit, 2.6 s and 140 MB for two. Each
different word is looked up once, at 8,000 words a second for one edit; texts go at 4 MB/s.
"""

from __future__ import annotations

import re
from importlib.resources import as_file, files
from pathlib import Path

import pyarrow as pa

from snaketune.job import StageError

DOMINANCE = 10  # a choice of this module: "recieve" is 20 times as often "receive" as "relieve"

_LETTERS = r"[^\W\d_A-Z]+"
PIECES = re.compile(
    r"(?P<kept>```.*?```|`[^`\n]*`|^(?: {4}|\t)[^\n]*)"
    r"""|(?<!\S)[("'\[{“‘«]*(?P<word>""" + _LETTERS + "(?:-" + _LETTERS + r""")*)[)"'\]}”’».,;:!?…]*(?!\S)""",
    re.M | re.S,
)
"""What is left alone as a whole, or a word that may be corrected."""


class Corrector:
    """Corrects texts by one dictionary; what it has looked up it remembers."""

    def __init__(self, dictionary: str | None, max_edits: int, min_word_length: int) -> None:
        """Load a dictionary: a file with `word count` on each line, or None for symspellpy's own, of English.

        max_edits: most edits between a word and its correction (a swap of neighbours is one). min_word_length:
        shorter words are left. Raises StageError where the file is missing or holds no such line.
        """
        from symspellpy import SymSpell

        self.max_edits = max_edits
        self.min_word_length = min_word_length
        self._known: dict[str, str] = {}
        self._speller = SymSpell(max_dictionary_edit_distance=max_edits)
        if dictionary is None:
            shipped = files("symspellpy") / "frequency_dictionary_en_82_765.txt"
            with as_file(shipped) as path:
                self._speller.load_dictionary(path, term_index=0, count_index=1, encoding="utf-8")
        else:
            _load(self._speller, dictionary)

    def correct(self, texts: pa.Array | pa.ChunkedArray) -> pa.Array:
        """The texts with their misspelt words corrected; nulls stay null."""
        corrected = [text if text is None else PIECES.sub(self._piece, text) for text in texts.to_pylist()]
        return pa.array(corrected, type=texts.type)

    def _piece(self, match: re.Match[str]) -> str:
        whole, word = match[0], match["word"]
        if word is None:
            return whole
        start = match.start("word") - match.start()
        parts = [self._word(part) for part in word.split("-")]
        return whole[:start] + "-".join(parts) + whole[start + len(word) :]

    def _word(self, word: str) -> str:
        if len(word) < self.min_word_length or word != word.lower():
            return word
        if word not in self._known:
            self._known[word] = self._look_up(word)
        return self._known[word]

    def _look_up(self, word: str) -> str:
        from symspellpy import Verbosity

        found = self._speller.lookup(word, Verbosity.CLOSEST, max_edit_distance=self.max_edits)
        found.sort(key=lambda hit: (hit.distance, -hit.count, hit.term))
        if not found or (len(found) > 1 and found[0].count < DOMINANCE * found[1].count):
            return word
        return found[0].term


def _load(speller: object, path: str) -> None:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise StageError(f"The dictionary {path} is not there: correct `clean.spelling.dictionary`.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"The dictionary {path} cannot be read ({error}): save it as text in UTF-8.") from None
    for number, line in enumerate(lines, start=1):
        word, _, count = line.strip().rpartition(" ")
        if line.strip() and not (word and count.isdecimal()):
            raise StageError(
                f"The dictionary {path} has no `word count` in line {number}: {line[:60]!r}. Mend this line."
            )
        if word:
            speller.create_dictionary_entry(word.strip(), int(count))
    if not speller.words:
        raise StageError(f"The dictionary {path} has no words: give `word count` on each line.")
