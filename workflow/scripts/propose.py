"""The configurations of the next generation of a search, and the losses at which its trials are given up.

In:  trial.json of every trial of all earlier generations
Out: tune/generation-<gg>.json: {"generation", "trials": [{"number", "values": {dotted key: value}}], "bounds": [..]}

Trials are numbered from 0 through all generations. `bounds`: by number of the evaluation, the validation loss above
which a trial ends, or null; [] where nothing is pruned. The file is a function of its inputs: see
snaketune/tune/sampling.py and bounds.py for why, and what is proposed.
"""

import json
from pathlib import Path
from typing import Any

from snaketune.job import StageError, run
from snaketune.tune.bounds import bounds
from snaketune.tune.sampling import propose as proposals


def propose(trials: list[str], out: str, settings: dict[str, Any], *, generation: int) -> str:
    """Propose a generation; trials: the files of all earlier ones, in any order.

    settings: of the section `tune`, with `seed`. Raises StageError where the space cannot be used.
    """
    earlier = sorted((json.loads(Path(path).read_text(encoding="utf-8")) for path in trials), key=_number)
    size = min(settings["generation"], settings["trials"] - len(earlier))
    try:
        chosen = proposals(settings["space"], settings["method"], generation, size, earlier, settings["seed"])
    except ValueError as error:
        raise StageError(f"`tune.space`: {error}") from error
    about = {
        "generation": generation,
        "trials": [{"number": number, "values": values} for number, values in enumerate(chosen, start=len(earlier))],
        "bounds": bounds(earlier, settings["pruning"]),
    }
    if len(chosen) < size:
        raise StageError(
            f"`tune.trials` asks for {settings['trials']} configurations, and `tune.space` holds "
            f"{len(earlier) + len(chosen)}; set `tune.trials` to that, or widen the space"
        )
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    limits = sum(bound is not None for bound in about["bounds"])
    said = f"{len(chosen)} configurations by {settings['method']}, from the results of {len(earlier)}"
    return f"{said}; bounds at {limits} evaluations" if limits else said


def _number(trial: dict[str, Any]) -> int:
    return trial["number"]


def _from_job(job: Any) -> str:
    settings = job.params.settings
    return propose(list(job.input.trials), job.output.generation, settings, generation=settings["number"])


if __name__ == "__main__":
    run(_from_job, snakemake, light=True)
