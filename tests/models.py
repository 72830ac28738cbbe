"""Small real models and token folders for the tests of the model stages: made, saved, and opened as the stages do."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

import builders
from init_base import train_tokenizer
from snaketune.rows import SPLIT, write_table
from token_runs import tokenize

WORDS = ["river", "stone", "light", "green", "small", "house", "under", "never"]
WORDS += ["seven", "bread", "water", "cloud", "quick", "north", "paper", "glass"]
POSITIONS = 48
TOKENIZE = builders.settings("tokenize", max_length=32, backend="huggingface") | {"trust_remote_code": False}


def tokenizer_of(size: int = 300) -> Any:
    """A byte-level BPE that has learnt a few words."""
    return train_tokenizer(iter([" ".join(WORDS)] * 30), size)


def build(kind: str, vocabulary: int, end: int, dropout: float = 0.0, width: int = 16) -> torch.nn.Module:
    """A model of one or two blocks with weights far enough from 0 that what it reads changes what it says."""
    import transformers as hf

    ends = {"bos_token_id": end, "eos_token_id": end}
    like_llama = {"hidden_size": width, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    like_llama |= {"vocab_size": vocabulary, "max_position_embeddings": POSITIONS, "pad_token_id": end, **ends}
    gpt2 = {"vocab_size": vocabulary, "n_positions": POSITIONS, "n_embd": width, "n_layer": 1, "n_head": 2, **ends}
    neo = {"vocab_size": vocabulary, "max_position_embeddings": POSITIONS, "hidden_size": width, "num_heads": 2, **ends}
    local = {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 4}
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    configs = {
        "gpt2": lambda: hf.GPT2Config(**gpt2, **drops),
        "gpt_neo": lambda: hf.GPTNeoConfig(**neo, **local),
        "llama": lambda: hf.LlamaConfig(**like_llama),
        "mistral": lambda: hf.MistralConfig(**like_llama, num_key_value_heads=2, sliding_window=None),
        "qwen2": lambda: hf.Qwen2Config(**like_llama, num_key_value_heads=2),
        "qwen3": lambda: hf.Qwen3Config(**like_llama, num_key_value_heads=2, head_dim=8),
        "phi": lambda: hf.PhiConfig(**like_llama),
        "gpt_neox": lambda: hf.GPTNeoXConfig(**like_llama),
        "gptj": lambda: hf.GPTJConfig(**gpt2, rotary_dim=4),
        "opt": lambda: hf.OPTConfig(**like_llama, ffn_dim=32, word_embed_proj_dim=8),
        "gemma2": lambda: hf.Gemma2Config(**like_llama, num_key_value_heads=2, head_dim=8),  # its logits are capped
        "bloom": lambda: hf.BloomConfig(vocab_size=vocabulary, hidden_size=width, n_layer=1, n_head=2, **ends),
    }
    torch.manual_seed(1)
    model = hf.AutoModelForCausalLM.from_config(configs[kind]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def base(folder: Path, kind: str = "gpt2", **options: Any) -> str:
    """A folder with a model and its tokenizer, as of the Hub."""
    tokenizer = tokenizer_of()
    tokenizer.save_pretrained(folder)
    build(kind, len(tokenizer), tokenizer.eos_token_id, **options).save_pretrained(folder)
    return str(folder)


def pairs(count: int, seed: int = 0) -> list[tuple[str | None, str]]:
    """Questions and answers of varied length."""
    draw = random.Random(seed)
    words = lambda low, high: " ".join(draw.choices(WORDS, k=draw.randint(low, high)))  # noqa: E731
    return [(words(1, 8), words(1, 6)) for _ in range(count)]


def texts(count: int, seed: int = 0, low: int = 1, high: int = 60) -> list[tuple[str | None, str]]:
    """Plain texts of varied length."""
    draw = random.Random(seed)
    return [(None, " ".join(draw.choices(WORDS, k=draw.randint(low, high)))) for _ in range(count)]


def split(rows: list[tuple[str | None, str]], path: Path) -> str:
    """A split table; the row ids stand in an order of their own."""
    table = [
        {"row_id": f"{number * 7 % 101:03d}", "source": "made", "line": number + 1, "prompt": ask, "completion": answer}
        for number, (ask, answer) in enumerate(rows)
    ]
    write_table(pa.Table.from_pylist(table, schema=SPLIT), path, SPLIT)
    return str(path)


def tokens(rows: list[tuple[str | None, str]], model: str, folder: Path, name: str, **settings: Any) -> str:
    """The token folder of some rows; `<name>.parquet`, the split it was made of, and its manifest stand beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    table = split(rows, folder / f"{name}.parquet")
    return tokenize(table, model, folder, name, TOKENIZE | settings)


def manifest(folder: str) -> dict[str, Any]:
    """The manifest of a token folder."""
    return json.loads(Path(f"{folder}.json").read_text(encoding="utf-8"))


def document_losses(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """The independent way: one document alone through the plain model, the loss of each token but the first."""
    sequence = torch.tensor([ids])
    logits = model(sequence).logits[0, :-1].float()
    return -torch.log_softmax(logits, -1)[torch.arange(len(ids) - 1), sequence[0, 1:]]
