"""The model card: what the model is, how it was made, how well it does, and how to use it.

In:  metrics.json, train/summary.json, tokens/<split>.json, the template
Out: model/README.md, with the metadata that the Hugging Face Hub reads at its top

Texts of the configuration and of the data stand in code spans and quoted YAML, so that none of them can be read as
Markdown, HTML or metadata. What nobody told us (licence, language, intended use) is left open rather than guessed. The
metadata give the numbers of the test split apart from those of the probes, which read other texts.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from snaketune.job import run
from snaketune.pages import calibration, metric_groups
from snaketune.pages.metric_groups import group_of
from snaketune.pages.pages import code_span, label, ordered, render
from snaketune.pages.verdicts import forgetting

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
Metrics = dict[str, dict[str, Any]]
DECODING = {
    "greedy": (),
    "sample": ("temperature", "top_p", "top_k"),
    "beam": ("num_beams",),
}


def card(files: Mapping[str, Any], readme: str, settings: dict[str, Any]) -> str:
    """Write the card. `settings` is the complete configuration of the run; `tokens` in `files` is a list."""
    result, summary = _json(files["metrics"]), _json(files["summary"])
    metrics = {name: result["metrics"][name] for name in ordered(result["metrics"])}
    text = render(
        files["template"],
        front_matter=yaml.safe_dump(metadata(result, settings), sort_keys=False, allow_unicode=True, width=1000),
        run=result["run"],
        settings=settings,
        summary=summary,
        tokens={Path(path).stem: _json(path) for path in files["tokens"]},
        **tables(metrics),
        signatures={name: result["signatures"][name] for name in ordered(result["signatures"])},
        reliability=calibration.table(result["calibration"]),
        calibrated=calibration.in_words(result["calibration"]),
        classes=result["classes"],
        bias=result["bias"],
        probes=result["probes"],
        forgotten=forgetting(metrics),
        source=source(settings["source"]),
        base=base(settings["model"]),
        validation_perplexity=_exp(summary["best_eval_loss"]),
        usage=usage(settings),
    )
    Path(readme).write_text(text, encoding="utf-8", errors="replace")
    return f"model card of {result['run']} with {len(metrics)} metrics"


def tables(metrics: Metrics) -> dict[str, Metrics]:
    """The metrics of the test split that lead and all others of it, and those of the probes.

    How varied the answers are leads a group of the report, and not a model card.
    """
    probed = {name for name in metrics if group_of(name) == "probes"}
    first = {name for name in metrics if metric_groups.main(name) and group_of(name) != "diversity"} - probed
    chosen = {"metrics": first, "others": metrics.keys() - first - probed, "probed": probed}
    return {part: {name: entry for name, entry in metrics.items() if name in names} for part, names in chosen.items()}


def metadata(result: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The front matter: only what is known for certain; numbers that are not finite are left out."""
    told = settings["publish"]
    head: dict[str, Any] = {key: told[key] for key in ("license", "language") if told[key]}
    head |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if of_hub(settings["model"]):
        head["base_model"] = settings["model"]["base"]
    if settings["source"]["hub"] and HUB_NAME.fullmatch(settings["source"]["hub"]):
        head["datasets"] = [settings["source"]["hub"]]
    kind = "pretrained" if settings["model"]["from_scratch"] else "fine-tuned"
    head["tags"] = list(dict.fromkeys(["snaketune", kind, *told["tags"]]))
    head["model-index"] = [{"name": result["run"], "results": results(result, settings["source"])}]
    return head


def results(result: dict[str, Any], source: dict[str, Any]) -> list[dict[str, Any]]:
    """The numbers of the tuned model for the metadata, by the texts that they were computed from."""
    test = {"name": f"test split of {result['run']}", "type": source["hub"] or result["run"], "split": "test"}
    if source["hub"]:
        given = {"config": source["hub_config"], "revision": source["revision"]}
        test |= {key: value for key, value in given.items() if value}
    probes = {kind: about["file"] for kind, about in result["probes"].items() if about}
    texts = {kind: {"name": f"{kind} probe, {file}", "type": f"{kind}-probe"} for kind, file in probes.items()}
    texts["test"] = test
    numbers: dict[str, list[dict[str, Any]]] = {}
    for metric in ordered(result["metrics"]):
        value = result["metrics"][metric]["tuned"]
        if value is not None and math.isfinite(value):
            kind = metric.partition("_")[0] if group_of(metric) == "probes" else "test"
            numbers.setdefault(kind, []).append({"type": metric, "name": label(metric), "value": round(value, 6)})
    return [
        {"task": {"type": "text-generation", "name": "Text generation"}, "dataset": texts[kind], "metrics": values}
        for kind, values in numbers.items()
    ]


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
    place = json.dumps(settings["publish"]["repo"] or ".")
    return "\n".join(
        [
            "from transformers import pipeline",
            "",
            f'generator = pipeline("text-generation", model={place}{trust})',
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
