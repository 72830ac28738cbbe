"""NEFTune: uniform noise on the token embeddings while the model learns (Jain et al. 2023, arXiv:2310.05914).

The noise of a token is drawn from U(-1, 1) and scaled by alpha / sqrt(L * d), where L is the length of its document and
d the width of the embeddings. transformers' own hook takes the width of the whole tensor for L: in a packed sequence
that is the length of the block, which would make the noise weaker the more rows share it. Here each document has its
own L, so that a row is disturbed alike, packed or alone.
"""

from __future__ import annotations

from typing import Any

import torch


class Neftune:
    """Adds the noise to what the token embeddings of a model give, in training alone; the table is left as it is.

    alpha: the strength; 5 to 15 in the paper. Before each pass in training, `documents` is set to the batch's own (its
    field `starts`: int32 [D+1], where each document begins in the flattened [B*T], with B*T at the end, perhaps again).
    It works on the device alone and may be compiled. The noise is of torch's generator, as dropout is.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.documents: Any = None
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    def attach(self, model: Any) -> None:
        """Disturb a model from now on. To be called before the model is compiled. A second call changes nothing."""
        if self._hook is None:
            self._hook = model.get_input_embeddings().register_forward_hook(self._disturb)

    def detach(self) -> None:
        """Leave the model alone again."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _disturb(self, table: torch.nn.Module, _: Any, embedded: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, T, d] and noise."""
        if not table.training:
            return embedded
        if self.documents is None:
            raise RuntimeError("the documents of the batch are not set")
        lengths = token_lengths(self.documents.starts, embedded.shape[0] * embedded.shape[1])
        scale = self.alpha / (lengths * embedded.shape[2]).sqrt()  # [B*T] fp32
        noise = torch.empty_like(embedded, dtype=torch.float32).uniform_(-1, 1)
        return embedded + (noise * scale.view(*embedded.shape[:2], 1)).to(embedded.dtype)


def token_lengths(starts: torch.Tensor, tokens: int) -> torch.Tensor:
    """The length of the document that each token belongs to, [tokens] int32.

    starts: int32 [D+1], ascending from 0 to `tokens`, which may stand there several times. No wait for the device.
    """
    places = torch.arange(tokens, device=starts.device, dtype=starts.dtype)
    document = torch.searchsorted(starts[1:].contiguous(), places, right=True)
    return (starts[1:] - starts[:-1])[document]
