"""One file per span, named after it: it exists, whole, or it does not. Its metadata says what it is."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ObjectUnreadable, StorageError, is_pyarrows
from pipeline.output.bound import Bound
from pipeline.output.place import Place
from pipeline.status import OK
from pipeline.storage import Entry

META = b"beit"
SELDOM = ("forgotten",)  # facts that files without them do not speak of
FILES_AHEAD = 4  # held in memory
T = TypeVar("T")


@dataclass(frozen=True)
class SpanFacts:
    """What the metadata of a span's file hold: counts by status, and its position in which version of its source.

    `images` is how many were cut for the span, which positions are counted in; `forgotten` are the uris of those that
    have no row any more, sorted. `next_offset` and `next_skip` say where the following span of the shard begins,
    `repeated` whether a member name had occurred twice by then.
    """

    name: str
    source: str
    version: str
    start: int
    images: int
    ok: int
    statuses: dict[str, int] = field(default_factory=dict)
    offset: int = 0
    skip: int = 0
    next_offset: int = 0
    next_skip: int = 0
    repeated: bool = False
    forgotten: tuple[str, ...] = ()

    @staticmethod
    def of(raw: Mapping[str, Any]) -> SpanFacts:
        """From JSON; raises KeyError for what is not there."""
        always = {name: raw[name] for name in SpanFacts.__dataclass_fields__ if name not in SELDOM}
        return SpanFacts(**always, forgotten=tuple(raw.get("forgotten", ())))

    @property
    def rows(self) -> int:
        """Rows of the file: images that are not forgotten."""
        return self.images - len(self.forgotten)

    @property
    def failed(self) -> int:
        """Rows whose status is not ok."""
        return self.rows - self.ok


def write_span(place: Place, table: pa.Table, facts: SpanFacts, bound: Bound) -> None:
    """Write a span's file."""
    with place.writing():
        storage.put(place.span_file(facts.name), _encoded(table, facts, bound))


def rewrite_span(place: Place, entry: Entry, table: pa.Table, facts: SpanFacts, bound: Bound) -> bool:
    """Write a span's file in place of this version of it; False where it has another by now."""
    with place.writing():
        return storage.replace(entry.uri, _encoded(table, facts, bound), entry.version)


def _encoded(table: pa.Table, facts: SpanFacts, bound: Bound) -> bytes:
    """The file. Its bytes depend on rows, facts and settings only: no time, run, worker or path.

    Where nothing is forgotten the metadata do not speak of it.
    """
    held = {name: value for name, value in asdict(facts).items() if value or name not in SELDOM}
    about = {**held, "failed": facts.failed, "run": bound.durable()}
    if facts.forgotten:
        about["rows"] = facts.rows
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata({META: json.dumps(about, sort_keys=True)}),
        sink,
        compression="zstd",
        compression_level=3,
        row_group_size=16_384,
        use_dictionary=[f.name for f in table.schema if f.name in ("status", "error")],
        write_statistics=["uri", "key", "status"],
        version="2.6",
        data_page_version="1.0",
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def counted(facts: SpanFacts, table: pa.Table) -> SpanFacts:
    """The facts with the rows of the finished span counted by status."""
    statuses, images = Counter(table["status"].to_pylist()), len(table) + len(facts.forgotten)
    return replace(facts, images=images, ok=statuses[OK], statuses=dict(sorted(statuses.items())))


def as_it_is(entry: Entry, read: Callable[[BinaryIO], T]) -> T:
    """What `read` makes of a span's file, all of one version of it; another run may just have replaced it.

    Raises FileNotFoundError where it is gone, and StorageError for a file that is not ours.
    """
    return with_version(entry, read)[1]


