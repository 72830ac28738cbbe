"""The names by which data calls its own splits, and how well each split is protected."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# By how well a split is protected: what stands in a later one may not stand in an earlier one.
SPELLINGS = (("train", "training"), ("validation", "valid", "val", "dev"), ("test", "testing"))
_KNOWN = pa.array([name for names in SPELLINGS for name in names])
_NUMBER = np.repeat(range(3), [len(names) for names in SPELLINGS])


def split_numbers(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The place in SPELLINGS of each name [n], whatever its case; -1 for none and for an unknown one."""
    place = pc.index_in(pc.utf8_lower(pc.utf8_trim_whitespace(values)), value_set=_KNOWN)
    return np.r_[_NUMBER, -1][pc.fill_null(place, len(_NUMBER)).to_numpy(zero_copy_only=False)]
