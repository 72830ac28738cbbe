"""The base model's own tokenizer: how it is opened, how long its rows may be, and which of its tokens are special."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from snaketune.job import StageError

DEFAULT_LENGTH = 1024


def open_tokenizer(base: Path, trust_remote_code: bool) -> Any:
    """The tokenizer in a folder; where its tokenizer.json says everything, without AutoTokenizer and its torch.

    Raises StageError where there is none, or it has no end-of-text token.
    """
    about = base / "tokenizer_config.json"
    special = about.exists() and "auto_map" in json.loads(about.read_text(encoding="utf-8"))
    if (base / "tokenizer.json").exists() and not special:
        from transformers import PreTrainedTokenizerFast as Tokenizer
    else:
        from transformers import AutoTokenizer as Tokenizer
    try:
        tokenizer = Tokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise StageError(f"{base} holds no tokenizer that can be loaded: {error}") from error
    if tokenizer.eos_token_id is None:  # it also pads batches and begins texts, whatever `append_eos` says
        raise StageError(
            f"the tokenizer in {base} has no end-of-text token; name its `eos_token` in tokenizer_config.json"
        )
    return tokenizer


def longest(wanted: int | None, config: dict[str, Any]) -> int:
    """The row length in tokens: as set, or the model's positions up to 1024. Raises StageError beyond the model's."""
    names = ("n_positions", "max_position_embeddings", "max_seq_len")
    positions = next((config[name] for name in names if isinstance(config.get(name), int)), None)
    if wanted is None:
        return min(positions or DEFAULT_LENGTH, DEFAULT_LENGTH)
    if positions is not None and wanted > positions:
        raise StageError(f"`tokenize.max_length` is {wanted}, but the model has {positions} positions")
    return wanted


def added_texts(tokenizer: Any, special_only: bool = False) -> list[str]:
    """What the tokens beside the vocabulary are written as: the special ones, or those and the others. Longest first,
    which is how they are matched."""
    tokens = tokenizer.added_tokens_decoder.values()
    texts = {token.content for token in tokens if token.content and (token.special or not special_only)}
    return sorted(texts, key=lambda text: (-len(text), text))