def with_version(entry: Entry, read: Callable[[BinaryIO], T]) -> tuple[Entry, T]:
    """The same, and the version that has it."""
    while True:
        try:
            with storage.open_stream(entry, pinned=True) as stream:
                return entry, read(stream)
        except (ValueError, KeyError, OSError, pa.ArrowException, ObjectUnreadable) as error:
            if isinstance(error, OSError) and not is_pyarrows(error):
                raise
            now = storage.stat(entry.uri)
            if now is None:
                raise FileNotFoundError(f"{entry.uri} is gone") from error
            if now.version != entry.version:
                entry = now
            elif isinstance(error, ObjectUnreadable):
                raise
            else:
                raise StorageError(f"{entry.uri} is no file of ours or damaged: remove it and run again") from error


def read_columns(entries: Iterable[Entry], names: Sequence[str]) -> Iterator[tuple[SpanFacts, pa.Table]]:
    """The metadata of every file that is still there, and those of these columns that it has; a few are read ahead.

    Raises StorageError for a file that is not ours.
    """

    def read(stream: BinaryIO) -> tuple[SpanFacts, pa.Table]:
        file = pq.ParquetFile(stream)
        table = file.read([name for name in names if name in file.schema_arrow.names])
        return _facts(file.metadata), table.replace_schema_metadata(None)

    def read_if_there(entry: Entry) -> tuple[SpanFacts, pa.Table] | None:
        try:
            return as_it_is(entry, read)
        except FileNotFoundError:  # forgotten since it was listed
            return None

    return (found for found in storage.in_parallel(read_if_there, entries, FILES_AHEAD) if found is not None)


def read_facts(entry: Entry) -> SpanFacts:
    """The metadata of a span's file, from its footer; raises as `as_it_is`."""
    return as_it_is(entry, facts_alone)


def facts_alone(stream: BinaryIO) -> SpanFacts:
    """The metadata of an opened file, from its footer."""
    return _facts(pq.read_metadata(stream))


def facts_and_uris(stream: BinaryIO) -> tuple[SpanFacts, list[str]]:
    """The metadata of an opened file, and the uri of each of its rows."""
    file = pq.ParquetFile(stream)
    uris: list[str] = file.read(["uri"], use_threads=False)["uri"].to_pylist()
    return _facts(file.metadata), uris


def facts_and_rows(stream: BinaryIO) -> tuple[SpanFacts, pa.Table]:
    """The metadata of an opened file, and its rows."""
    file = pq.ParquetFile(stream)
    return _facts(file.metadata), file.read().replace_schema_metadata(None)


def _facts(footer: pq.FileMetaData) -> SpanFacts:
    return SpanFacts.of(json.loads((footer.metadata or {}).get(META) or b""))


def find(place: Place, name: str) -> SpanFacts | None:
    """The facts of a span that is finished, None of one that is not."""
    entry = storage.stat(place.span_file(name))
    return read_facts(entry) if entry else None


def read_rows(place: Place, name: str, columns: list[str] | None = None) -> pa.Table | None:
    """The rows of a finished span, None of one that is not."""
    entry = storage.stat(place.span_file(name))
    return read_table(entry, columns) if entry else None


def rows_as_written(stream: BinaryIO) -> pa.Table:
    """The rows of an opened file in the very schema that they were written in; reading calls items of lists anew."""
    file = pq.ParquetFile(stream)
    return file.read().cast(_written(file.metadata)).replace_schema_metadata(None).combine_chunks()


def types_there(place: Place, names: Sequence[str]) -> dict[str, pa.DataType]:
    """The types of these columns in an output's files; {} where there is none yet. Raises as `as_it_is`."""
    _, entry = next(place.spans(), (None, None))
    if entry is None or not names:
        return {}
    schema = as_it_is(entry, lambda stream: _written(pq.read_metadata(stream)))
    return {name: schema.field(name).type for name in names if name in schema.names}


def _written(footer: pq.FileMetaData) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(footer.metadata[b"ARROW:schema"])))


def read_table(entry: Entry, columns: list[str] | None = None) -> pa.Table:
    """The rows of a span's file; raises as `as_it_is`."""
    table = as_it_is(entry, lambda stream: pq.read_table(stream, columns=columns))
    return table.replace_schema_metadata(None)
