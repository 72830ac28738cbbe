"""Typed rows in, clean rows out; each dropped row leaves the rule, its value and the threshold.

In:  ingest/rows-<shard>.parquet, and beside it what the settings name: lists of words, a dictionary, annotations
Out: clean/rows-<shard>.parquet (same columns), clean/dropped-<shard>.parquet (rows.DROPPED), clean/findings-<shard>
     .parquet (rows.FINDINGS), clean/effects-<shard>.json (what each step changed, and that it adds up)

In this order: what stands for a missing value is emptied; the texts are mended (`mending`); C4's bad lines removed;
spelling corrected; annotators' decisions put in; what is missing filled. Then rows are judged (`judge`), and what is
kept is searched for personal data and listed words (`findings`). Rows keep their order and the row_id of their raw
text. One pass over the bytes tells which texts need which step, so that sound text costs next to nothing.

Memory: two or three times the texts of a batch, which is a row group of at most 8 MB.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.clean import findings as finding
from snaketune.clean.effects import Effects
from snaketune.clean.judge import Verdicts, blank, judge, marked_missing
from snaketune.clean.mending import Note, difference, mend
from snaketune.clean.turns import Texts, change, put
from snaketune.job import run
from snaketune.rows import DROPPED, FINDINGS, ROW, TableWriter, batches

Settings = dict[str, Any]


class Cleaner:
    """The steps of the settings, with what they need to have at hand."""

    def __init__(self, settings: Settings, beside: dict[str, list[str]]) -> None:
        self.settings = settings
        self.finder = finding.Finder(settings, beside)
        self.decisions = {}
        if beside["annotations"]:
            from snaketune.clean import labelstudio

            self.decisions = labelstudio.read(beside["annotations"])
        self.corrector = None
        if settings["spelling"]["enabled"]:
            from snaketune.clean import spelling

            dictionary = next(iter(beside["dictionary"]), None)
            limits = (settings["spelling"][name] for name in ("max_edits", "min_word_length"))
            self.corrector = spelling.Corrector(dictionary, *limits)

    def steps(self) -> list[str]:
        """The names of the steps that are switched on, in their order."""
        settings = self.settings
        on = {
            "missing_markers": bool(settings["missing_markers"]),
            **{step: settings[step] for step in ("encoding", "html", "control_characters")},
            "unicode": settings["unicode"] != "none",
            "whitespace": settings["whitespace"],
            "case": settings["case"] == "lower",
            "c4_lines": settings["quality"]["c4"]["enabled"],
            "spelling": self.corrector is not None,
            "annotations": bool(self.decisions),
            "missing": settings["missing"] == "fill" or bool(settings["missing_markers"]),
            "pii": settings["pii"]["action"] == "mask",
        }
        return [step for step, is_on in on.items() if is_on]

    def clean(self, rows: pa.Table, effects: Effects) -> tuple[pa.Table, pa.Table, pa.Table, Counter[str]]:
        """Clean a batch: the kept rows, the dropped ones, what was found, and how many rows each rule dropped."""
        texts = Texts.of(rows)
        effects.begin(len(texts), int(texts.lengths().sum()))
        label, rejected = self._mended(texts, rows, effects.note)
        verdicts = Verdicts(len(texts))
        verdicts.drop("annotated_reject", rejected, 1, 0)
        languages = judge(verdicts, texts.prompt, texts.completion, self.settings)
        found = self.finder.look(texts, verdicts)
        kept = verdicts.kept
        if self.settings["pii"]["action"] == "mask":
            self._masked(texts, found, kept, effects.note)
        lengths = texts.lengths()
        effects.end(int(kept.sum()), int(lengths[kept].sum()), int(lengths[~kept].sum()))
        if languages is not None:
            effects.speak(languages.filter(pa.array(kept)))
        columns = {"prompt": texts.prompt, "completion": texts.completion, "label": label, "messages": texts.messages()}
        good = pa.table({name: columns.get(name, rows[name]) for name in ROW.names}, schema=ROW)
        good = good if kept.all() else good.filter(pa.array(kept))
        return good, verdicts.table(rows), finding.table(rows, found, kept), verdicts.reasons()

    def _mended(self, texts: Texts, rows: pa.Table, note: Note) -> tuple[pa.Array, np.ndarray]:
        """Mend the texts of a batch; returns their labels, and which rows [n] annotators rejected."""
        markers = self.settings["missing_markers"]
        label = rows["label"].combine_chunks()
        label = pc.if_else(pa.array(marked_missing(label, markers) | blank(label)), pa.scalar(None, pa.string()), label)
        self._fill(texts, "missing_markers", "", "", note, blanks=False)
        more = change(texts, lambda flat, of: mend(flat, self.settings, _by_row(note, of)))
        if more:  # raw prompts that are not as `chat` writes them
            note("conversations", np.array(list(texts.talks)), more)
        if self.settings["quality"]["c4"]["enabled"]:
            from snaketune.clean import quality

            mended = quality.mend(texts.completion, self.settings["quality"])
            note("c4_lines", *difference(texts.completion, mended))
            texts.completion = mended
        if self.corrector:
            change(texts, partial(self._spelt, note=note))
        label, rejected = self._annotated(texts, rows, label, note)
        fill = self.settings["fill"]
        if self.settings["missing"] == "fill":
            self._fill(texts, "missing", fill["prompt"], fill["completion"], note)
            label = label if fill["label"] is None else pc.fill_null(label, fill["label"])
        else:
            self._fill(texts, "missing", "", "", note, blanks=False)
        return label, rejected

    def _fill(
        self, texts: Texts, step: str, prompt: str | None, completion: str | None, note: Note, blanks: bool = True
    ) -> None:
        """Put texts in the place of missing prompts and completions; None is none. Plain text has no prompt to miss,
        and that of a conversation is never blank."""
        for name, value in (("prompt", prompt), ("completion", completion)):
            old = getattr(texts, name)
            missing = marked_missing(old, self.settings["missing_markers"])
            if blanks:
                missing |= blank(old)
            if missing.any():
                new = put(old, np.flatnonzero(missing), value or "")
                note(step, *difference(old, new))
                setattr(texts, name, new)

    def _spelt(self, flat: pa.Array, of: np.ndarray, note: Note) -> pa.Array:
        corrected = self.corrector.correct(flat)
        _by_row(note, of)("spelling", *difference(flat, corrected))
        return corrected

    def _annotated(self, texts: Texts, rows: pa.Table, label: pa.Array, note: Note) -> tuple[pa.Array, np.ndarray]:
        """Put in what annotators decided; returns the labels, and which rows [n] they rejected."""
        rejected = np.zeros(len(texts), dtype=bool)
        if not self.decisions:
            return label, rejected
        ids = rows["row_id"].to_pylist()
        decided = [row for row, row_id in enumerate(ids) if row_id in self.decisions]
        columns = {"prompt": texts.prompt, "completion": texts.completion, "label": label}
        for name, old in columns.items():
            chosen = {row: getattr(self.decisions[ids[row]], name) for row in decided}
            chosen = {row: text for row, text in chosen.items() if text is not None and text != old[row].as_py()}
            columns[name] = put(old, np.array(list(chosen), dtype=np.int64), list(chosen.values()))
            if name != "label":
                note("annotations", *difference(old, columns[name]))
            if name == "prompt":
                texts.forget(chosen.keys())  # a prompt that stands for turns cannot be put back into them
        texts.prompt, texts.completion = columns["prompt"], columns["completion"]
        rejected[[row for row in decided if self.decisions[ids[row]].reject]] = True
        return columns["label"], rejected

    def _masked(self, texts: Texts, found: list[tuple[str, finding.Counts]], kept: np.ndarray, note: Note) -> None:
        def masked(flat: pa.Array, of: np.ndarray) -> pa.Array:
            new = self.finder.mask(flat, of, found, kept)
            _by_row(note, of)("pii", *difference(flat, new))
            return new

        change(texts, masked)


def _by_row(note: Note, rows: np.ndarray) -> Note:
    """A note on flat texts, which stand in these rows, as one on rows."""
    return lambda step, which, more: note(step, rows[which], more)


def clean_text(texts: pa.ChunkedArray | pa.Array, settings: Settings) -> pa.Array:
    """Mend a column of texts [rows]; nulls stay null."""
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    return mend(texts, settings, lambda step, which, more: None)


def clean(
    rows: str,
    out: str,
    dropped: str,
    findings: str,
    effects: str,
    settings: Settings,
    beside: dict[str, list[str]],
) -> str:
    """Clean one shard. beside: files by use ("toxicity", "identity_terms", "dictionary", "annotations")."""
    cleaner = Cleaner(settings, beside)
    reasons: Counter[str] = Counter()
    tally = Effects()
    with TableWriter(out, ROW) as good, TableWriter(dropped, DROPPED) as bad, TableWriter(findings, FINDINGS) as notes:
        for batch in batches(rows):
            kept, gone, found, why = cleaner.clean(batch, tally)
            good.write(kept)
            bad.write(gone)
            notes.write(found)
            reasons.update(why)
        tally.write(Path(effects), cleaner.steps())
    listed = ": " + ", ".join(f"{rule} {n:,}" for rule, n in sorted(reasons.items())) if reasons else ""
    return f"{good.rows:,} of {tally.totals['rows_in']:,} rows kept{listed}"


if __name__ == "__main__":
    run(
        lambda job: clean(
            job.input.rows,
            job.output.rows,
            job.output.dropped,
            job.output.findings,
            job.output.effects,
            job.params.settings,
            job.params.beside,
        ),
        snakemake,
        light=True,
    )
