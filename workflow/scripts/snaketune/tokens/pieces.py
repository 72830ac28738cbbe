"""The texts of single tokens, which together are the text of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

HALF = "\ufffd"  # what a decoder writes for bytes that are no whole character


def pieces(decode: Callable[[Sequence[int]], str], ids: Sequence[int], start: int, stop: int) -> list[str]:
    """The texts of the tokens from `start` to `stop`, which make up the text of all of them.

    A token alone may be part of a character, and some tokenizers take the space from before a first token. So tokens
    are decoded with those before them; where a character has several, all of its text is the last one's, and the others
    have none. Characters that are cut at either end stay U+FFFD. decode: ids to text, special tokens and spaces kept.
    """
    texts = []
    whole = done = max(0, start - 4)  # where the decoded span begins, and where the text that is known ends
    for end in range(whole + 1, stop + 1):
        before = decode(ids[whole:done])
        text = decode(ids[whole:end])
        if text.endswith(HALF) and end < stop:
            texts.append("")
            continue
        texts.append(text[len(before) :])
        whole, done = done, end
    return texts[len(texts) - (stop - start) :]
