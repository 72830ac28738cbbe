"""A data set of the Hugging Face Hub in, one Parquet file out, once; ingest reads it like any other file."""

from pathlib import Path
from typing import Any

from snaketune.job import StageError, run


def fetch_data(out: str | Path, settings: dict[str, Any]) -> str:
    """Fetch the split `hub_split` of `hub` at `revision`."""
    from datasets import load_dataset

    name, revision = settings["hub"], settings["revision"]
    try:
        data = load_dataset(name, settings["hub_config"], split=settings["hub_split"], revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise StageError(
            f"{name} at {revision} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}). "
            "Check the name, the configuration, the split, the revision and the network"
        ) from error
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    part = Path(f"{out}.part")
    data.to_parquet(part)
    part.replace(out)
    return f"{name} at {revision[:12]}: {len(data):,} rows"


if __name__ == "__main__":
    run(lambda job: fetch_data(job.output.rows, job.params.settings), snakemake)
