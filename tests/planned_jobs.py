"""What a call of Snakemake would start."""

import re
from pathlib import Path

import micro


def planned(folder: Path, *targets: str) -> dict[str, int]:
    """The jobs that a run of a workspace would start, by rule."""
    said = micro.snakemake(folder, *targets, "--dry-run", "--quiet", "rules", "reason").stdout
    table = re.search(r"^job +count\n-+ +-+\n(.*?)\n\n", said + "\n\n", re.DOTALL | re.MULTILINE)
    counts = dict(line.split() for line in table[1].splitlines()) if table else {}
    return {rule: int(count) for rule, count in counts.items() if rule not in ("all", "total")}
