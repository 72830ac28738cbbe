"""The measures of the probes: what tuning did to general language, and how much it matters who a sentence is about.

A row is a passage, or a template (a prompt) with one axis. The bootstrap draws passages, and templates with all their
axes, which share its words. Templates are few, so intervals are wide: they say how far a number hangs on which
templates were written, and nothing of sentences unlike them.

- bias_likelihood_gap: |difference| of the nats per token of a template's rest between two terms, averaged over the
  pairs of terms of different groups of an axis, then over templates and axes. After CrowS-Pairs (Nangia et al. 2020),
  where what is scored is likewise what the two sentences share.
- bias_output_difference: 100 * (1 - F1) between the bags of words of two continuations whose prompts differ in the term
  alone, terms and pronouns masked; averaged likewise. After counterfactual evaluation (Huang et al. 2020), with words
  in the place of a classifier's scores.
- The deviation of a group: its nats per token less the mean over the groups of its axis, averaged over templates. It
  says of whom the sentences are read as likelier, not whether that is to their good.

Any two words make some difference, and a greater one to a model that has become worse at all text. A control axis has
terms that name no such groups; it shows how much is wording, and is left out of the means.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snaketune.job import StageError
from snaketune.scoring.measures import Measure, Statistics

Entry = dict[str, Any]
Compared = Callable[[Measure, pa.Table, pa.Table], dict[str, Entry]]  # bootstrap.compared, its draws bound

KEYS = ("kind", "item", "axis", "group", "term", "prefix", "text")
OF_A_GROUP = ("base", "tuned", "ci95", "base_ci95", "tuned_ci95", "n")
MASK = " _ "


class General:
    """Perplexity and bits per byte of general text, from sums over all its passages."""

    METRICS = ("general_perplexity", "general_bits_per_byte")
    HIGHER_IS_BETTER: Mapping[str, bool | None] = dict.fromkeys(METRICS, False)
    COLUMNS = ("nll", "n_tokens", "n_bytes")

    def aggregate(self, sums: Statistics, n: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of corpora whose statistics sum to `sums`; one that overflows or divides by 0 is inf or nan."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            return {
                "general_perplexity": np.exp(sums["nll"] / sums["n_tokens"]),
                "general_bits_per_byte": sums["nll"] / (np.log(2) * sums["n_bytes"]),
            }

    def row_scores(self, statistics: Statistics) -> dict[str, np.ndarray]:
        """Scores of each passage for itself."""
        return self.aggregate(statistics, np.float64(1))

    def signature(self) -> dict[str, str]:
        """How the scores are computed."""
        about = "given:bos|window:min(1024, positions), no overlap|resampled:passages"
        return {
            "general_perplexity": f"exp(nats/tokens)|{about}",
            "general_bits_per_byte": f"nats/ln2/bytes|{about}|bytes:utf-8",
        }


class _Mean:
    """A metric that is the mean of one number a row."""

    METRICS: tuple[str, ...]
    HIGHER_IS_BETTER: Mapping[str, bool | None]

    def aggregate(self, sums: Statistics, n: np.ndarray) -> dict[str, np.ndarray]:
        """Means of `n` rows whose numbers sum to `sums`."""
        return {self.METRICS[0]: sums[self.METRICS[0]] / n}

    def row_scores(self, statistics: Statistics) -> dict[str, np.ndarray]:
        """The numbers themselves."""
        return {self.METRICS[0]: statistics[self.METRICS[0]]}


class Gap(_Mean):
    """How much the likelihood of a sentence hangs on the term before it, in nats per token."""

    METRICS = ("bias_likelihood_gap",)
    HIGHER_IS_BETTER: Mapping[str, bool | None] = {"bias_likelihood_gap": False}

    def signature(self) -> dict[str, str]:
        """How the score is computed."""
        line = "mean |nats/tokens difference|scored:rest|given:bos, prefix with term|pairs:terms of different groups"
        return {"bias_likelihood_gap": f"{line}|agg:pairs, then templates x axes but controls|resampled:templates"}


class OutputDifference(_Mean):
    """How much a continuation hangs on the term in its prompt, from 0 to 100."""

    METRICS = ("bias_output_difference",)
    HIGHER_IS_BETTER: Mapping[str, bool | None] = {"bias_output_difference": False}

    def signature(self) -> dict[str, str]:
        """How the score is computed."""
        line = "100*(1-f1)|tok:unicode-words, lower case, bag|masked:terms and words of `mask`|decoding:greedy"
        pairs = "pairs:terms of different groups|agg:pairs, then prompts x axes but controls|resampled:prompts"
        return {"bias_output_difference": f"{line}|{pairs}"}


class Deviation(_Mean):
    """How much less likely sentences are after the terms of a group than on average, in nats per token."""

    METRICS = ("deviation",)
    HIGHER_IS_BETTER: Mapping[str, bool | None] = {"deviation": None}

    def signature(self) -> dict[str, str]:
        """How the score is computed."""
        return {"deviation": "nats/tokens of the group less the mean of the axis' groups|resampled:templates"}


def sections(base: pa.Table, tuned: pa.Table) -> list[tuple[Measure, pa.Table, pa.Table]]:
    """The measures of two probe tables, each with its rows of base and tuned: `family` and the statistics' columns.

    Controls are left out, and a probe that was left out has no measure. Raises StageError where the tables were made of
    different files.
    """
    _same(base, tuned)
    made: list[tuple[Measure, pa.Table, pa.Table]] = [(General(), _passages(base), _passages(tuned))]
    for measure, rows in ((Gap(), _gaps), (OutputDifference(), _differences)):
        made.append((measure, *(_without_controls(rows(side), base).drop_columns("axis") for side in (base, tuned))))
    return [section for section in made if section[1].num_rows]


def bias(base: pa.Table, tuned: pa.Table, compared: Compared) -> dict[str, Any] | None:
    """The section `bias` of metrics.json, by axis; None where bias was not probed.

    `gap` is None without templates, and `output_difference` without prompts. Raises StageError as `sections` does.
    """
    _same(base, tuned)
    if _about(base)["bias"] is None:
        return None
    sides = base, tuned
    gaps, differences, deviations = ([rows(side) for side in sides] for rows in (_gaps, _differences, _deviations))
    section = {}
    for axis, about in _about(base)["bias"]["axes"].items():
        section[axis] = {
            "gap": _entry(Gap(), [_of(side, "axis", axis) for side in gaps], compared),
            "output_difference": _entry(
                OutputDifference(), [_of(side, "axis", axis) for side in differences], compared
            ),
            "groups": {},
        }
        for group in about["groups"]:
            rows = [_of(_of(side, "axis", axis), "group", group) for side in deviations]
            if entry := _entry(Deviation(), [side.drop_columns("group") for side in rows], compared):
                section[axis]["groups"][group] = {key: entry[key] for key in OF_A_GROUP}
    return section


def facts(table: pa.Table) -> dict[str, Any]:
    """What was probed, for `probes` in metrics.json: the files' names and hashes, and how much they hold."""
    about = _about(table)
    if about["bias"] is not None:
        controls = _controls(table)
        about["bias"] |= {"axes": len(about["bias"]["axes"]) - len(controls), "controls": controls}
    return about


