"""How much each dimension mattered: PED-ANOVA, beside what shuffled losses would give; and rank correlations.

PED-ANOVA (Watanabe, Bansal, Hutter 2023, https://arxiv.org/abs/2304.10255; Optuna's) asks how differently the better
half of the complete trials is spread over a dimension than all of them are. It sees a best value in the middle of a
range, which a correlation does not. The better half, not Optuna's best tenth: of a dozen trials a tenth is one or two.
With few trials any dimension can seem to matter, so the same is computed with the losses shuffled among the trials.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np
from markupsafe import Markup

from snaketune.pages.charts import Scale, svg_tag, svg_text
from snaketune.pages.pages import clipped, percent
from snaketune.pages.tune_charts import WIDTH, drawing
from snaketune.pages.tune_trials import Dimension, Search, Trial, is_number
from snaketune.pages.tune_words import FEW

BETTER = 0.5  # the share of the trials that counts as the better ones
SHUFFLES = 99
CHANCE = 0.95  # so many of the shuffles stay below what counts as chance
ROW, BAR = 52, 14  # heights
LEFT, RIGHT = 8, 712


@dataclass(frozen=True)
class Importance:
    """The share of one dimension in all importance, the share that chance reaches, and its rank correlation."""

    dimension: Dimension
    share: float
    chance: float
    correlation: float | None

    @property
    def clear(self) -> bool:
        """Whether it is more than chance gives."""
        return self.share > self.chance


def importances(search: Search, seed: int) -> list[Importance]:
    """All dimensions, the most important first; none with fewer than FEW complete trials, or where losses are equal."""
    trials = [trial for trial in search.of("complete") if trial.loss is not None]
    losses = np.array([trial.loss for trial in trials])
    if len(trials) < FEW or losses.min() == losses.max():
        return []
    generator = np.random.default_rng(seed)
    orders = [np.arange(len(trials)), *(generator.permutation(len(trials)) for _ in range(SHUFFLES))]
    found = _divergences(search.dimensions, trials, losses, orders)
    if not (whole := float(found[0].sum())):
        return []
    chance = np.quantile(found[1:], CHANCE, axis=0, method="higher")
    made = [
        Importance(dimension, float(found[0, at]) / whole, float(chance[at]) / whole, correlation(dimension, trials))
        for at, dimension in enumerate(search.dimensions)
    ]
    return sorted(made, key=lambda one: -one.share)


def _divergences(
    dimensions: Sequence[Dimension], trials: Sequence[Trial], losses: np.ndarray, orders: Sequence[np.ndarray]
) -> np.ndarray:
    """PED-ANOVA's importances, [orders, dimensions] float64, not normalised, of the losses in each of these orders."""
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    spaces: dict[str, optuna.distributions.BaseDistribution] = {}
    for one in dimensions:
        if one.choices:
            last = len(one.choices) - 1
            spaces[one.key] = IntDistribution(0, last) if one.numeric else CategoricalDistribution(range(last + 1))
        elif one.whole:
            spaces[one.key] = IntDistribution(int(one.low), int(one.high), log=one.log)
        else:
            spaces[one.key] = FloatDistribution(one.low, one.high, log=one.log)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name="search")
    for trial, loss in zip(trials, losses.tolist(), strict=True):
        values = {
            one.key: int(one.place(trial.values[one.key])) if one.choices else trial.values[one.key]
            for one in dimensions
        }
        study.add_trial(optuna.create_trial(params=values, distributions=spaces, value=loss))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BETTER)
    names, rows = list(spaces), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns at each call that lower targets are taken for better
        for order in orders:
            found = evaluator.evaluate(
                study, names, target=lambda trial, order=order: float(losses[order[trial.number]])
            )
            rows.append([found[name] for name in names])
    return np.array(rows)


def correlation(dimension: Dimension, trials: Sequence[Trial]) -> float | None:
    """Spearman's rank correlation of the values with the losses; None for words, or where all are equal."""
    values = [trial.values[dimension.key] for trial in trials]
    if not all(is_number(value) for value in values):
        return None
    one, other = (_ranks(np.array(series, float)) for series in (values, [trial.loss for trial in trials]))
    if len(trials) < FEW or not (one.std() and other.std()):
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, [n] float64; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def bars(found: Sequence[Importance]) -> Markup:
    """A bar a dimension, and on it a line up to where shuffled losses reach."""
    across = Scale(0, max(1.0, *(one.chance for one in found)), LEFT, RIGHT)
    parts = []
    for place, one in enumerate(found):
        top = ROW * place
        y = top + 26.0
        told = f"{clipped(one.dimension.key)}: {percent(one.share, 1)}, by chance up to {percent(one.chance, 1)}"
        parts.append(svg_text(LEFT, top + 18, clipped(one.dimension.name, 40), cls="name"))
        parts.append(svg_text(RIGHT, top + 18, percent(one.share, 1), anchor="end"))
        parts.append(svg_tag("rect", cls="track", x=LEFT, y=y, width=RIGHT - LEFT, height=BAR))
        width = max(1.0, across(one.share) - LEFT)
        box = f'x="{LEFT}" y="{y:.1f}" width="{width:.1f}" height="{BAR}"'
        kind = "fill" if one.clear else "maybe"
        parts.append(f'<rect class="{kind}" {box}><title>{escape(told)}</title></rect>')
        x = across(one.chance)
        parts.append(svg_tag("line", cls="mark", x1=x, y1=y - 2, x2=x, y2=y + BAR + 2))
    return drawing("search", WIDTH, ROW * len(found), in_words(found), parts)


def in_words(found: Sequence[Importance]) -> str:
    """Which dimensions mattered, and for which that may be chance."""
    clear = [f"{clipped(one.dimension.name)} ({percent(one.share, 1)})" for one in found if one.clear]
    rest = [clipped(one.dimension.name) for one in found if not one.clear]
    said = []
    if clear:
        said.append(f"More than chance would give: {', '.join(clear)}.")
    if rest:
        said.append(f"Not told apart from chance: {', '.join(rest)}.")
    return " ".join(said)
