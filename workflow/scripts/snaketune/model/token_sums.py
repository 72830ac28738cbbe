"""What is known of the scored tokens of each row: sums over them, and the loss of each token of the completion."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from snaketune.model.lm import TokenScores
from snaketune.model.scoring_windows import Documents, Pass
from snaketune.scoring.likelihood import BINS, EDGES
from snaketune.tokens.ragged import offsets_of

COUNTS = ("n_tokens", "n_tokens_full", "n_correct", "n_top5", *(f"bin{k}_n" for k in range(BINS)))
SUMS = ("nll", "nll_full", "entropy", *(f"bin{k}_{name}" for k in range(BINS) for name in ("confidence", "correct")))
TOP = 5


class TokenSums:
    """The sums of documents by their row ids, in the order of these, whatever the order the tokens come in.

    Beside the sums, 8 bytes are held for each token of a completion: its id and its nats.
    """

    def __init__(self, documents: Documents) -> None:
        self.row_ids, self._line = np.unique(documents.row_ids, return_inverse=True)  # [r] str, [d]
        self._prompts = documents.prompt_lengths
        sizes = documents.lengths - documents.prompt_lengths
        self._offsets = offsets_of(np.bincount(self._line, weights=sizes).astype(np.int64))  # [r + 1]
        order = np.argsort(self._line, kind="stable")
        self._starts = np.empty_like(sizes)  # [d]: where a document's completion begins in the lists of all
        self._starts[order] = offsets_of(sizes[order])[:-1]
        self._ids = np.zeros(sizes.sum(), np.int32)
        self._nll = np.zeros(sizes.sum(), np.float32)
        self._sums = {name: np.zeros(len(self.row_ids), np.int64) for name in COUNTS}
        self._sums |= {name: np.zeros(len(self.row_ids)) for name in SUMS}

    def add(self, batch: Pass, scores: TokenScores) -> None:
        """Take up the tokens that a batch has scored."""
        line, nll = self._line[batch.document], scores.nll.cpu().numpy()
        self._add("nll_full", line, nll)
        self._add("n_tokens_full", line, 1)

        place = batch.place - self._prompts[batch.document]  # in the completion
        answer = place >= 0
        line, nll, at = line[answer], nll[answer], self._starts[batch.document[answer]] + place[answer]
        self._ids[at], self._nll[at] = batch.token[answer], nll
        entropy, confidence, rank = (values.cpu().numpy()[answer] for values in scores[1:])
        right = rank == 0
        for name, values in (("nll", nll), ("n_tokens", 1), ("n_correct", right), ("n_top5", rank < TOP)):
            self._add(name, line, values)
        self._add("entropy", line, entropy)
        # The largest probability may be rounded to a little over 1, and be no number where the losses are none.
        bins = np.clip(np.searchsorted(EDGES, confidence, side="left") - 1, 0, BINS - 1)
        for k in range(BINS):
            here = bins == k
            self._add(f"bin{k}_n", line[here], 1)
            self._add(f"bin{k}_confidence", line[here], confidence[here])
            self._add(f"bin{k}_correct", line[here], right[here])

    def _add(self, name: str, line: np.ndarray, values: np.ndarray | int) -> None:
        np.add.at(self._sums[name], line, values)

    @property
    def perplexity(self) -> float:
        """Of all completions."""
        return float(np.exp(self._sums["nll"].sum() / self.n_tokens))

    @property
    def n_tokens(self) -> int:
        """Of all completions."""
        return int(self._sums["n_tokens"].sum())

    def table(self, sizes: Mapping[str, int], end: int, schema: pa.Schema) -> pa.Table:
        """A line for each row id. sizes: the bytes of each completion; end: the end-of-text token."""
        row_ids = self.row_ids.tolist()
        columns = self._sums | {"row_id": row_ids, "n_bytes": [sizes[row_id] for row_id in row_ids]}
        columns["nll_text"] = self._sums["nll"] - self._ends(end)
        for name, values in (("token_ids", self._ids), ("token_nll", self._nll)):
            columns[name] = pa.ListArray.from_arrays(pa.array(self._offsets.astype(np.int32)), pa.array(values))
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)

    def _ends(self, end: int) -> np.ndarray:
        """The nats of what says no more than that a text ends, [r]; some chat templates put a line feed after."""
        last = self._offsets[1:] - 1
        before = last - (np.diff(self._offsets) > 1)
        followed = (self._ids[last] != end) & (self._ids[before] == end)
        nll = np.where(followed, self._nll[before], 0).astype(np.float64)
        return nll + np.where((self._ids[last] == end) | followed, self._nll[last], 0)
