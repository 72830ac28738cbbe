"""The train split in, a new and untrained GPT-2-style base model out, with a tokenizer of its own.

In:  split/train.parquet
Out: base/{config.json, model.safetensors, tokenizer.json, tokenizer_config.json}

The byte-level BPE learns from the train split only, so that no statistic of validation or test reaches the model.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snaketune.job import StageError, run
from snaketune.rows import batches

END = "<|endoftext|>"


def init_base(rows: str, folder: str | Path, settings: dict[str, Any]) -> str:
    """Train the tokenizer and draw the weights; `settings`: config.FromScratch and the seed."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = train_tokenizer(_texts(rows), settings["vocab_size"])
    config = GPT2Config(
        vocab_size=len(tokenizer),
        **{name: settings[name] for name in ("n_positions", "n_embd", "n_layer", "n_head")},
        resid_pdrop=settings["dropout"],
        embd_pdrop=settings["dropout"],
        attn_pdrop=settings["attention_dropout"],
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(settings["seed"])
    model = GPT2LMHeadModel(config)
    tokenizer.model_max_length = settings["n_positions"]
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="1TB")
    return (
        f"a new model of {model.num_parameters() / 1e6:.1f} M parameters, {len(tokenizer):,} tokens in its vocabulary"
    )


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Any:
    """A GPT-2-style byte-level BPE. Raises StageError where the texts are too few for the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2TokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=[END], initial_alphabet=sorted(alphabet), show_progress=False
        ),
    )
    if bpe.get_vocab_size() < vocab_size:
        raise StageError(
            f"the train split yields only {bpe.get_vocab_size()} tokens; set `model.from_scratch.vocab_size` to that"
        )
    return GPT2TokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END, unk_token=END)


def _texts(rows: str) -> Iterator[str]:
    for table in batches(rows, ["prompt", "completion"]):
        for column in ("prompt", "completion"):
            yield from (text for text in table[column].to_pylist() if text)


if __name__ == "__main__":
    run(
        lambda job: init_base(job.input.rows, Path(job.output.config).parent, job.params.settings),
        snakemake,
    )
