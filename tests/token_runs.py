"""A split tokenized as the rules do it: each part by itself, then gathered."""

from pathlib import Path
from typing import Any

from encode import encode
from gather import gather


def tokenize(rows: str, base: str, folder: Path, name: str, settings: dict[str, Any]) -> str:
    """The token folder of a split table; its manifest `<name>.json` and `<name>.notes.parquet` stand beside it."""
    parts = [
        {
            "tokens": str(folder / name / f"data-{part:05d}.arrow"),
            "about": str(folder / f"parts/{name}-{part:05d}.json"),
            "notes": str(folder / f"parts/{name}-{part:05d}.notes.parquet"),
        }
        for part in range(settings["shards"])
    ]
    for number, outputs in enumerate(parts):
        encode(rows, base, outputs, settings, part=number)
    tokens, about, notes = ([part[kind] for part in parts] for kind in ("tokens", "about", "notes"))
    outputs = {"state": f"{name}/state.json", "info": f"{name}/dataset_info.json", "manifest": f"{name}.json"}
    outputs |= {"notes": f"{name}.notes.parquet"}
    gather(tokens, about, notes, {kind: str(folder / path) for kind, path in outputs.items()})
    return str(folder / name)
