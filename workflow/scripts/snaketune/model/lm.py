"""The language model, as training and scoring share it: loading, and the loss of each token.

Losses are computed here and not by the model's own `labels=` path. Transformers' Trainer counts position 0 of GPT-2
as a predicted token and averages batches instead of tokens, which moves the perplexity of short rows by a quarter.
The head is applied to the tokens that count and to no other: on prompt/completion rows that saves most of its cost.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from snaketune.job import StageError

IGNORED = -100
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # precisions that compute in half the bits
# Models whose logits are exactly `lm_head(last hidden state)`; the others compute all logits, and the same loss.
PLAIN_HEADS = {"gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "llama", "mistral", "qwen2", "qwen3", "phi"}
CHUNK = 1024  # tokens whose chances are computed together: of GPT-2, 206 MB each for logits and what is made of them


def load_model(folder: str | Path, trust_remote_code: bool = False) -> Any:
    """A causal language model in fp32 from a local folder of safetensors.

    Raises StageError where there is none, or where weights are missing: transformers would draw those at random, and
    say so in a warning.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, about = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StageError(f"{folder} holds no causal language model that can be loaded: {error}") from error
    if missing := sorted(about["missing_keys"]):
        raise StageError(
            f"{folder} holds no whole causal language model: {len(missing)} weights are missing, as {missing[0]}"
        )
    model.config.use_cache = False
    return model


