"""Causal attention within documents on a CPU, faster than torch's own and without a mask of the whole batch.

Queries go through in pieces: a piece of at most `CHUNK` queries is multiplied with the keys that any of them may see,
so that up to half of the square is never computed, and consecutive short documents share a piece, so that thousands of
them do not cost thousands of calls. The weights of a piece are kept for the backward pass while it sees few keys (up
to `KEPT`) and computed again where they are many, so that memory stays linear in the batch. Against
`scaled_dot_product_attention` per document (4 heads of 64, one core, forward and backward), with documents of 40, of
about 300 and of 1,024 tokens: 2.8, 2.4 and 1.5 times as fast in bf16; 1.2, 1.6 and 1 times in fp32. In bf16 the scores
are rounded to bf16, as the models' own ("eager") attention rounds them under autocast.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from snaketune.model.faster import keep_mask, scaled

CHUNK = {torch.bfloat16: 256, torch.float32: 64}  # most queries in a piece, measured at 300 to 1,000 tokens a document
SHARED = {torch.bfloat16: 128, torch.float32: 64}  # documents share a piece while they are together no longer
KEPT = 512  # tokens of the longest document whose weights wait for the backward pass
PLANS = 8  # plans that are remembered: one per window and batch, of a forward pass and its backward


class Piece(NamedTuple):
    """A run of queries and what they see, in the flattened tokens of a batch."""

    first: int  # its queries are first..last
    last: int
    low: int  # the keys that they may see are low..last
    biased: int  # the bias stands on the keys biased..last; low..biased are seen by every query
    bias: torch.Tensor  # [last - first, last - biased]: 0, or minus infinity where a query does not see a key
    kept: bool  # whether its weights wait for the backward pass


@lru_cache(maxsize=4)
def _triangle(chunk: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.full((chunk, chunk), -math.inf, dtype=dtype).triu_(1)


@lru_cache(maxsize=PLANS)
def plan(lengths: tuple[int, ...], window: int | None, dtype: torch.dtype) -> tuple[Piece, ...]:
    """The pieces of a batch whose documents have these lengths; `window` tokens, the query's own too, are seen."""
    chunk, shared = CHUNK.get(dtype, 128), SHARED.get(dtype, 64)
    runs: list[list[int]] = []  # consecutive documents that share a piece, or one long document
    for length in lengths:
        if runs and sum(runs[-1]) + length <= shared:
            runs[-1].append(length)
        else:
            runs.append([length])
    pieces = []
    start = 0
    for run in runs:
        end = start + sum(run)
        even = -(-(end - start) // -(-(end - start) // chunk))  # pieces of like size leave least of the square
        for first in range(start, end, even):
            last = min(first + even, end)
            low = start if window is None else max(start, first - window + 1)
            if len(run) == 1 and (window is None or last - low <= window):
                biased, bias = first, _triangle(chunk, dtype)[: last - first, : last - first]
            else:
                biased, bias = low, _bias(run, first - start, last - start, low - start, window, dtype)
            pieces.append(Piece(first, last, low, biased, bias, last - low <= KEPT))
        start = end
    return tuple(pieces)


def _bias(run: list[int], first: int, last: int, low: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """The bias of queries first..last on keys low..last, counted from the start of a run of documents."""
    document = torch.repeat_interleave(torch.tensor(run))
    query, key = torch.arange(first, last)[:, None], torch.arange(low, last)[None]
    seen = (document[query] == document[key]) & (key <= query)
    if window is not None:
        seen &= key > query - window
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -math.inf)


def _sizes(pieces: tuple[Piece, ...]) -> list[int]:
    return [piece.last - piece.first for piece in pieces]


def _weights(queries: torch.Tensor, keys: torch.Tensor, piece: Piece, scale: float) -> torch.Tensor:
    """The attention weights of a piece, [H, last - first, last - low], of its queries and keys."""
    keys = keys.transpose(1, 2)
    whole = piece.biased == piece.low
    scores = torch.baddbmm(piece.bias if whole else piece.bias[:1, :1], queries, keys, beta=int(whole), alpha=scale)
    if not whole:
        scores[:, :, piece.biased - piece.low :].add_(piece.bias)
    return torch.softmax(scores, -1)


def _dropped(weights: torch.Tensor, piece: Piece, dropout: float, seed: int) -> tuple[torch.Tensor | None, float]:
    """What dropout keeps of the weights of a piece, as a mask, and the factor of what is kept."""
    if not dropout:
        return None, 1.0
    return keep_mask(weights.shape, dropout, torch.Generator().manual_seed(seed + piece.first))


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pieces: tuple[Piece, ...],
    scale: float,
    dropout: float,
    seed: int,
    kept: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """The outputs, [N, H, D], of queries, keys and values [N, H, D]; weights to be kept are appended to `kept`."""
    query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
    outs = []
    for piece, queries in zip(pieces, query.split(_sizes(pieces), 1), strict=True):
        weights = _weights(queries, key[:, piece.low : piece.last], piece, scale)
        if kept is not None and piece.kept:
            kept.append(weights)
        mask, factor = _dropped(weights, piece, dropout, seed)
        if mask is not None:
            weights = scaled(mask, factor, weights)
        outs.append(torch.bmm(weights, value[:, piece.low : piece.last]).transpose(0, 1))
    return torch.cat(outs)


def attend_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pieces: tuple[Piece, ...],
    scale: float,
    dropout: float,
    seed: int,
    kept: list[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of queries, keys and values, from that of the outputs; all are [N, H, D]."""
    key_grads = [tensor.new_zeros(tensor.shape) for tensor in (key, value)]
    d_key, d_value = (tensor.transpose(0, 1) for tensor in key_grads)
    grad, query, key, value = (tensor.transpose(0, 1) for tensor in (grad, query, key, value))
    d_queries = []
    waiting = iter(kept)
    sizes = _sizes(pieces)
    for piece, queries, out in zip(pieces, query.split(sizes, 1), grad.split(sizes, 1), strict=True):
        seen = slice(piece.low, piece.last)
        keys = key[:, seen]
        weights = next(waiting, None) if piece.kept else None
        if weights is None:
            weights = _weights(queries, keys, piece, scale)
        d_weights = torch.bmm(out, value[:, seen].transpose(1, 2))
        mask, factor = _dropped(weights, piece, dropout, seed)
        used = weights
        if mask is not None:
            d_weights, used = scaled(mask, factor, d_weights), scaled(mask, factor, weights)
        d_value[:, seen].add_(torch.bmm(used.transpose(1, 2), out))
        d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
        unused = d_scores[:, :1, :1]
        d_queries.append(torch.baddbmm(unused, d_scores, keys, beta=0, alpha=scale).transpose(0, 1))
        d_key[:, seen].add_(torch.baddbmm(unused, d_scores.transpose(1, 2), queries, beta=0, alpha=scale))
    return torch.cat(d_queries), key_grads[0], key_grads[1]


class _Attention(torch.autograd.Function):
    """Attention whose backward pass uses the weights that the forward pass kept."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        pieces: tuple[Piece, ...],
        scale: float,
        dropout: float,
        seed: int,
    ) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        out = attend(query, key, value, pieces, scale, dropout, seed, kept)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.options = (pieces, scale, dropout, seed)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        query, key, value, *kept = ctx.saved_tensors
        return *attend_backward(grad, query, key, value, *ctx.options, kept), None, None, None, None


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: tuple[int, ...],
    scale: float,
    window: int | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Causal attention within documents.

    query, key, value: [N, H, D] of one type, N the tokens of all documents end to end; lengths: of each document;
    window: a token sees so many, itself included; dropout: of the weights, from torch's default generator.
    Returns [N, H, D].
    """
    pieces = plan(lengths, window, query.dtype)
    seed = _seed().item() if dropout else 0
    return _Attention.apply(query, key, value, pieces, scale, dropout, seed)


def traced_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    scale: float,
    window: int | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """`attention` for torch.compile: one opaque operation whose graph does not depend on the lengths.

    starts: [D + 1], where the documents begin, ended by N, perhaps several times.
    """
    seed = _seed() if dropout else torch.zeros((), dtype=torch.int64)
    return _operation(query, key, value, starts, scale, window, dropout, seed)


def _seed() -> torch.Tensor:
    return torch.randint(1 << 62, ())


def _pieces(starts: torch.Tensor, window: int | None, dtype: torch.dtype) -> tuple[Piece, ...]:
    return plan(tuple(length for length in starts.diff().tolist() if length), window, dtype)


@torch.library.custom_op("snaketune::documents", mutates_args=())
def _operation(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    scale: float,
    window: int | None,
    dropout: float,
    seed: torch.Tensor,
) -> torch.Tensor:
    pieces = _pieces(starts, window, query.dtype)
    return attend(query, key, value, pieces, scale, dropout, int(seed))


@torch.library.custom_op("snaketune::documents_backward", mutates_args=())
def _operation_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    scale: float,
    window: int | None,
    dropout: float,
    seed: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pieces = _pieces(starts, window, query.dtype)
    return attend_backward(grad, query, key, value, pieces, scale, dropout, int(seed), [])


@_operation.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
    return query.new_empty(*query.shape[:2], value.shape[-1])


@_operation_backward.register_fake
def _(grad: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> tuple[Any, ...]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    query, key, value, starts, *options, seed = inputs
    ctx.save_for_backward(query, key, value, starts, seed)
    ctx.options = options


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    *tensors, seed = ctx.saved_tensors
    return *_operation_backward(grad, *tensors, *ctx.options, seed), None, None, None, None, None


_operation.register_autograd(_differentiate, setup_context=_remember)
