"""Synonyms from a local WordNet, put in for `share` of a text's words (Wei and Zou 2019, synonym replacement).

The lexicon is a file in the format WN-LMF (globalwordnet.github.io), such as Open English WordNet; `wn` reads it, and
nothing is fetched or put into a database: a dictionary of synonyms is all that is needed here. A word's synonyms are
the lemmas of all synsets that it is in, whatever its sense in the text, so that some will be wrong: keep the share
small. Only words written as their lemma are replaced ("dogs" is not), and none of the function words below, whose
lemmas are mostly homographs (the noun "as" is arsenic).

Memory: reading Open English WordNet takes about 1 GB for a moment; 50 MB stay.
"""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

from snaketune.job import StageError

_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_INSIDE = "_@/\\.:=&#'’"  # signs beside which a word is a part of something else
_FUNCTION_WORDS = """
a an the and or nor but if so as at by for from in into of off on onto out over per than then to under up upon
via with within without about above after again against all am any are be because been before being below
between both can did do does doing done down during each either few had has have having he her here hers him his
how i is it its just may me might mine more most much must my neither no not now once one only other our ours
own same shall she should some such that their them there these they this those though through too until us very
was we were what when where whether which while who whom whose why will would yes yet you your yours
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


class Synonyms:
    """The synonyms of each word of a lexicon."""

    def __init__(self, path: str | Path) -> None:
        """Read a WN-LMF file. Raises StageError where it is missing or is none."""
        from wn import lmf

        try:
            lexicons = lmf.load(path, progress_handler=None)["lexicons"]
        except FileNotFoundError:
            raise StageError(f"The lexicon {path} is not there: correct `augment.lexicon`.") from None
        except Exception as error:  # what is no WN-LMF fails in many ways: expat, KeyError, wn's own errors
            raise StageError(
                f"The lexicon {path} cannot be read as WN-LMF ({type(error).__name__}: {error}): give an unpacked "
                ".xml file, such as Open English WordNet's."
            ) from None
        members: dict[str, dict[str, None]] = {}
        entries: dict[str, dict[str, None]] = {}
        for lexicon in lexicons:
            for entry in lexicon.get("entries", []):
                form = (entry.get("lemma") or {}).get("writtenForm")
                for sense in entry.get("senses", []) if form else []:
                    members.setdefault(sense["synset"], {})[form] = None
                    entries.setdefault(form, {})[sense["synset"]] = None
        self.known: dict[str, list[str]] = {}
        for form, synsets in entries.items():
            others = {other for synset in synsets for other in members[synset]} - {form}
            if others:
                self.known[form] = sorted(others)

    def of(self, word: str) -> list[str]:
        """The synonyms of a word as it could stand there: "Big" has "Large"; words of lower case have such ones."""
        if word.lower() in FUNCTION_WORDS:
            return []
        if word in self.known:
            found = self.known[word]
            return [other for other in found if other.islower()] if word.islower() else found
        found = [other for other in self.known.get(word.lower(), []) if other.islower()]
        if len(word) > 1 and word.isupper():
            return [other.upper() for other in found]
        return [other[0].upper() + other[1:] for other in found] if word[:1].isupper() else []

    def replace(self, text: str, share: float, random: Random) -> str | None:
        """The text with synonyms for `share` of its words, at least one; None where no word has any."""
        words = list(_WORD.finditer(text))
        choices = [(word, found) for word in words if _alone(text, word) and (found := self.of(word[0]))]
        if not choices:
            return None
        keys = [random.random() for _ in choices]
        order = sorted(range(len(choices)), key=keys.__getitem__)
        chosen = sorted(order[: max(1, round(share * len(words)))])
        pieces, done = [], 0
        for place in chosen:
            word, found = choices[place]
            pieces += [text[done : word.start()], found[int(random.random() * len(found))]]
            done = word.end()
        return "".join([*pieces, text[done:]])


def _alone(text: str, word: re.Match[str]) -> bool:
    """Whether a word is no part of an address, a name in code, or a contraction; a full stop may follow it."""
    before, after = text[: word.start()][-1:], text[word.end() :][:2]
    inside = after[:1] in _INSIDE and after[1:].isalnum() if after else False
    digit = before.isdigit() or after[:1].isdigit() or before == "_" or after[:1] == "_"
    return not (inside or digit or (before != "" and before in _INSIDE))
