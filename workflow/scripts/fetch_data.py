"""A data set of the Hugging Face Hub in, one Parquet file out, once; ingest reads it like any other file.

`datasets` maps its cache from the disk, and the file is written by row groups, so that memory does not grow with the
data set. The row groups are small enough that reading one back is cheap.
"""

from pathlib import Path
from typing import Any

from snaketune.job import StageError, run

GROUP_BYTES = 32_000_000


def fetch_data(out: str | Path, settings: dict[str, Any]) -> str:
    """Fetch the split `hub_split` of `hub` at `revision`. Raises StageError where it cannot be read or written."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    name, revision = settings["hub"], settings["revision"]
    part = Path(f"{out}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        data = load_dataset(name, settings["hub_config"], split=settings["hub_split"], revision=revision)
        group = max(1, len(data) * GROUP_BYTES // max(1, data.data.nbytes))
        data.to_parquet(part, batch_size=group)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        part.unlink(missing_ok=True)
        reason = (str(error).splitlines() or ["no reason is given"])[0]
        raise StageError(
            f"{name} at {revision} cannot be read ({type(error).__name__}: {reason}). "
            "Check the name, the configuration, the split, the revision, the network and the room on the disk"
        ) from error
    part.replace(out)
    return f"{name} at {revision[:12]}: {len(data):,} rows"


if __name__ == "__main__":
    run(lambda job: fetch_data(job.output.rows, job.params.settings), snakemake)
