"""Hold the numbers of a run against the bounds that its `checks` set.

In:  metrics.json, and {checks: {metric: {min, max, min_delta, max_delta, certain}}, run}
Out: checks.json: each bound, its value, and that it holds

A bound that does not hold fails the job, and with it the run; checks.json is then not there, because Snakemake deletes
what a failed job has written. The report makes the same judgement by itself, so it shows what failed.
"""

import json
from pathlib import Path
from typing import Any

from snaketune.job import StageError, run
from snaketune.scoring.gates import failed, judged


def gate(metrics: str, out: str, settings: dict[str, Any]) -> str:
    """Write checks.json. Raises StageError where a bound does not hold, with all that do not."""
    document = json.loads(Path(metrics).read_text(encoding="utf-8"))
    checks = judged(document, settings["checks"])
    if fault := failed(checks):
        raise StageError(fault)
    Path(out).write_text(json.dumps({"checks": checks}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if not checks:
        return "no checks are set (`checks`)"
    return "the check holds" if len(checks) == 1 else f"all {len(checks)} checks hold"


if __name__ == "__main__":
    run(lambda job: gate(job.input.metrics, job.output.checks, job.params.settings), snakemake, light=True)
