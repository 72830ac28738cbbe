"""Makes the training that all programs do: model, rows, plans, and what the preflight chooses for each.

python benchmarks/train/prepare.py FOLDER --device cpu --model resources/tiny-gpt --data short --tokens TOKENS ...

Writes FOLDER/setting.json, FOLDER/plan-<batching>.{arrow,json}, FOLDER/preflight-<batching>-<precision>.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from setting import Setting

from plan import plan
from preflight import preflight
from snaketune import config
from snaketune.model.batches import Rows
from snaketune.model.flops import peak_flops

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "validation")
RANDOM = "gpt2-random"  # GPT-2 124M, its weights drawn
DROPOUT = {"embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.0}
END = 0  # the end-of-text token of resources/tiny-gpt


def settings_of(setting: Setting, batching: str, precision: str, most: int) -> dict[str, Any]:
    """The `train` settings of the workflow for this training; the rest has its defaults."""
    given = {
        "learning_rate": setting.learning_rate,
        "scheduler": "constant",
        "warmup": 0,
        "weight_decay": setting.weight_decay,
        "max_grad_norm": setting.max_grad_norm,
        "batching": batching,
        "batch_size": setting.batch_size,
        "loss_on": setting.loss_on,
        "precision": precision,
        "compile": setting.device == "cuda",
        "max_steps": most,
        "evaluations": 1 if setting.until is None else max(1, most // setting.every),
        "early_stopping": None,
    }
    raw = {"run": "bench", "source": {"files": "rows.jsonl"}, "model": {"base": setting.model}, "train": given}
    whole: dict[str, Any] = config.load(raw)["bench"]["train"]
    own = {"seed": setting.seed, "trust_remote_code": False, "save_dtype": "float32", "base_name": setting.model}
    return whole | own


def steps_of(setting: Setting) -> int:
    """All steps of a training, warm-up included."""
    return setting.steps + (setting.warm_up if setting.until is None else 0)


def gpt2(folder: Path, tokenizer: str) -> str:
    """GPT-2 124M with drawn weights, made once, and the tokenizer whose ids the rows have."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(bos_token_id=END, eos_token_id=END, **DROPOUT))
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return str(folder)


def blocks(tokens: str, folder: Path, width: int) -> str:
    """The rows of each split end to end, cut into blocks of `width` tokens as run_clm does; the rest is dropped."""
    from datasets import Dataset

    for split in SPLITS:
        rows = Rows(f"{tokens}/{split}")
        ids = np.concatenate([rows[row] for row in range(len(rows))])
        cut = ids[: len(ids) // width * width].reshape(-1, width)
        columns = {"input_ids": list(cut), "prompt_len": np.zeros(len(cut), np.int32)}
        columns["row_id"] = [f"{row:06d}" for row in range(len(cut))]
        Dataset.from_dict(columns).save_to_disk(str(folder / split))
        (folder / f"{split}.json").write_text(json.dumps({"max_length": width}), encoding="utf-8")
    return str(folder)


def prepare(folder: Path, setting: Setting, precisions: list[str], kinds: list[str]) -> None:
    """Write the setting, and for each batching of `kinds` the plan and the preflight's choices."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "setting.json").write_text(json.dumps(asdict(setting), indent=2) + "\n", encoding="utf-8")
    tokens = {split: f"{setting.tokens}/{split}" for split in SPLITS}
    manifests = {split: f"{path}.json" for split, path in tokens.items()}
    for kind in kinds:
        order, about = str(folder / f"plan-{kind}.arrow"), str(folder / f"plan-{kind}.json")
        for precision in precisions:
            settings = settings_of(setting, kind, precision, steps_of(setting))
            plan(tokens, manifests, order, about, settings)
            out = str(folder / f"preflight-{kind}-{precision}.json")
            gpus = int(setting.device == "cuda")
            preflight(tokens["train"], order, about, setting.model, out, settings, gpus=gpus, threads=setting.threads)


def main() -> None:
    """Read the options and prepare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", required=True, help=f"a folder, or {RANDOM}")
    parser.add_argument("--tokens", required=True, help="a folder with the token folders train and validation")
    parser.add_argument("--data", choices=("short", "full"), default="short")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--warm-up", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--until", type=float)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder, tokens, model = given.folder.resolve(), given.tokens, given.model
    if model == RANDOM:
        model = gpt2(folder / "gpt2", str(ROOT / "resources/tiny-gpt"))
    width = json.loads(Path(f"{tokens}/train.json").read_text(encoding="utf-8"))["max_length"]
    if given.data == "full":
        about = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        width = about["n_positions"]
        tokens = blocks(tokens, folder / "tokens", width)
    device = torch.device(given.device)
    setting = Setting(
        model=model,
        tokens=tokens,
        loss_on="completion" if given.data == "short" else "all",
        width=width,
        device=given.device,
        threads=given.threads,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        weight_decay=0.01,
        max_grad_norm=1.0,
        seed=42,
        warm_up=given.warm_up,
        steps=given.steps,
        until=given.until,
        every=given.every,
        peak={precision: peak_flops(device, precision)[0] for precision in given.precisions},
    )
    prepare(folder, setting, given.precisions, ["length_grouped", "packed"] if given.data == "short" else ["packed"])


if __name__ == "__main__":
    main()
