"""What the page of a search says in sentences: its verdict, its cautions, and what its drawings show."""

from __future__ import annotations

import math
from statistics import median

from snaketune.pages.pages import MINUS, clipped, percent
from snaketune.pages.tune_trials import Search, Trial, told

FEW = 8  # complete trials; below them neither the best nor an importance says much
FEWEST_FOR_EDGES = 3  # of two trials one is at each end
OTHER_TOKENS = ("tokenize.", "model.base", "model.revision", "model.from_scratch.vocab", "train.loss_on")
SAME_TOKENS = ("tokenize.backend", "tokenize.shards")  # these change the speed alone


def loss_in_words(loss: float | None) -> str:
    """A loss in nats per token with three decimals; none is a dash."""
    return "–" if loss is None else f"{loss:.3f}".replace("-", MINUS)


def counted(count: int, thing: str) -> str:
    """ "1 trial", "2 trials"."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def verdict(search: Search) -> list[str]:
    """The best trial beside the median and the first one, and what became of all trials."""
    best, complete = search.best, [trial for trial in search.of("complete") if trial.loss is not None]
    one = f"Trial {best.number} is the best, with a validation loss of {loss_in_words(best.loss)}"
    if len(complete) == 1:
        return [f"{one}: the only complete trial.", tally(search)]
    middle = median(trial.loss for trial in complete if trial.loss is not None)
    beside = [_below(best, middle, "the median of the complete trials")]
    first = complete[0]
    named = "the first one" if first is search.trials[0] else f"trial {first.number}, the first complete one"
    beside.append("it was the first one" if first is best else _below(best, first.loss, named))
    return [f"{one}: {', and '.join(beside)}.", tally(search)]


def tally(search: Search) -> str:
    """How many trials are complete, pruned, failed; states without a trial are left out."""
    states = {state: len(search.of(state)) for state in ("complete", "pruned", "failed")}
    of = counted(len(search.trials), "trial")
    if states["complete"] == len(search.trials):
        return f"{'The one trial is' if len(search.trials) == 1 else f'All {of} are'} complete."
    verbs = {
        "complete": ("is complete", "are complete"),
        "pruned": ("was pruned", "were pruned"),
        "failed": ("failed",) * 2,
    }
    parts = [f"{count:,} {verbs[state][count != 1]}" for state, count in states.items() if count]
    return f"Of {of} {' and '.join(filter(None, [', '.join(parts[:-1]), parts[-1]]))}."


def _below(best: Trial, other: float | None, what: str) -> str:
    gap = (other or 0.0) - (best.loss or 0.0)
    if gap < 0.0005:
        return f"level with {what}"
    return f"{gap:.3f} below {what} ({percent(-math.expm1(-gap), 1)} less perplexity)"


def cautions(search: Search) -> list[str]:
    """What keeps the verdict from being the last word, most weighty first."""
    found = []
    complete, failed = len(search.of("complete")), search.of("failed")
    if complete < FEW:
        found.append(
            f"Only {counted(complete, 'trial')} {'is' if complete == 1 else 'are'} complete, fewer than {FEW}: "
            "the best of so few may be far from the best of the space. Raise `tune.trials`."
        )
    if failed:
        half = ", half of them or more" if 2 * len(failed) >= len(search.trials) else ""
        said = clipped(failed[0].reason or "no reason was recorded", 300).rstrip(".")
        found.append(f"{counted(len(failed), 'trial')} failed{half}; trial {failed[0].number}: {said}.")
    for dimension in search.dimensions if complete >= FEWEST_FOR_EDGES else ():
        value = search.best.values[dimension.key]
        if side := dimension.edge(value):
            found.append(
                f"The best `{clipped(dimension.key)}`, {told(value)}, lies at the {side} edge of what was searched "
                f"({dimension.span}): something better may lie beyond. Widen it."
            )
    if keys := [d.key for d in search.dimensions if d.key.startswith(OTHER_TOKENS) and d.key not in SAME_TOKENS]:
        found.append(
            f"Trials differ in {', '.join(f'`{clipped(key)}`' for key in keys)}, which may change the tokens that the "
            "loss is taken over: their losses are not strictly comparable."
        )
    return found


def history_in_words(search: Search) -> str:
    """What the history shows, for those who do not see it."""
    best_so_far: list[Trial] = []
    for trial in search.of("complete"):
        if trial.loss is not None and (not best_so_far or trial.loss < (best_so_far[-1].loss or 0.0)):
            best_so_far.append(trial)
    shown = best_so_far if len(best_so_far) <= 6 else [best_so_far[0], *best_so_far[-4:]]
    course = ", ".join(f"{loss_in_words(trial.loss)} at trial {trial.number}" for trial in shown)
    return f"{tally(search)} The best validation loss so far: {course}."


def slice_in_words(search: Search, key: str) -> str:
    """What one slice shows: the values of the best and of the worst complete trial."""
    ranked = [trial for trial in search.ranked if trial.loss is not None]
    ends = [("best", ranked[0]), ("worst", ranked[-1])][: len(ranked)]
    said = [f"{told(trial.values[key])} in the {kind} trial (loss {loss_in_words(trial.loss)})" for kind, trial in ends]
    return f"{clipped(key)}: {', '.join(said)}."


def parallel_in_words(search: Search) -> str:
    """What the parallel coordinates show: where the best fifth lies in each dimension."""
    top = [trial for trial in search.ranked if search.fifths[trial.number] == 1]
    spans = []
    for dimension in search.dimensions:
        held = dict(
            sorted({dimension.place(t.values[dimension.key]): told(t.values[dimension.key]) for t in top}.items())
        )
        words = list(held.values())
        if not dimension.numeric:
            span = "any" if 1 < len(dimension.choices) == len(words) else ", ".join(words)
        else:
            span = words[0] if words[0] == words[-1] else f"{words[0]} to {words[-1]}"
        spans.append(f"{clipped(dimension.name)} {span}")
    return f"The best fifth of the complete trials ({len(top):,}): {'; '.join(spans)}."


def curves_in_words(search: Search) -> str:
    """What the curves show: the ends of the best trial's curve, and how many others are beside it."""
    curve = search.best.curve
    others = sum(bool(trial.curve) for trial in search.trials if trial is not search.best)
    if not curve:
        return f"Validation loss by evaluation, of {counted(others, 'trial')}."
    ends = (
        f"{loss_in_words(curve[0])} at the first and {loss_in_words(curve[-1])} at the last of {len(curve)} evaluations"
    )
    return (
        f"The best trial: {ends.replace('1 evaluations', '1 evaluation')}. Beside it {counted(others, 'other curve')}."
    )
