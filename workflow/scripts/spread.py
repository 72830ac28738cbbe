"""What several seeds and folds say: mean, spread and 95 % interval of every metric over runs.

In:  metrics.json of each seed and of each fold, and {run}
Out: spread.json

    run    whose seeds and folds these are
    seeds  null where there are none, or
        runs      their names
        metrics   metric -> base, tuned and delta: each mean, sd (n - 1 in the denominator), min, max, ci95 and the
                  values run by run; n; better: how many of the n improved (null where neither direction is better).
                  The base is the same for all seeds and has a mean alone. sd and ci95 are null for one run
        left_out  of the metrics that only some runs have, how many have them
    folds  the same; base varies with the test rows. ci95 is widened for the training rows that folds share, and is
           still not to be leant on: snaketune.scoring.spread says why
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snaketune.job import run
from snaketune.scoring.spread import over_folds, over_seeds

KINDS = ("seeds", "folds")


def spread(files: Mapping[str, Mapping[str, str]], out: str, settings: Mapping[str, Any]) -> str:
    """Write spread.json. files: `seeds` and `folds`, each name of a run -> path of its metrics.json.

    Raises StageError where seeds have other test data or another base, or folds the same test data.
    """
    runs = {kind: {name: _json(path) for name, path in paths.items()} for kind, paths in files.items()}
    document = {
        "run": settings["run"],
        "seeds": over_seeds(runs.get("seeds", {})),
        "folds": over_folds(runs.get("folds", {})),
    }
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(text, encoding="utf-8")
    return "; ".join(_sentence(document[kind], kind) for kind in KINDS if document[kind]) or "no seeds and no folds"


def _sentence(part: Mapping[str, Any], kind: str) -> str:
    n, metrics = len(part["runs"]), part["metrics"]
    told = f"{n} {kind if n != 1 else kind[:-1]}, {len(metrics)} metric{'s' * (len(metrics) != 1)}"
    if "perplexity" not in metrics:
        return told
    tuned = metrics["perplexity"]["tuned"]
    reach = f" ± {(bounds[1] - bounds[0]) / 2:.2f}" if (bounds := tuned["ci95"]) else ""
    return f"{told}: perplexity {tuned['mean']:.2f}{reach}"


def _named(paths: Sequence[str]) -> dict[str, str]:
    """The paths by the names of the runs, which stand in the files."""
    return {_json(path)["run"]: path for path in paths}


def _json(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(
        lambda job: spread(
            {kind: _named(job.input.get(kind, [])) for kind in KINDS},
            job.output.spread,
            job.params.settings,
        ),
        snakemake,
        light=True,
    )
