"""The best trial of a search by its validation loss, as a configuration that can be run; all trials as a table.

In:  trial.json of every trial
Out: tune/best.json    number, values and loss of the best; how many trials there were, and how they ended
     tune/best.yaml    a whole configuration: snakemake --configfile results/<run>/tune/best.yaml
     tune/trials.csv   a line for each trial

Only trials that were trained to their end can be the best, and of equal losses that of the lowest number is.
"""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from snaketune.job import StageError, run
from snaketune.tune.space import with_values

STATES = ("complete", "pruned", "failed")
# What makes a search, and runs beside the run itself: the best configuration has none of it.
ALONE = {"tune": None, "seeds": [], "folds": 0, "variants": {}}


def choose(trials: list[str], best: str, config: str, table: str, settings: dict[str, Any]) -> str:
    """Choose; settings: `config` (the complete settings of the run) and `tune`.

    Raises StageError where no trial was trained to its end.
    """
    found = sorted((json.loads(Path(path).read_text(encoding="utf-8")) for path in trials), key=lambda t: t["number"])
    ended = Counter(trial["state"] for trial in found)
    complete = [trial for trial in found if trial["state"] == "complete"]
    if not complete:
        raise StageError(_nothing(found))
    chosen = min(complete, key=lambda trial: trial["loss"])  # the first of equal ones
    about = {name: chosen[name] for name in ("number", "values", "loss")} | {"trials": len(found)}
    about |= {state: ended[state] for state in STATES}
    for path in (best, config, table):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(best).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    Path(config).write_text(_configuration(settings["config"], about), encoding="utf-8")
    _write_table(found, table)
    values = ", ".join(f"{key} {value}" for key, value in chosen["values"].items())
    return f"trial {chosen['number']} of {len(found)} is the best, validation loss {chosen['loss']:.4f}: {values}"


def _nothing(found: list[dict[str, Any]]) -> str:
    """Why there is no best trial."""
    reasons = Counter(trial["reason"] for trial in found if trial["reason"])
    named = "\n".join(f"  {count} x {reason}" for reason, count in reasons.most_common())
    return (
        f"none of the {len(found)} trials was trained to its end, so there is no best one; narrow `tune.space`, "
        f"or set what they fail for:\n{named}"
    )


def _configuration(settings: dict[str, Any], best: dict[str, Any]) -> str:
    """The configuration of the best trial as YAML."""
    changed = with_values(settings, best["values"]) | {"run": f"{settings['run']}-best"}
    changed |= {key: value for key, value in ALONE.items() if key in settings}
    lines = [
        f"The best of {best['trials']} trials of `{settings['run']}`, by the validation loss: trial {best['number']}",
        *(f"  {key}: {json.dumps(value)}" for key, value in best["values"].items()),
    ]
    plain = json.loads(json.dumps(changed))  # without what YAML has no name for, such as tuples
    return "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(
        plain, sort_keys=False, allow_unicode=True, width=120
    )


def _write_table(found: list[dict[str, Any]], table: str) -> None:
    keys = list(dict.fromkeys(key for trial in found for key in trial["values"]))
    with Path(table).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["number", "generation", "state", "loss", *keys, "reason"])
        for trial in found:
            values = [_cell(trial["values"].get(key)) for key in keys]
            writer.writerow(
                [*(_cell(trial[name]) for name in ("number", "generation", "state", "loss")), *values, trial["reason"]]
            )


def _cell(value: Any) -> Any:
    """A value as a cell: numbers and texts as they are, all else as JSON."""
    plain = value is None or (isinstance(value, int | float | str) and not isinstance(value, bool))
    return value if plain else json.dumps(value)


def _from_job(job: Any) -> str:
    output = job.output
    return choose(list(job.input.trials), output.best, output.config, output.table, job.params.settings)


if __name__ == "__main__":
    run(_from_job, snakemake, light=True)