def load_tokenizer(folder: str | Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a local folder. Raises StageError where there is none, or it has no end-of-text token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise StageError(f"{folder} holds no tokenizer that can be loaded: {error}") from error
    if tokenizer.eos_token_id is None:
        raise StageError(
            f"the tokenizer in {folder} has no end-of-text token; name its `eos_token` in tokenizer_config.json"
        )
    return tokenizer


def positions_of(config: Any) -> int | None:
    """The longest sequence that a model's config allows, or None where it sets no limit."""
    for name in ("n_positions", "max_position_embeddings", "max_seq_len"):
        if isinstance(value := getattr(config, name, None), int):
            return value
    return None


def token_losses(
    model: Any, input_ids: torch.Tensor, position_ids: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss of each counted token.

    input_ids, position_ids, labels: [B, T]. Several documents may stand in one row: each starts at position 0, which
    isolates it in attention (only with no attention mask and no cache). A label is the id of the token itself, at its
    own place, or IGNORED.

    Returns (nll [n] fp32 in nats, hit [n] bool: the likeliest token is the right one, counted [B, T-1] bool: which
    tokens, shifted by one, the n are, in row-major order).
    """
    targets = labels[:, 1:]
    counted = targets != IGNORED
    outputs, head = _outputs(model, input_ids, position_ids, counted)
    logits, targets = head(outputs), targets[counted]
    nll = cross_entropy(logits.float(), targets, reduction="none")
    return nll, logits.argmax(-1) == targets, counted


class TokenScores(NamedTuple):
    """What a model says of each of n tokens, [n] each."""

    nll: torch.Tensor  # fp32, nats
    entropy: torch.Tensor  # fp32, nats: of what could stand there
    confidence: torch.Tensor  # fp32: the probability of the likeliest token
    rank: torch.Tensor  # int32: the tokens that are likelier; of equally likely ones, the lower id first, as in argmax


@torch.no_grad()
def token_scores(model: Any, input_ids: torch.Tensor, position_ids: torch.Tensor, targets: torch.Tensor) -> TokenScores:
    """The scores of the tokens that `targets` names, in row-major order.

    input_ids, position_ids: [B, T], as for `token_losses`; targets: [B, T], the token that follows each, or IGNORED.
    What predicts nothing need not be read, so that a document may have a token more than the model has positions.
    Chances are computed in fp32, CHUNK tokens at a time.
    """
    counted = targets != IGNORED
    outputs, head = _outputs(model, input_ids, position_ids, counted)
    parts = [
        _scores(head(states).float(), wanted)
        for states, wanted in zip(outputs.split(CHUNK), targets[counted].split(CHUNK), strict=True)
    ]
    return TokenScores(*map(torch.cat, zip(*parts, strict=True)))


def _scores(logits: torch.Tensor, targets: torch.Tensor) -> TokenScores:
    """logits: [n, V] fp32; targets: [n]."""
    wanted = logits.gather(1, targets[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < targets[:, None]
    rank = ((logits > wanted) | ((logits == wanted) & earlier)).view(torch.uint8).sum(1, dtype=torch.int32)
    chances = torch.log_softmax(logits, 1)
    nll = -chances.gather(1, targets[:, None])[:, 0]
    confidence = chances.amax(1).exp()
    # A token that cannot come has the chance 0 and adds nothing, but 0 times infinity would be no number.
    entropy = -torch.linalg.vecdot(chances.exp(), chances.clamp_min_(torch.finfo(chances.dtype).min))
    return TokenScores(nll, entropy, confidence, rank)


def _outputs(
    model: Any, input_ids: torch.Tensor, position_ids: torch.Tensor, counted: torch.Tensor
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """What the counted tokens are predicted from, [n, D], and what makes logits of some of it, [m, D] -> [m, V].

    counted: [B, T], or [B, T - 1] where the last token is read and predicts nothing. Models beyond PLAIN_HEADS give
    their logits, [n, V], and nothing is left to be made of them.
    """
    arguments = {"input_ids": input_ids, "use_cache": False}
    if "position_ids" in inspect.signature(model.forward).parameters:
        arguments["position_ids"] = position_ids
    if model.config.model_type in PLAIN_HEADS:
        hidden = getattr(model, model.base_model_prefix)(**arguments)[0]  # [B, T, D]
        return hidden[:, : counted.shape[1]][counted], model.get_output_embeddings()
    return model(**arguments).logits[:, : counted.shape[1]][counted], lambda logits: logits


def isolates(model: Any) -> bool:
    """Whether two documents in one row leave each other alone, tried on two short ones.

    Models without position ids (ALiBi, recurrent ones) have nothing to tell documents apart by; OPT has them, and makes
    no mask of them.
    """
    ids = (torch.arange(16, device=model.device)[None] * 7 + 1) % model.get_input_embeddings().num_embeddings
    positions = torch.arange(8, device=model.device).repeat(2)[None]
    training = model.training
    model.eval()
    with torch.no_grad():
        packed, _, _ = token_losses(model, ids, positions, ids.masked_fill(positions == 0, IGNORED))
        alone, _, _ = token_losses(model, ids[:, 8:], positions[:, 8:], ids[:, 8:])
    model.train(training)
    return torch.allclose(packed[7:], alone, rtol=1e-4, atol=1e-4, equal_nan=True)


def device_of(gpus: int) -> torch.device:
    """The device to use: the first CUDA device where the job has one and was given one, else the CPU."""
    return torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")


def precision_of(wanted: str, device: torch.device) -> str:
    """The number format of the forward pass. Raises StageError for one that the device does not compute.

    fp32 is IEEE's; tf32 lets a GPU multiply with 10 bits of the mantissa. `auto`: bf16 where the device computes it,
    else fp16 on a GPU (Volta, Turing) and fp32 on a CPU.
    """
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported() if torch.backends.mkldnn.is_available() else False
    if wanted == "auto":
        return "bf16" if bf16 else "fp16" if device.type == "cuda" else "fp32"
    if wanted == "fp16" and device.type != "cuda":
        raise StageError("`train.precision: fp16` needs a GPU; set `auto`, `bf16` or `fp32`")
    if wanted == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        raise StageError("`train.precision: tf32` needs a GPU of Ampere or later; set `auto` or `fp32`")
    if wanted == "bf16" and device.type == "cuda" and not bf16:
        raise StageError("`train.precision: bf16` is not computed by this GPU; set `auto`, `fp16` or `fp32`")
    return wanted
