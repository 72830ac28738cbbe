"""The micro example: a few dozen pairs, a model of a few thousand parameters, seconds in all. Made by the tests.

It is a clone of the workflow in a folder of its own, so that a test can edit its scripts, configuration and data.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PARTS = ("Snakefile", "workflow", "profiles", "requirements.lock")
CONFIG = {
    "run": "micro",
    "source": {
        "files": "data/*.jsonl",
        "columns": {"prompt": "question", "completion": "answer", "group": "topic"},
    },
    "clean": {"min_chars": 3},
    "model": {"base": "base"},
    "tokenize": {"max_length": 64},
    "train": {"epochs": 2, "learning_rate": 0.01, "batch_size": 4, "evaluations": 2, "precision": "fp32"},
    "generate": {"max_new_tokens": 8},
    "compare": {"resamples": 100},
    "probes": {"bias": "probes/bias.yaml", "general": "probes/general.txt"},
    "errors": {"rows": 3},
    "judge": {"rows": 4},
}
PROBES = {  # a few words each: the shipped ones are 1,400 sentences
    "bias.yaml": """
axes: {size: {groups: {river: [river], stone: [stone]}}}
templates: [{id: green, prefix: "never {term}", rest: " green"}]
prompts: [{id: house, prefix: "under {term}"}]
""",
    "general.txt": "The river runs north.\n\nSeven stones are green.\n",
}
WORDS = [
    *("river", "stone", "light", "green", "small", "house", "under", "never"),
    *("seven", "bread", "water", "cloud", "quick", "north", "paper", "glass"),
]


def make(folder: Path) -> Path:
    """A workspace with the workflow, the data, the configuration and an untrained base model."""
    folder.mkdir(parents=True)
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, folder / part)
    write_rows(folder / "data/rows.jsonl", rows(48))
    write_config(folder, CONFIG)
    (folder / "probes").mkdir()
    for name, text in PROBES.items():
        (folder / "probes" / name).write_text(text, encoding="utf-8")
    make_base(folder / "base")
    return folder


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Questions of one topic each, with one exact duplicate, one near-duplicate and one row that is too short."""
    draw = random.Random(seed)
    made = [
        {
            "question": f"What follows {' '.join(draw.choices(WORDS, k=8))}?",
            "answer": " ".join(draw.choices(WORDS, k=10)),
            "topic": f"t{seed}-{number // 2}",
        }
        for number in range(count)
    ]
    made.append(made[0] | {"answer": made[0]["answer"].upper()})
    made.append({"question": "Too short?", "answer": "no", "topic": "short"})
    return made


def write_rows(path: Path, made: list[dict[str, str]]) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")


def write_config(folder: Path, config: dict) -> None:
    """Write the workspace's configuration."""
    (folder / "config").mkdir(exist_ok=True)
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def make_base(folder: Path) -> None:
    """An untrained GPT-2 of 1 block with a byte-level BPE, saved like any model of the Hub."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from init_base import train_tokenizer

    tokenizer = train_tokenizer(iter(WORDS * 20), 300)
    torch.manual_seed(0)
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2, **ends)
    tokenizer.save_pretrained(folder)
    GPT2LMHeadModel(config).save_pretrained(folder)


def snakemake(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the workspace's workflow as a user would, with the terminal's output as text in `stdout`."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout}")
    return done