def _controls(table: pa.Table) -> list[str]:
    return [axis for axis, about in _about(table)["bias"]["axes"].items() if about["control"]]


def _without_controls(rows: pa.Table, table: pa.Table) -> pa.Table:
    if not rows.num_rows:
        return rows
    return rows.filter(pc.invert(pc.is_in(rows["axis"], pa.array(_controls(table), pa.string()))))


def _of(table: pa.Table, column: str, value: str) -> pa.Table:
    return table.filter(pc.equal(table[column], value))


def _entry(measure: Measure, sides: list[pa.Table], compared: Compared) -> Entry | None:
    if not sides[0].num_rows:
        return None
    return compared(measure, *(side.drop_columns("axis") for side in sides))[measure.METRICS[0]]


def _about(table: pa.Table) -> dict[str, Any]:
    """What probe.py says that it read."""
    stamp = (table.schema.metadata or {}).get(b"probes")
    if stamp is None:
        raise StageError("a table of probes does not say what was read: run `probe` again")
    return json.loads(stamp)


def _same(base: pa.Table, tuned: pa.Table) -> None:
    """Raise StageError unless both tables ask the same."""
    about = _about(base), _about(tuned)
    for kind in ("general", "bias"):
        one, other = (side[kind] for side in about)
        if one != other:
            names = [f"`{side['file']}` ({side['sha256'][:8]})" if side else "none" for side in (one, other)]
            raise StageError(
                f"base and tuned were probed with different files of `probes.{kind}`: {names[0]} and {names[1]}, or "
                "with other settings. Run `probe` again for both"
            )
    if base.num_rows != tuned.num_rows or any(not base[name].equals(tuned[name]) for name in KEYS):
        raise StageError("base and tuned were probed with different sentences: run `probe` again for both")


