"""The model card: what the model is, how it was made, how well it does, and how to use it.

In:  metrics.json, train/summary.json, tokens/<split>.json, the template
Out: model/README.md, with the metadata that the Hugging Face Hub reads at its top

Texts of the configuration stand in code spans and quoted YAML, so that none of them can be read as Markdown, HTML or
metadata. What nobody told us (licence, language, intended use) is left open rather than guessed.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from snaketune.job import run
from snaketune.pages.pages import code_span, label, ordered, render

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
DECODING = {
    "greedy": (),
    "sample": ("temperature", "top_p", "top_k"),
    "beam": ("num_beams",),
}


def card(files: Mapping[str, Any], readme: str, settings: dict[str, Any]) -> str:
    """Write the card. `settings` is the complete configuration of the run; `tokens` in `files` is a list."""
    result, summary = _json(files["metrics"]), _json(files["summary"])
    text = render(
        files["template"],
        front_matter=yaml.safe_dump(metadata(result, settings), sort_keys=False, allow_unicode=True, width=1000),
        run=result["run"],
        settings=settings,
        summary=summary,
        tokens={Path(path).stem: _json(path) for path in files["tokens"]},
        metrics={name: result["metrics"][name] for name in ordered(result["metrics"])},
        signatures=result.get("signatures") or {},
        source=source(settings["source"]),
        base=base(settings["model"]),
        validation_perplexity=_exp(summary["best_eval_loss"]),
        usage=usage(settings),
    )
    Path(readme).write_text(text, encoding="utf-8", errors="replace")
    return f"model card of {result['run']} with {len(result['metrics'])} metrics"


def metadata(result: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The front matter: only what is known for certain; numbers that are not finite are left out."""
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if of_hub(settings["model"]):
        head["base_model"] = settings["model"]["base"]
    if settings["source"]["hub"] and HUB_NAME.fullmatch(settings["source"]["hub"]):
        head["datasets"] = [settings["source"]["hub"]]
    head["tags"] = ["snaketune", "pretrained" if settings["model"]["from_scratch"] else "fine-tuned"]
    values = [
        {"type": name, "name": label(name), "value": round(entry["tuned"], 6), "verified": False}
        for name in ordered(result["metrics"])
        if (entry := result["metrics"][name])["tuned"] is not None and math.isfinite(entry["tuned"])
    ]
    data = {
        "name": f"test split of {result['run']}",
        "type": settings["source"]["hub"] or result["run"],
        "split": "test",
    }
    task = {"type": "text-generation", "name": "Text generation"}
    head["model-index"] = [{"name": result["run"], "results": [{"task": task, "dataset": data, "metrics": values}]}]
    return head


def of_hub(model: dict[str, Any]) -> bool:
    """A base with a revision comes from the Hub (the configuration demands it there, and only there)."""
    return bool(model["base"] and model["revision"] and HUB_NAME.fullmatch(model["base"]))


def base(model: dict[str, Any]) -> str:
    """The base model in Markdown."""
    if made := model["from_scratch"]:
        return (
            f"a new model of the GPT-2 architecture ({made['n_layer']} layers, {made['n_head']} heads, width "
            f"{made['n_embd']}, {made['n_positions']} positions) with a byte-level BPE of {made['vocab_size']:,} tokens"
        )
    return code_span(model["base"]) + (f", revision {code_span(model['revision'])}" if model["revision"] else "")


def source(settings: dict[str, Any]) -> str:
    """Where the rows came from, in Markdown."""
    if settings["hub"]:
        parts = [code_span(settings["hub"])]
        parts += [code_span(settings["hub_config"])] if settings["hub_config"] else []
        return ", ".join(
            [*parts, f"split {code_span(settings['hub_split'])}, revision {code_span(settings['revision'])}"]
        )
    files = ", ".join(code_span(pattern) for pattern in settings["files"])
    return f"the files {files}" + (
        f" of the Python package {code_span(settings['package'])}" if settings["package"] else ""
    )


def usage(settings: dict[str, Any]) -> str:
    """Python that asks the model as it was asked in the test; the separator is written as a Python string."""
    generate = settings["generate"]
    options = {"max_new_tokens": generate["max_new_tokens"], "do_sample": generate["strategy"] == "sample"}
    options |= {name: generate[name] for name in DECODING[generate["strategy"]]}
    trust = ", trust_remote_code=True" if settings["model"]["trust_remote_code"] else ""
    return "\n".join(
        [
            "from transformers import pipeline",
            "",
            f'generator = pipeline("text-generation", model="."{trust})',
            f'text = "Your prompt" + {settings["tokenize"]["separator"]!a}',
            f"answer = generator(text, return_full_text=False, {', '.join(f'{k}={v!r}' for k, v in options.items())})",
            'print(answer[0]["generated_text"])',
        ]
    )


def _exp(loss: float | None) -> float | None:
    return None if loss is None else math.exp(loss) if loss < 700 else math.inf


def _json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(
        lambda job: card(
            {name: job.input[name] for name in ("metrics", "summary", "tokens", "template")},
            job.output.card,
            job.params.settings,
        ),
        snakemake,
    )
