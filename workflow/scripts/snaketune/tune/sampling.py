"""What a search tries next: a function of the space, the seed, and the results of the earlier generations.

It depends neither on how many trials run at once nor on the order in which they end. `grid`, `random` and `qmc` are one
sequence each, drawn anew every time and cut where the generation begins; so the size of a generation changes nothing in
them. `tpe` (Bergstra et al. 2011, in Optuna, over all dimensions together) fills a study with the earlier trials by
their number, and asks it for as many as are wanted; those that are asked for count as bad until they are known
("constant liar"), so that they keep apart.

A trial that failed counts as worse than all others. Optuna leaves such trials out, and proposes more of them: on a
function that fails in a quarter of its space, 8.5 of 24 trials failed instead of 4.8, and random ones 5.7.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import TYPE_CHECKING, Any

import numpy as np

from snaketune.tune.space import Dimension, Space, Values, distinct, grid, identity, parse, size_of

if TYPE_CHECKING:
    import optuna

STARTUP = 8  # trials of `tpe` that are drawn at random, before it has anything to learn from
ASKED = 64  # times, for each configuration that `tpe` is to propose, until one is new
DRAWN = 20_000  # points of a sequence at most: small spaces run out of new ones
SMALL = 10_000  # configurations: so small a space can be gone through


def propose(
    given: Mapping[str, Any], method: str, generation: int, size: int, trials: Sequence[Mapping[str, Any]], seed: int
) -> list[Values]:
    """The configurations of a generation, `size` of them, or what is left of the space.

    given: the space as the configuration has it; trials: what was found in all earlier generations, in any order. No
    configuration is proposed twice as long as there are others. Raises ValueError where the space cannot be used.
    """
    space, earlier = parse(given), sorted(trials, key=lambda trial: trial["number"])
    known = [trial["values"] for trial in earlier]
    if method == "grid":
        return grid(given)[len(known) : len(known) + size]
    if method == "tpe":
        asked = islice(_asked(space, earlier, seed, generation), ASKED * size)
        return list(islice(_new(asked, space, known), size))
    points = (_random if method == "random" else _sobol)(len(space), seed)
    drawn = ({key: at.at(share) for (key, at), share in zip(space.items(), point, strict=True)} for point in points)
    return list(islice(_new(islice(drawn, DRAWN), space, []), len(known), len(known) + size))


def _new(draws: Iterable[Values], space: Space, known: list[Values]) -> Iterator[Values]:
    """The new ones of some draws; where those run short, the rest of a small space in the order of its grid."""
    found = list(known)
    for values in distinct(draws, known):
        found.append(values)
        yield values
    if size_of(space) <= SMALL:
        every = (range(int(each.low), int(each.high) + 1) if each.whole else each.values for each in space.values())
        yield from distinct((dict(zip(space, values, strict=True)) for values in product(*every)), found)


def _random(dimensions: int, seed: int) -> Iterator[np.ndarray]:
    """Points of the unit cube, drawn one by one."""
    draw = np.random.default_rng(seed)
    while True:
        yield draw.random(dimensions)


def _sobol(dimensions: int, seed: int) -> Iterator[np.ndarray]:
    """Scrambled Sobol points (Owen 1998), which fill the unit cube more evenly. torch has them; Optuna needs SciPy."""
    import torch
    from torch.quasirandom import SobolEngine

    engine = SobolEngine(dimensions, scramble=True, seed=seed)
    while True:
        yield from engine.draw(64, dtype=torch.float64).numpy()


def _asked(space: Space, earlier: list[Mapping[str, Any]], seed: int, generation: int) -> Iterator[Values]:
    """What Optuna proposes, one after the other."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds = {key: _kind(dimension) for key, dimension in space.items()}
    start = int(np.random.SeedSequence([seed, generation]).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=True, n_startup_trials=STARTUP, seed=start)
    study = optuna.create_study(sampler=sampler)
    study.add_trials([_known(trial, space, kinds) for trial in earlier])
    while True:
        params = study.ask(kinds).params
        yield {key: at.values[params[key]] if at.listed else at.rounded(params[key]) for key, at in space.items()}


def _kind(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    """A dimension as Optuna has it. Values are named by their places, which are in order where rising numbers are."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.listed:
        values = dimension.values
        if all(isinstance(value, int | float) for value in values) and list(values) == sorted(values):
            return IntDistribution(0, len(values) - 1)
        return CategoricalDistribution(range(len(values)))
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _known(trial: Mapping[str, Any], space: Space, kinds: dict[str, Any]) -> optuna.trial.FrozenTrial:
    """A trial of an earlier generation as Optuna has it. One that is pruned before its first value is its worst."""
    import optuna

    complete, failed = (trial["state"] == state for state in ("complete", "failed"))
    marks = {key: list(map(identity, at.values)) for key, at in space.items() if at.listed}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED,
        params={
            key: marks[key].index(identity(value)) if key in marks else value for key, value in trial["values"].items()
        },
        distributions=kinds,
        value=trial["loss"] if complete else None,
        intermediate_values={} if failed else dict(enumerate(trial["curve"], start=1)),
    )