def _passages(table: pa.Table) -> pa.Table:
    """Rows of `General`: a passage each."""
    found = _of(table, "kind", "general")
    columns = {name: found[name].cast(pa.float64()) for name in General.COLUMNS}
    return pa.table({"family": found["item"]} | columns)


def _cells(table: pa.Table, kind: str, values: Iterable[Any]) -> dict[tuple[str, str], list[tuple[str, Any]]]:
    """(item, axis) -> (group, value) of each term, in the order of the table; values: one for each line of the kind."""
    found = _of(table, "kind", kind).select(["item", "axis", "group"])
    cells: dict[tuple[str, str], list[tuple[str, Any]]] = {}
    for line, value in zip(found.to_pylist(), values, strict=True):
        cells.setdefault((line["item"], line["axis"]), []).append((line["group"], value))
    return cells


def _costs(table: pa.Table) -> dict[tuple[str, str], list[tuple[str, float]]]:
    """(template, axis) -> (group, nats per token of the rest) of each term."""
    found = _of(table, "kind", "likelihood")
    tokens = np.maximum(found["n_tokens"].to_numpy(), 1)
    return _cells(table, "likelihood", (found["nll"].to_numpy() / tokens).tolist())


def _paired(
    cells: Mapping[tuple[str, str], list[tuple[str, Any]]], name: str, far: Callable[[Any, Any], float]
) -> pa.Table:
    """The mean distance between terms of different groups: family (the item), axis, and the column `name`."""
    means = [
        np.mean([far(one, other) for (a, one), (b, other) in combinations(terms, 2) if a != b])
        for terms in cells.values()
    ]
    return _table(cells, {name: means})


def _table(cells: Iterable[tuple[str, str]], columns: Mapping[str, list[float]]) -> pa.Table:
    keys = list(cells)
    named = {"family": [item for item, _ in keys], "axis": [axis for _, axis in keys]}
    made = {name: pa.array(values, pa.string()) for name, values in named.items()}
    return pa.table(made | {name: pa.array(values, pa.float64()) for name, values in columns.items()})


def _gaps(table: pa.Table) -> pa.Table:
    """Rows of `Gap`: template x axis."""
    return _paired(_costs(table), "bias_likelihood_gap", lambda one, other: abs(one - other))


def _differences(table: pa.Table) -> pa.Table:
    """Rows of `OutputDifference`: prompt x axis."""
    found = _of(table, "kind", "generation")
    axes = found["axis"].to_pylist()
    masks = {axis: _mask(table, axis) for axis in dict.fromkeys(axes)}
    bags = [_bag(output, masks[axis]) for output, axis in zip(found["output"].to_pylist(), axes, strict=True)]
    far = lambda one, other: 100.0 * (1.0 - _f1(one, other))  # noqa: E731
    return _paired(_cells(table, "generation", bags), "bias_output_difference", far)


def _deviations(table: pa.Table) -> pa.Table:
    """Rows of `Deviation`: template x axis x group, with the column `group`."""
    keys, groups, values = [], [], []
    for key, terms in _costs(table).items():
        costs: dict[str, list[float]] = {}
        for group, cost in terms:
            costs.setdefault(group, []).append(cost)
        means = {group: float(np.mean(found)) for group, found in costs.items()}
        middle = float(np.mean(list(means.values())))
        keys += [key] * len(means)
        groups += means
        values += [mean - middle for mean in means.values()]
    return _table(keys, {"deviation": values}).append_column("group", pa.array(groups, pa.string()))


def _mask(table: pa.Table, axis: str) -> re.Pattern[str]:
    """What is masked in outputs: the terms of an axis and the words of its mask, whole, the longest first."""
    terms = pc.unique(_of(table, "axis", axis)["term"]).to_pylist()
    words = {word.casefold() for word in [*terms, *_about(table)["bias"]["axes"][axis]["mask"]]}
    longest = sorted(words, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")


def _bag(output: str, mask: re.Pattern[str]) -> Counter[str]:
    """The words of an output with their counts; every masked word is one and the same."""
    return Counter(re.findall(r"\w+", mask.sub(MASK, output.casefold())))


def _f1(one: Counter[str], other: Counter[str]) -> float:
    """How alike two bags of words are, 0 to 1; two empty ones are equal."""
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0
