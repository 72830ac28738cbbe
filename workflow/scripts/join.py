"""The parts of a table as one: what several jobs of `likelihood` or `generate` said, each of a part of the test rows.

In:  likelihood/parts/<side>-<part>.parquet or generate/parts/<side>-<part>.parquet, in their order
Out: likelihood/<side>.parquet or generate/<side>.parquet, with the metadata of the parts

It is the table that one job writes, row for row and row group for row group, however many parts there are. A row group
is in memory at a time.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from snaketune.job import StageError, run
from snaketune.rows import TableWriter, batches


def join(parts: list[str], out: str) -> str:
    """Put the parts end to end. Raises StageError where a row id is not larger than the one before it."""
    last = ""
    with TableWriter(out, _schema(parts[0])) as whole:
        for part in parts:
            for table in batches(part):
                ids = pa.chunked_array([[last], *table["row_id"].chunks])
                if not pc.all(pc.less(ids[:-1], ids[1:])).as_py():
                    raise StageError(
                        f"{part} does not go on where the part before it ends: remove the parts, run again"
                    )
                last = ids[-1].as_py()
                whole.write(table)
    folder, side = Path(parts[0]).parent, Path(parts[0]).name.rpartition("-")[0]
    for old in set(folder.glob(f"{side}-*.parquet")) - set(map(Path, parts)):
        old.unlink()  # of a run with more parts: no one reads it
    return f"{side}: {whole.rows:,} rows of {len(parts)} parts"


def _schema(part: str) -> pa.Schema:
    """The schema that a table was written with; Arrow reads back another name for the values of its lists."""
    read = pq.read_schema(part)
    lists = {field.name: pa.list_(field.type.value_type) for field in read if pa.types.is_list(field.type)}
    return pa.schema([field.with_type(lists.get(field.name, field.type)) for field in read], read.metadata)


if __name__ == "__main__":
    run(lambda job: join(list(job.input.parts), job.output.table), snakemake, light=True)
