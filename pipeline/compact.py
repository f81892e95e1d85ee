"""The rows of an output in few large files, in a folder of their own: for analytics, not for resuming."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.output.bound import bound_of
from pipeline.output.place import Place


def compact(output: str, dest: str, rows_per_file: int) -> tuple[int, int]:
    """Copy all rows to `dest/part-00000.parquet` and so on; returns (rows, files).

    Rows keep the order of the spans' names. Memory: one file's rows. Raises ConfigError for an output that is not ours,
    a destination that is not empty, or one inside the output.
    """
    place, target = Place.of(output), storage.absolute(dest).rstrip("/")
    bound_of(place)
    if (target + "/").startswith(place.root + "/"):
        raise ConfigError(f"{dest} lies inside {output}: choose a folder of its own")
    if rows_per_file < 1:
        raise ConfigError(f"--rows-per-file {rows_per_file}: give a number above 0")
    if next(iter(storage.listing(target)), None) is not None:
        raise ConfigError(f"{dest} is not empty: choose another folder")
    waiting: list[pa.Table] = []
    count = rows = files = 0
    for _, entry in place.spans():
        with storage.open_stream(entry) as stream:
            table = pq.read_table(stream).replace_schema_metadata(None)
        waiting.append(table)
        count, rows = count + len(table), rows + len(table)
        while count >= rows_per_file:
            merged = pa.concat_tables(waiting)
            _write(target, files, merged.slice(0, rows_per_file))
            waiting, count, files = [merged.slice(rows_per_file)], count - rows_per_file, files + 1
    if count:
        _write(target, files, pa.concat_tables(waiting))
        files += 1
    return rows, files


def _write(target: str, number: int, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=32_768)
    storage.put(storage.join(target, f"part-{number:05d}.parquet"), sink.getvalue().to_pybytes())
