"""The settings of every run by its name, those of a search included, which become known while the workflow runs.

A trial is known once its generation has been proposed, and the best configuration once it has been chosen. Both are
read from the files of the search, so that every process of Snakemake, on whatever machine, finds them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from snaketune.config import ConfigError, best_name, child, fold_name, seed_name, trial_name
from snaketune.tune.space import override, trials_of

Settings = dict[str, Any]


class Runs(dict[str, Settings]):
    """Name -> complete settings. `parents` names for each run the one that it varies; the main run varies none."""

    def __init__(self, settings: dict[str, Settings], results: Path) -> None:
        super().__init__(settings)
        self._results = results
        main = next(iter(settings))
        self.parents = {name: main for name in settings if name != main}
        self._numbers: dict[str, int] = {}
        for name, given in settings.items():
            made = [seed_name(name, seed) for seed in given["seeds"]]
            made += [fold_name(name, fold) for fold in range(given["folds"])]
            if given["tune"]:
                trials = {trial_name(name, number): number for number in range(trials_of(given["tune"]))}
                self._numbers |= trials
                made += [*trials, best_name(name)]
            self.parents |= dict.fromkeys(made, name)

    def __missing__(self, name: str) -> Settings:
        """The settings of a trial or of the best configuration, read anew each time: its file may have been remade."""
        if name not in self.parents:
            raise KeyError(name)
        parent = self.parents[name]
        if (number := self._numbers.get(name)) is None:
            found = _read(self._results / parent / "tune/best.json")
        else:
            generation = self.generation(name)
            proposed = _read(self._results / parent / f"tune/generation-{generation:02d}.json")["trials"]
            found = next(trial for trial in proposed if trial["number"] == number)
        settings, faults = child(self[parent], name, override(found["values"]))
        if faults:
            raise ConfigError(
                f"- `tune.space` of `{parent}` leads to a configuration that is refused: {faults[0]['msg']}."
            )
        return settings

    def number(self, name: str) -> int:
        """The number of a trial."""
        return self._numbers[name]

    def generation(self, name: str) -> int:
        """The generation of a trial."""
        return self._numbers[name] // self[self.parents[name]]["tune"]["generation"]


def generations(settings: Settings) -> list[list[int]]:
    """The numbers of the trials of each generation."""
    count, size = trials_of(settings["tune"]), settings["tune"]["generation"]
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
