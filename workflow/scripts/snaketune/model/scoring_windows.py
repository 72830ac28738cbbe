"""What a model scores in one pass: token rows to documents, documents to windows, windows to batches.

A plain text that was cut into rows of the training's length is one document again. It is read in windows, the rolling
scheme of lm-eval: each token is scored once, the first of them after the begin-of-text token, and a later window
reaches back for as much context as fits beside the tokens that it foretells; so the last window is full too. A
prompt with its completion is one window, and begins with its prompt, as in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from snaketune.model.batches import Rows
from snaketune.model.lm import IGNORED
from snaketune.packing import pack
from snaketune.tokens.ragged import offsets_of


class Documents:
    """The prompts with completions, and the whole plain texts, of a token folder, read as they are asked for.

    The rows of one text stand one after the other, cut where they meet, so that put end to end they are the text.
    """

    def __init__(self, rows: Rows) -> None:
        names = np.array(rows.row_ids, dtype=str)
        text = rows.prompt_lengths == 0
        goes_on = np.zeros(len(rows), bool)
        goes_on[1:] = (names[1:] == names[:-1]) & text[1:] & text[:-1]
        first = np.flatnonzero(~goes_on)
        self._rows = rows
        self._begins = offsets_of(rows.lengths)  # [rows + 1], in the tokens of all rows end to end
        self._starts = self._begins[:-1][first]
        self.row_ids = names[first]  # [d] str
        self.prompt_lengths = rows.prompt_lengths[first].astype(np.int64)  # [d]; 0: plain text
        self.lengths = np.diff(self._starts, append=self._begins[-1])  # [d] int64: tokens, those of the prompt too

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, document: int, begin: int, end: int) -> np.ndarray:
        """The token ids from `begin` to `end` of a document, [end - begin] int32."""
        start = self._starts[document]
        row, last = np.searchsorted(self._begins, (start + begin, start + end - 1), side="right") - 1
        parts = [self._rows[number] for number in range(row, last + 1)]
        skipped = int(start + begin - self._begins[row])
        return (np.concatenate(parts) if len(parts) > 1 else parts[0])[skipped : skipped + end - begin]


@dataclass(frozen=True)
class Windows:
    """Pieces of documents, [m] int64 each: the tokens after `begin` and before `end` are foretold from those before.

    Those from `first` on are scored; the others are context. begin: -1 for the begin-of-text token.
    """

    document: np.ndarray
    begin: np.ndarray
    first: np.ndarray
    end: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """The tokens that the model reads, [m] int64: the last of a window foretells nothing, and is not read."""
        return self.end - self.begin - 1


def windows_of(lengths: np.ndarray, prompt_lengths: np.ndarray, window: int, stride: int) -> Windows:
    """The windows of documents, in order. lengths, prompt_lengths: [d] int64.

    window: the most tokens of a text that the model reads at once; stride: how many tokens each window after the first
    scores, at most `window`. With equal ones, as lm-eval's `get_rolling_token_windows` with `context_len` 1.
    """
    later = np.where(prompt_lengths > 0, 0, -(-np.maximum(lengths - window, 0) // stride))
    document = np.repeat(np.arange(len(lengths)), later + 1)
    number = np.arange(len(document)) - np.repeat(offsets_of(later + 1)[:-1], later + 1)
    pair, size = prompt_lengths[document] > 0, lengths[document]
    end = np.where(pair, size, np.minimum(window + number * stride, size))
    first = np.where(number > 0, window + (number - 1) * stride, pair)
    begin = np.where(number > 0, end - window - 1, pair - 1)
    return Windows(document, begin, first, end)


@dataclass(frozen=True)
class Pass:
    """B sequences of T tokens that the model reads at once, and the n tokens that are scored there."""

    input_ids: torch.Tensor  # [B, T] int64
    position_ids: torch.Tensor  # [B, T] int64; each window restarts at 0, and a padding token stands at 0
    targets: torch.Tensor  # [B, T] int64: the token that follows, IGNORED where none is scored
    token: np.ndarray  # [n] int64: the targets that are not IGNORED, in row-major order
    document: np.ndarray  # [n] int64: whose each is
    place: np.ndarray  # [n] int64: where it stands there


def passes(
    documents: Documents, windows: Windows, start: int, pad: int, batch_tokens: int, shared: bool
) -> Iterator[Pass]:
    """All windows in batches of at most `batch_tokens` tokens with padding, or of one sequence that is longer.

    start: the begin-of-text token; shared: windows may share a sequence, but one as long as a batch has its own, which
    takes no mask of T x T. The longest sequences come first: what does not fit into the memory fails at once, and
    sequences of like length need little padding.
    """
    lengths = windows.lengths
    width = min(int(lengths.max()), batch_tokens)
    blocks = pack(np.minimum(lengths, width), width) if shared else [[number] for number in range(len(lengths))]
    used = np.array([lengths[block].sum() for block in blocks], dtype=np.int64)
    order = np.argsort(-used, kind="stable")
    at = 0
    while at < len(order):
        part = order[at : at + max(1, batch_tokens // int(used[order[at]]))]
        at += len(part)
        yield _pass(documents, windows, [blocks[number] for number in part], used[part], start, pad)


def _pass(
    documents: Documents, windows: Windows, blocks: list[list[int]], used: np.ndarray, start: int, pad: int
) -> Pass:
    """used: [B] int64, the tokens of each block."""
    order = np.concatenate(blocks)
    pieces = []
    for number in order.tolist():
        begin = int(windows.begin[number])
        tokens = documents.tokens(int(windows.document[number]), max(begin, 0), int(windows.end[number]))
        pieces.append(tokens if begin >= 0 else np.concatenate([[start], tokens]))
    sizes = windows.lengths[order]
    place = np.arange(sizes.sum()) - np.repeat(offsets_of(sizes)[:-1], sizes)  # in the window, of what is read
    filled = np.arange(used.max()) < used[:, None]  # [B, T]
    input_ids, position_ids, targets = (np.full(filled.shape, value, np.int64) for value in (pad, 0, IGNORED))
    input_ids[filled] = np.concatenate([piece[:-1] for piece in pieces])
    position_ids[filled] = place
    foretold = place + np.repeat(windows.begin[order] + 1, sizes)  # the place in the document of the next token
    scored = foretold >= np.repeat(windows.first[order], sizes)
    token = np.concatenate([piece[1:] for piece in pieces]).astype(np.int64)
    targets[filled] = np.where(scored, token, IGNORED)
    return Pass(
        *map(torch.from_numpy, (input_ids, position_ids, targets)),
        token=token[scored],
        document=np.repeat(windows.document[order], sizes)[scored],
        place=foretold[scored],
    )
