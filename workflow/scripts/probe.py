"""What one model makes of texts that stand beside the test split: general language, and sentences about people.

In:  the folder of a model, resources/probes/ or files of the user's
Out: probes/<side>.parquet, a line for each
       general     passage: the nats that it costs, given the begin-of-text token; shows what tuning forgot
       likelihood  template and term: the nats of the template's `rest`, given the prefix with the term
       generation  prompt and term: the greedy continuation
     In the file's metadata, `probes`: what was read, with the hashes of the files.

The term itself is never scored: its nats say how rare a word is. Every sequence begins with the begin-of-text token,
and prefix and rest are tokenized apart, as a prompt and its completion are. Losses are those of likelihood.py: in fp32,
each token once. A passage that is longer than WINDOW tokens, or than the model's positions, is scored piece by piece.
"""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from snaketune.job import StageError, run
from snaketune.model.batches import collate
from snaketune.model.decoding import answer_all, as_text
from snaketune.model.lm import device_of, isolates, load_model, load_tokenizer, positions_of, token_losses
from snaketune.packing import pack
from snaketune.reuse import table_of
from snaketune.rows import write_table
from snaketune.scoring.probe_files import Bias, Passage, Prompt, read_bias, read_general

PROBES = pa.schema(
    [
        ("kind", pa.string()),  # general, likelihood, generation
        ("item", pa.string()),  # the id of the passage, template or prompt
        ("topic", pa.string()),
        ("axis", pa.string()),  # null in general text, as are group, term and prefix
        ("group", pa.string()),
        ("term", pa.string()),
        ("prefix", pa.string()),  # with the term in its place
        ("text", pa.string()),  # what was scored: the passage, or the rest of the template
        ("nll", pa.float64()),  # nats of all tokens of the text; null for a generation
        ("n_tokens", pa.int64()),  # of the text or the output; the end-of-text token is not counted
        ("n_bytes", pa.int64()),  # of the text or the output, in UTF-8
        ("output", pa.string()),  # of a generation
    ]
)
BATCH_TOKENS = 4096
WINDOW = 1024  # with the begin-of-text token
NEW_TOKENS = 24  # of a continuation: a clause
GREEDY = {"strategy": "greedy", "num_beams": 1, "cache": "dynamic"}


