"""The rows of an output in few large files, in a folder of their own: for analytics, not for resuming.

The metadata of the last one, which is there once all are, say what they were made from: see `Copy`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.output.bound import bound_of
from pipeline.output.place import Place
from pipeline.plan import files as plan_files
from pipeline.plan.names import digest
from pipeline.storage import Entry

META = b"beit"


@dataclass(frozen=True)
class Copy:
    """What a copy was made from: a digest of the output's files, and how many forgetting parts its plan had."""

    output: str
    files: str
    forgotten_parts: int

    @staticmethod
    def of(output: str, spans: Iterable[tuple[str, Entry]], forgotten_parts: int) -> Copy:
        """A copy of these files."""
        return Copy(output, digest("\n".join(f"{name}\t{file.version}" for name, file in spans)), forgotten_parts)

    @staticmethod
    def at(dest: str) -> Copy | None:
        """What the copy in a folder was made from, None where there is none, or not all of one."""
        target = storage.absolute(dest).rstrip("/")
        if storage.stat(_part(target, 0)) is None:
            return None
        last = max(storage.listing(target), key=lambda entry: entry.uri)
        try:
            with storage.open_stream(last) as stream:
                return Copy(**json.loads((pq.read_metadata(stream).metadata or {})[META]))
        except (KeyError, TypeError, ValueError, pa.ArrowException):
            return None

    def news(self) -> str:
        """What has happened to the output since, empty for nothing; ConfigError where it is no output any more."""
        place = Place(self.output)
        bound_of(place)
        parts = plan_files.listing(place).forgotten[self.forgotten_parts :]
        if forgotten := sum(plan_files.count_rows(part) for part in parts):
            return f"{forgotten:,} images were forgotten since"
        return "" if Copy.of(self.output, place.spans(), 0).files == self.files else "files were written since"


def said_of_copy(dest: str) -> tuple[str, bool] | None:
    """A sentence about the copy in a folder, and whether it is as new as its output; None where there is no copy."""
    copy = Copy.at(dest)
    if copy is None:
        return None
    news = copy.news()
    advice = f"older: {news}; make it anew with jobs/compact.py" if news else "as new as that"
    return f"{dest} is a copy of {copy.output}, {advice}", not news


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
        copy = said_of_copy(dest)
        said = f" ({copy[0]})" if copy else ""
        raise ConfigError(f"{dest} is not empty: choose another folder{said}")
    parts = plan_files.listing(place).forgotten  # before the files, which are written anew after it
    spans = list(place.spans())
    waiting: list[pa.Table] = []
    count = rows = files = 0
    for _, entry in spans:
        with storage.open_stream(entry) as stream:
            table = pq.read_table(stream).replace_schema_metadata(None)
        waiting.append(table)
        count, rows = count + len(table), rows + len(table)
        while count > rows_per_file:
            merged = pa.concat_tables(waiting)
            _write(target, files, merged.slice(0, rows_per_file))
            waiting, count, files = [merged.slice(rows_per_file)], count - rows_per_file, files + 1
    if count:
        about = json.dumps(asdict(Copy.of(place.root, spans, len(parts))))
        _write(target, files, pa.concat_tables(waiting).replace_schema_metadata({META: about}))
        files += 1
    return rows, files


def _part(target: str, number: int) -> str:
    return storage.join(target, f"part-{number:05d}.parquet")


def _write(target: str, number: int, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=32_768)
    storage.put(_part(target, number), sink.getvalue().to_pybytes())
