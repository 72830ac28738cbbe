"""The ways in which a model can compute its attention, and the choice between them.

varlen: documents stand end to end in one sequence, and attend within themselves; nothing is padded, and no mask is made
    (compiled or not: transformers would make a dense one of GPT-2 under torch.compile). On CUDA torch's flash kernel,
    on a CPU `documents_cpu`.
sdpa: a block of documents in each row; transformers makes a mask of each row from positions that restart.
eager: the same with the model's own, plain attention.

Where documents begin reaches the varlen function through `set_documents` and not through the model: GPT-Neo and GPT-J
pass nothing on. It must stay set until the backward pass is over, which computes blocks again under gradient
checkpointing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.attention import varlen
from transformers import AttentionInterface

from snaketune.job import StageError
from snaketune.model import documents_cpu
from snaketune.model.batches import Documents, collate
from snaketune.model.lm import HALVES, positions_of

PATHS = ("varlen", "sdpa", "eager")
NAME = "snaketune_varlen"  # in transformers' registry; no mask function is registered beside it, so no mask is made
FLASH = {"cuda"}  # devices of the flash kernel
FLASH_HEAD = 256  # its widest head
OWN = ("gpt_neo", "gptj")  # have `_attn(query, key, value, mask)` in their modules, and not transformers' interface
DROPOUTS = ("attn_dropout", "attention_dropout", "dropout")  # of the weights, as modules named *Attention call it
# Changes of the scores that the varlen paths do not compute.
UNKNOWN = ("softcap", "s_aux", "position_bias")
UNKNOWN_CONFIG = ("attn_logit_softcapping", "attention_chunk_size", "kv_lora_rank", "alibi")
HINT = "generate inside `attention.plain(model)`"


class _Now:
    """The documents of the batch that is being computed."""

    starts: torch.Tensor | None = None
    longest: int = 0
    lengths: tuple[int, ...] = ()


_now = _Now()


def set_documents(documents: Documents) -> None:
    """Tell the varlen path where the documents of the next forward pass, and of its backward pass, lie."""
    # Field by field: a compiled graph then depends on `longest` and the shape of `starts`, and not on the lengths.
    _now.starts, _now.longest, _now.lengths = documents.starts, documents.longest, documents.lengths


def _varlen(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within the documents that were set. query: [B, H, T, D]; key, value may have fewer heads (GQA).

    scaling: of the scores; sliding_window: a token sees so many, itself included. Returns ([B, T, H, D], None).
    """
    if attention_mask is not None or key.shape[2] != query.shape[2]:
        raise RuntimeError(f"the varlen path has no mask and no cache; {HINT}")
    if odd := [name for name in UNKNOWN if more.get(name) is not None]:
        raise StageError(f"this model's attention has `{odd[0]}`, which varlen does not compute; see `train.attention`")
    device = query.device.type
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    # [N, H, D] with N = B*T. Rotary embeddings give fp32 queries under autocast, which only known operations cast.
    query, key, value = (tensor.transpose(1, 2).to(half) for tensor in (query, key, value))
    shape = (*query.shape[:3], value.shape[-1])
    query, key, value = (tensor.flatten(0, 1) for tensor in (query, key, value))
    if not torch.compiler.is_compiling() and (tokens := sum(_now.lengths)) != len(query):
        raise RuntimeError(f"documents of {tokens} tokens are set, and the batch has {len(query)}; {HINT}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    starts = _now.starts
    with torch.autocast(device, enabled=False):
        if device in FLASH:
            window = (-1, 0) if sliding_window is None else (sliding_window - 1, 0)
            grouped = query.shape[1] != key.shape[1]
            longest = _now.longest
            out = varlen.varlen_attn(
                query, key, value, starts, starts, longest, longest, scale=scale, window_size=window, enable_gqa=grouped
            )
            return out.view(shape), None
        if (groups := query.shape[1] // key.shape[1]) > 1:
            key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
        if torch.compiler.is_compiling():
            out = documents_cpu.traced_attention(query, key, value, starts, scale, sliding_window, dropout)
        else:
            out = documents_cpu.attention(query, key, value, _now.lengths, scale, sliding_window, dropout)
    return out.view(shape), None


AttentionInterface.register(NAME, _varlen)


def _own_varlen(
    module: Any,
    scaling: float,
    window: int | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, None]:
    """`_attn` of GPT-Neo and GPT-J; all is [B, H, T, D]."""
    dropout = module.attn_dropout.p if module.training else 0.0
    out, _ = _varlen(module, query, key, value, attention_mask, dropout, scaling, window)
    return out.transpose(1, 2), None


def _own(model: Any) -> list[Any]:
    """The attention modules that have an `_attn` of their own to replace."""
    if model.config.model_type not in OWN:
        return []
    return [module for module in model.modules() if hasattr(module, "_attn") and hasattr(module, "attn_dropout")]


def layout(path: str) -> Literal["flat", "rows"]:
    """How `batches.collate` lays the documents of a batch out for a path."""
    return "flat" if path == "varlen" else "rows"


def use(model: Any, path: str) -> None:
    """Switch a loaded model to a path, in place. Raises StageError for one that the model cannot be switched to."""
    if path not in PATHS:
        raise ValueError(f"no such path: {path}")
    wanted = NAME if path == "varlen" else path
    if own := _own(model):
        if path == "sdpa":
            raise StageError(_not_switched(model, path))
        for module in own:
            module.__dict__.pop("_attn", None)
            if path == "varlen":
                module._attn = partial(_own_varlen, module, *_scores_of(module))
        model.config._attn_implementation = wanted  # by which transformers knows whether to make a mask
    elif used(model) != path:
        try:
            model.set_attn_implementation(wanted)
        except ValueError as error:
            raise StageError(_not_switched(model, path)) from error
        if used(model) != path:
            raise StageError(_not_switched(model, path))


def _not_switched(model: Any, path: str) -> str:
    return f"a {model.config.model_type} model cannot be switched to `train.attention: {path}`; set `auto`"


def _scores_of(module: Any) -> tuple[float, int | None]:
    """The scale of the scores of a GPT-Neo or GPT-J module, and its window."""
    if module.config.model_type == "gptj":
        return 1 / float(module.scale_attn), None
    return 1.0, module.config.window_size if module.attention_type == "local" else None


def used(model: Any) -> str:
    """The path that a model is on."""
    current = model.config._attn_implementation
    return "varlen" if current == NAME else current


@contextmanager
def plain(model: Any) -> Iterator[None]:
    """The model with attention of its own and not compiled, as `generate` needs it; all is put back afterwards."""
    before = used(model)
    compiled = [module for module in model.modules() if module._compiled_call_impl is not None]
    calls = [module._compiled_call_impl for module in compiled]
    if before == "varlen":
        use(model, "sdpa" if model._supports_sdpa else "eager")
    for module in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in zip(compiled, calls, strict=True):
            module._compiled_call_impl = call
        if before == "varlen":
            use(model, before)


def candidates(model: Any, device: torch.device, precision: str) -> list[str]:
    """The paths that a model has on a device, best first.

    Whether its documents leave each other alone there is for `agrees` to say: it is not known of every model.
    """
    if not (own := _own(model)) and not model._can_set_attn_implementation():
        return [path for path in PATHS if path == model.config._attn_implementation]
    found = ["eager"]
    if model._supports_sdpa and not own:
        found.insert(0, "sdpa")
    # A model with flash attention needs no mask but a causal one, and hands windows to the function.
    known = model._supports_flash_attn and not any(getattr(model.config, name, None) for name in UNKNOWN_CONFIG)
    kernel = device.type in FLASH and not _why_no_flash(model, device, precision)
    return ["varlen", *found] if known and (kernel or device.type == "cpu") else found


def _why_no_flash(model: Any, device: torch.device, precision: str) -> str:
    """Why torch's flash kernel cannot compute a model's attention; empty where it can."""
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if precision not in HALVES:
        return f"it does not compute {precision}"
    if width > FLASH_HEAD or width % 8:
        return f"it has no heads of {width}"
    if dropout(model) > 0:
        return "it has no dropout"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs an Ampere GPU or a newer one"
    return ""


def _dropouts(model: Any) -> Iterator[tuple[Any, str]]:
    """The holders and names of the dropout of attention weights: a module with `p`, or a number."""
    for module in model.modules():
        if "Attention" not in type(module).__name__:
            continue
        for name in DROPOUTS:
            held = getattr(module, name, None)
            if isinstance(held, nn.Dropout):
                yield held, "p"
            elif isinstance(held, float | int):
                yield module, name


def dropout(model: Any) -> float:
    """The highest dropout of attention weights in a model."""
    return max((getattr(holder, name) for holder, name in _dropouts(model)), default=0.0)


def set_dropout(model: Any, p: float | None) -> None:
    """Set the dropout of attention weights (`train.attention_dropout`), in place; None leaves it as it is."""
    for holder, name in list(_dropouts(model)) if p is not None else []:
        setattr(holder, name, p)


@torch.no_grad()
def agrees(
    model: Any,
    path: str,
    ids_of_documents: Sequence[np.ndarray],
    device: torch.device,
    precision: str,
    packed: bool = True,
) -> float:
    """The largest difference (nats) of a token's loss between a path and each document alone.

    ids_of_documents: the ids of each, at least two tokens long. packed: as many documents in a row as the model has
    positions for; else each in a row of its own, padded (for the paths with rows). Alone means: one at a time through
    the model with attention of its own, in the same precision. The model is left as it was.
    """
    from snaketune.model.objective import Objective

    rows = [np.asarray(ids, dtype=np.int32) for ids in ids_of_documents]
    room = positions_of(model.config) if layout(path) == "rows" else None
    blocks: list[list[int]] = []
    for row, ids in enumerate(rows):
        if blocks and packed and (room is None or sum(len(rows[other]) for other in blocks[-1]) + len(ids) <= room):
            blocks[-1].append(row)
        else:
            blocks.append([row])
    batch = collate(blocks, rows, np.zeros(len(rows), np.int64), "all", 0, layout(path)).to(device)
    before, training = used(model), model.training
    model.eval()
    try:
        with torch.autocast(device.type, HALVES.get(precision), enabled=precision in HALVES):
            alone = []
            with plain(model):
                for row in rows:
                    ids = torch.as_tensor(row, dtype=torch.int64, device=device)[None]
                    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
                    alone.append(nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
            use(model, path)
            nll, _ = Objective(model)(batch, scored=True)
    finally:
        use(model, before)
        model.train(training)
    return (nll - torch.cat(alone)).abs().max().item()
