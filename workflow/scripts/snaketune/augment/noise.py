"""Small disturbances of a text: words swapped, deleted, inserted (Wei and Zou 2019, EDA).

Words are runs between white space, and keep their punctuation. The white space of a text stays where it is, but for
the gap that a deleted word takes with it and the plain space that an inserted one brings. EDA inserts synonyms and
swaps any two words; here a word of the same text is inserted, and neighbours are swapped, which needs no lexicon and
keeps the text nearer to what it was. At least one change is made, and a text of fewer than two words has no version.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

_WORD = re.compile(r"\S+")


def swap(text: str, share: float, random: Random) -> str | None:
    """The text with pairs of neighbouring words swapped: `share` of its words, no word twice."""
    words, gaps = _cut(text)
    if len(words) < 2:
        return None
    left = max(1, round(share * len(words) / 2))
    moved: set[int] = set()
    for place in _shuffled(len(words) - 1, random):
        if left and place not in moved and place + 1 not in moved:
            words[place], words[place + 1] = words[place + 1], words[place]
            moved |= {place, place + 1}
            left -= 1
    return _joined(words, gaps)


def delete(text: str, share: float, random: Random) -> str | None:
    """The text without `share` of its words; at least one stays."""
    words, gaps = _cut(text)
    if len(words) < 2:
        return None
    count = min(_count(share, words), len(words) - 1)
    for place in sorted(_shuffled(len(words), random)[:count], reverse=True):
        del words[place]
        del gaps[place + 1 if place < len(words) else place]
    return _joined(words, gaps)


def insert(text: str, share: float, random: Random) -> str | None:
    """The text with words of its own, `share` as many as it has, put in once more at random places."""
    words, gaps = _cut(text)
    if len(words) < 2:
        return None
    own = list(words)
    for _ in range(_count(share, own)):
        word, place = own[_below(len(own), random)], _below(len(words) + 1, random)
        if place == len(words):
            gaps.insert(place, " ")
        else:
            gaps.insert(place + 1, " ")
        words.insert(place, word)
    return _joined(words, gaps)


METHODS: dict[str, Callable[[str, float, Random], str | None]] = {"swap": swap, "delete": delete, "insert": insert}


def _cut(text: str) -> tuple[list[str], list[str]]:
    """The words of a text and the gaps around them, one more."""
    return _WORD.findall(text), _WORD.split(text)


def _joined(words: list[str], gaps: list[str]) -> str:
    return gaps[0] + "".join(word + gap for word, gap in zip(words, gaps[1:], strict=True))


def _count(share: float, words: list[str]) -> int:
    return max(1, round(share * len(words)))


def _below(count: int, random: Random) -> int:
    """A place below `count`, by `random()` alone, which Python keeps the same over its versions."""
    return int(random.random() * count)


def _shuffled(count: int, random: Random) -> list[int]:
    """All places below `count` in a random order."""
    keys = [random.random() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)
