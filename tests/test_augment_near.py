"""What is near to a held-out row is found exactly: as brute force finds it, at every threshold and with many pairs."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from snaketune.leaks import held_out
from snaketune.leaks.held_out import HeldOut

TEXTS = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=12).map(" ".join), max_size=8)


def shingles(text: str, words: int) -> set[tuple[str, ...]]:
    """The runs of words of a text; a shorter text is one run."""
    parts = text.split()
    width = min(words, len(parts))
    return {tuple(parts[start : start + width]) for start in range(len(parts) - width + 1)} if parts else set()


def brute(texts: list[str], held: list[str], words: int, threshold: float) -> list[bool]:
    sets = [shingles(text, words) for text in held]
    near = []
    for text in texts:
        mine = shingles(text, words)
        shares = [len(mine & other) / len(mine | other) for other in sets if mine | other]
        near.append(bool(mine) and max(shares, default=0) >= threshold)
    return near


@bounds(max_examples=300, deadline=None)
@given(
    texts=TEXTS,
    held=TEXTS,
    words=st.sampled_from([1, 2, 5]),
    threshold=st.sampled_from([0.2, 0.5, 0.6, 0.75, 0.8, 1.0]),
    pairs=st.sampled_from([1, 3, held_out.PAIRS]),
)
def test_near_is_what_brute_force_finds(
    texts: list[str], held: list[str], words: int, threshold: float, pairs: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out, "PAIRS", pairs)
        batches = [pa.array(held[:3], pa.string()), pa.chunked_array([pa.array(held[3:], pa.string())])]
        found = HeldOut(batches, words, threshold).near(pa.array(texts, pa.string()))
    assert found.tolist() == brute(texts, held, words, threshold)
    assert found.dtype == np.bool_


def test_nothing_is_near_to_nothing() -> None:
    assert HeldOut([], 5, 0.8).near(pa.array(["a b c", None, ""])).tolist() == [False, False, False]
    assert HeldOut([pa.array(["", None])], 5, 0.8).near(pa.array(["", None, "a"])).tolist() == [False, False, False]