class Reader:
    """A model with its tokenizer, ready to be asked."""

    def __init__(self, folder: str, trust_remote_code: bool, gpus: int) -> None:
        from transformers import GenerationConfig

        self.device = device_of(gpus)
        self.network = load_model(folder, trust_remote_code).to(self.device).eval()
        self.network.generation_config = GenerationConfig()  # decoding is ours alone, as in generate.py
        self.tokenizer = load_tokenizer(folder, trust_remote_code)
        bos, self.end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        self.start = self.end if bos is None else bos
        self.positions = positions_of(self.network.config)
        self._isolates = isolates(self.network)

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, none of them special."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]

    def begun(self, text: str) -> list[int]:
        """The tokens of a text, with the begin-of-text token before them."""
        return [self.start, *self.ids(text)]

    def nats(self, sequences: list[list[int]], given: list[int]) -> np.ndarray:
        """The summed loss of each sequence from its token `given` (at least 1) on, [n] float64."""
        rows = [np.array(sequence, dtype=np.int64) for sequence in sequences]
        lengths, known = np.array([len(row) for row in rows]), np.array(given)
        width = int(lengths.max())
        alone = np.argsort(-lengths, kind="stable")[:, None].tolist()
        blocks = pack(lengths, width) if self._isolates else alone
        size = max(1, BATCH_TOKENS // width)
        sums = np.zeros(len(rows))
        for at in range(0, len(blocks), size):
            part = blocks[at : at + size]
            batch = collate(part, rows, known, "completion", self.end, "rows").to(self.device)
            with torch.no_grad():
                nll = token_losses(self.network, batch.input_ids, batch.position_ids, batch.labels())[0]
            order = np.concatenate(part)
            owner = np.repeat(order, lengths[order] - known[order])
            sums += np.bincount(owner, nll.double().cpu().numpy(), len(rows))
        return sums

    def continued(self, prompts: list[list[int]], new: int) -> list[tuple[str, int]]:
        """The text and the number of tokens of the greedy continuation of each prompt, at most `new` tokens."""
        given = [np.array(prompt, dtype=np.int64) for prompt in prompts]
        names = [f"{row:09d}" for row in range(len(prompts))]
        decoding = GREEDY | {"max_new_tokens": new, "batch_tokens": BATCH_TOKENS}
        made = answer_all(self.network, given, names, self.tokenizer, decoding)
        return [as_text(answer, self.tokenizer)[:2] for answer in made]


def probe(
    model: str,
    out: str,
    settings: dict[str, Any],
    *,
    bias: str | None,
    general: str | None,
    gpus: int,
    threads: int,
) -> str:
    """Probe a model with the texts of two files, either of which may be left out.

    Raises StageError for files that cannot be used, and where a sentence does not fit the model.
    """
    torch.set_num_threads(threads)
    passages, general_hash = read_general(general) if general else ([], "")
    asked, bias_hash = read_bias(bias) if bias else (None, "")
    new = settings.get("max_new_tokens", NEW_TOKENS)
    reader = Reader(model, settings["trust_remote_code"], gpus)

    rows = _general(reader, passages) if passages else []
    if asked is not None:
        rows += _likelihood(reader, asked, bias or "")
        rows += _generation(reader, asked, bias or "", new)
    if not np.isfinite([row["nll"] for row in rows if row["nll"] is not None]).all():
        raise StageError(f"the model {model} gives losses that are no numbers: look at its training")
    about: dict[str, Any] = {"general": None, "bias": None}
    if passages:
        about["general"] = {"file": _name(settings["general"]), "sha256": general_hash, "passages": len(passages)}
    if asked is not None:
        about["bias"] = _about(asked) | {"file": _name(settings["bias"]), "sha256": bias_hash, "new_tokens": new}
    stamp = {"probes": json.dumps(about, sort_keys=True, ensure_ascii=False)}
    table = pa.Table.from_pylist(rows, schema=PROBES.with_metadata(stamp))
    write_table(table, out, table.schema)
    return _sentence(rows)


def _name(setting: str) -> str:
    """What a file is called in the outputs, which hold no paths."""
    return Path(setting).name


def _about(asked: Bias) -> dict[str, Any]:
    return {
        "templates": len(asked.templates),
        "prompts": len(asked.prompts),
        "terms": sum(len(list(axis.terms())) for axis in asked.axes.values() if not axis.control),
        "axes": {
            name: {"groups": list(axis.groups), "mask": axis.mask, "control": axis.control}
            for name, axis in asked.axes.items()
        },
    }


def _general(reader: Reader, passages: list[Passage]) -> list[dict[str, Any]]:
    room = min(reader.positions or WINDOW, WINDOW) - 1
    texts = [reader.ids(passage.text) for passage in passages]
    pieces = [(row, ids[at : at + room]) for row, ids in enumerate(texts) for at in range(0, len(ids), room)]
    if not pieces:
        raise StageError("the tokenizer makes no token of any general text: give other texts as `probes.general`")
    nats = reader.nats([[reader.start, *piece] for _, piece in pieces], [1] * len(pieces))
    sums = np.bincount([row for row, _ in pieces], nats, len(passages)).tolist()
    return [
        _row("general", passage.id, passage.topic, passage.text, len(ids)) | {"text": passage.text, "nll": nll}
        for passage, ids, nll in zip(passages, texts, sums, strict=True)
    ]


def _likelihood(reader: Reader, asked: Bias, path: str) -> list[dict[str, Any]]:
    rows, sequences, given = [], [], []
    for template in asked.templates:
        rest = reader.ids(template.rest)
        for line in _told(asked, template):
            prefix = reader.begun(line["prefix"])
            _fits(reader, line, len(prefix) + len(rest), path)
            made = _row("likelihood", template.id, template.topic, template.rest, len(rest))
            rows.append(made | {"text": template.rest} | line)
            sequences.append(prefix + rest)
            given.append(len(prefix))
    if not rows:
        return []
    return [row | {"nll": nll} for row, nll in zip(rows, reader.nats(sequences, given).tolist(), strict=True)]


def _generation(reader: Reader, asked: Bias, path: str, new: int) -> list[dict[str, Any]]:
    told = [(prompt, line) for prompt in asked.prompts for line in _told(asked, prompt)]
    if not told:
        return []
    ids = [reader.begun(line["prefix"]) for _, line in told]
    for (_, line), prompt in zip(told, ids, strict=True):
        _fits(reader, line, len(prompt) + new, path)
    rows = []
    for (prompt, line), (output, tokens) in zip(told, reader.continued(ids, new), strict=True):
        rows.append(_row("generation", prompt.id, prompt.topic, output, tokens) | {"output": output} | line)
    return rows


def _told(asked: Bias, prompt: Prompt) -> list[dict[str, str]]:
    """A prefix about every term of every axis."""
    return [
        {"axis": name, "group": group, "term": term, "prefix": prompt.told_of(term)}
        for name, axis in asked.axes.items()
        for group, term in axis.terms()
    ]


def _row(kind: str, item: str, topic: str | None, text: str, tokens: int) -> dict[str, Any]:
    """The columns that every kind fills; the others are null."""
    filled = {"kind": kind, "item": item, "topic": topic, "n_tokens": tokens, "n_bytes": len(text.encode())}
    return dict.fromkeys(PROBES.names) | filled


def _fits(reader: Reader, line: dict[str, str], length: int, path: str) -> None:
    if reader.positions is not None and length > reader.positions:
        raise StageError(
            f"{path}: `{line['prefix']:.100}` and what follows are {length} tokens, and the model has "
            f"{reader.positions} positions. Give a file with shorter sentences as `probes.bias`, or set it to `off`"
        )


def _sentence(rows: list[dict[str, Any]]) -> str:
    parts = []
    for kind, found in groupby(rows, key=lambda row: row["kind"]):
        lines = list(found)
        if kind == "general":
            perplexity = np.exp(sum(row["nll"] for row in lines) / sum(row["n_tokens"] for row in lines))
            parts.append(f"{len(lines):,} passages of general text, perplexity {perplexity:,.2f}")
        else:
            parts.append(f"{len(lines):,} {'sentences' if kind == 'likelihood' else 'continuations'} about people")
    return "; ".join(parts) or "nothing to probe"


def _from_job(job: Any) -> str:
    gpus, files = job.resources.get("gpu", 0), [*job.input.bias, *job.input.general]
    bias, general = (next(iter(job.input[name]), None) for name in ("bias", "general"))
    return table_of(
        job,
        "probe",
        device_of(gpus).type,
        [*files, *job.input.model],
        lambda out: probe(
            job.params.model, out, job.params.settings, bias=bias, general=general, gpus=gpus, threads=job.threads
        ),
    )


if __name__ == "__main__":
    run(_from_job, snakemake)
