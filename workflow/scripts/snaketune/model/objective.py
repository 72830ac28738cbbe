"""The loss of a causal language model over the trained tokens of a batch: what training minimises and scoring reads.

The head is applied to the hidden states that predict a trained token and to no other, a chunk of them at a time. In
training, the gradients of a chunk are taken at once, so that the logits of a whole batch (4,096 tokens of GPT-2: 200 M
numbers, several times over) never exist together. torch 2.13's own `linear_cross_entropy` does so too, but adds the
losses of bf16 states up in bf16 (1 % off for 1,024 tokens of GPT-2), takes several times as long on a CPU, and knows
neither label smoothing nor an adapter on the head.

Whatever spreads a model over processes wraps the objective, not the model: everything goes through its `forward`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from snaketune.model import attention
from snaketune.model.anatomy import blocks_of
from snaketune.model.batches import Batch
from snaketune.model.lm import PLAIN_HEADS

# Numbers in the logits of a chunk. The least still fills the cores and stays near their caches. A chunk has as many
# rows as the hidden states are wide, so that adding up the gradient of the head costs little beside taking it; but no
# more than the most (512 MiB in fp32).
LEAST, MOST = 1 << 22, 1 << 27


class Objective(nn.Module):
    """A model and its loss. `model` is a causal language model of transformers, adapters inside it or not."""

    def __init__(self, model: Any, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing
        self.plain = model.config.model_type in PLAIN_HEADS
        accepted = inspect.signature(self.body.forward).parameters
        self._positions = "position_ids" in accepted
        self._keeps = "logits_to_keep" in accepted and type(model).__module__.startswith("transformers.")

    @property
    def body(self) -> Any:
        """What comes before the head; the whole model where its logits are more than the head of its last state."""
        return getattr(self.model, self.model.base_model_prefix) if self.plain else self.model

    def compile_body(self) -> None:
        """Compile what comes before the head, for batches of one shape. Names of weights stay as they are."""
        getattr(self.model, self.model.base_model_prefix).compile(dynamic=False)

    def forward(self, batch: Batch, scored: bool = False) -> Any:
        """The loss of a batch.

        Returns the fp32 sum, in nats, over the trained tokens, label smoothing included; or, if `scored`, of each of
        them in order (nll [n] fp32 in nats without smoothing, hit [n] bool: the likeliest token is the right one).
        A batch without a trained token has the loss 0, and its gradients are zeros.
        """
        if scored:
            return self._scores(batch)
        if not self.plain:
            return self._sum(self._logits(batch), batch.targets)
        hidden, head = self._hidden(batch), self.model.get_output_embeddings()
        learnt = [parameter for parameter in head.parameters() if parameter.requires_grad]
        if not torch.is_grad_enabled() or not (hidden.requires_grad or learnt):
            parts = [self._sum(head(states), targets) for states, targets in self._chunks(hidden, batch.targets)]
            return torch.stack(parts).sum()
        return _ChunkedLoss.apply(self, head, batch.targets, hidden, *learnt)

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        attention.set_documents(batch.documents)
        positions = {"position_ids": batch.position_ids} if self._positions else {}
        return {"input_ids": batch.input_ids, "use_cache": False} | positions

    def _hidden(self, batch: Batch) -> torch.Tensor:
        """The last hidden states that predict a trained token, [n, D]."""
        with self._last_mlp(batch.places):
            hidden = self.body(**self._inputs(batch))[0]  # [B, T, D]
        return hidden.flatten(0, 1).index_select(0, batch.places)

    @contextmanager
    def _last_mlp(self, places: torch.Tensor) -> Iterator[None]:
        """The MLP of the last block, applied where it is read: nothing after it looks from one token at another.

        Where answers are a tenth of the tokens, that saves most of an MLP: of four blocks, a seventh of all products.
        Not in a compiled body, whose shapes stay the same, nor where blocks are computed again in the backward pass.
        """
        mlp = getattr(blocks_of(self.model)[-1], "mlp", None)
        if mlp is None or self.model.is_activation_checkpointing or self.body._compiled_call_impl is not None:
            yield
            return
        shapes: list[torch.Size] = []

        def enter(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            (states,) = inputs  # [B, T, D]
            shapes.append(states.shape)
            return (states.flatten(0, 1).index_select(0, places)[None],)

        def leave(_: nn.Module, __: Any, out: torch.Tensor) -> torch.Tensor:
            shape = shapes.pop()
            return out.new_zeros(shape[:2].numel(), shape[2]).index_copy(0, places, out[0]).view(shape)

        hooks = [mlp.register_forward_pre_hook(enter), mlp.register_forward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _logits(self, batch: Batch) -> torch.Tensor:
        """The logits of a whole model where they predict a trained token, [n, V]."""
        inputs = self._inputs(batch)
        if not self._keeps:
            return self.model(**inputs).logits.flatten(0, 1).index_select(0, batch.places)
        kept = torch.zeros(batch.input_ids.numel(), dtype=torch.bool, device=batch.places.device)
        kept[batch.places] = True
        return self.model(**inputs, logits_to_keep=kept.view(batch.input_ids.shape)).logits

    def _sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=self.label_smoothing)

    def _chunks(self, states: torch.Tensor, targets: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """States and targets in chunks; at least one, be it empty."""
        vocabulary = self.model.config.get_text_config().vocab_size
        rows = max(1, min(max(LEAST // vocabulary, states.shape[-1]), MOST // vocabulary))
        return list(zip(states.split(rows), targets.split(rows), strict=True))

    @torch.no_grad()
    def _scores(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if self.plain:
            head = self.model.get_output_embeddings()
            parts = ((head(states), wanted) for states, wanted in self._chunks(self._hidden(batch), batch.targets))
        else:
            parts = ((logits, batch.targets) for logits in [self._logits(batch)])
        found = [
            (cross_entropy(logits.float(), wanted, reduction="none"), logits.argmax(-1) == wanted)
            for logits, wanted in parts
        ]
        nll, hit = (torch.cat(tensors) for tensors in zip(*found, strict=True))
        return nll, hit


class _ChunkedLoss(torch.autograd.Function):
    """The summed loss of hidden states [n, D] under any head, whose gradients the forward pass takes chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        objective: Objective,
        head: nn.Module,
        targets: torch.Tensor,
        hidden: torch.Tensor,
        *learnt: torch.Tensor,
    ) -> torch.Tensor:
        through = ctx.needs_input_grad[3]
        total = torch.zeros((), device=hidden.device)
        d_hidden: list[torch.Tensor] = []
        d_learnt: list[torch.Tensor] = []
        for states, wanted in objective._chunks(hidden.detach(), targets):
            states.requires_grad_(through)
            with torch.enable_grad():
                loss = objective._sum(head(states), wanted)
            total += loss.detach()
            grads = list(torch.autograd.grad(loss, [states] * through + list(learnt)))
            if through:
                d_hidden.append(grads.pop(0))
            if d_learnt:
                torch._foreach_add_(d_learnt, grads)
            else:
                d_learnt = [grad.float() for grad in grads]  # of half-precision weights too: chunks add up in fp32
        ctx.through = through
        ctx.save_for_backward(*([torch.cat(d_hidden)] if through else []), *d_learnt)
        ctx.types = [parameter.dtype for parameter in learnt]
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = [tensor.mul_(grad) for tensor in ctx.saved_tensors]  # in place: a second backward pass is refused
        d_hidden = saved.pop(0) if ctx.through else None
        return None, None, None, d_hidden, *(sum_.to(dtype) for sum_, dtype in zip(saved, ctx.types, strict=True))
