"""One file per span, named after it: it exists, whole, or it does not. Its metadata says what it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.columns import OK
from pipeline.errors import ObjectUnreadable, StorageError
from pipeline.storage import Entry

META = b"beit"
SUFFIX = ".parquet"


@dataclass(frozen=True)
class SpanFacts:
    """What the metadata of a span's file holds: counts by status, and where in which version of its source it stands.

    `next_offset` and `next_skip` say where the following span of the shard begins, `repeated` whether a member name
    had come twice by then.
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

    @property
    def failed(self) -> int:
        """Rows whose status is not ok."""
        return self.images - self.ok


def path_of(output: str, name: str) -> str:
    """Where a span's file lies."""
    return storage.join(output, "data", name + SUFFIX)


def write_span(output: str, table: pa.Table, facts: SpanFacts, bound: dict[str, Any]) -> None:
    """Write a span's file. The bytes depend on rows, facts and settings only: no time, run, worker or path."""
    metadata = {META: json.dumps({**asdict(facts), "failed": facts.failed, "run": _durable(bound)}, sort_keys=True)}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        compression="zstd",
        compression_level=3,
        row_group_size=16_384,
        use_dictionary=[f.name for f in table.schema if f.name in ("status", "error")],
        write_statistics=["uri", "key", "status"],
        version="2.6",
        data_page_version="1.0",
    )
    with writing(output):
        storage.put(path_of(output, facts.name), sink.getvalue().to_pybytes())


@contextmanager
def writing(output: str) -> Iterator[None]:
    """Whatever the storage refuses within the block is told as one sentence about the output."""
    try:
        yield
    except (OSError, ObjectUnreadable) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"{output} cannot be written ({reason}); finished spans are safe") from error


def _durable(bound: dict[str, Any]) -> dict[str, Any]:
    """The settings that a file repeats: those that decide answers, not the versions of the day or a folder's name."""
    model = {name: value for name, value in bound["model"].items() if name != "name"}
    return {name: value for name, value in bound.items() if name != "versions"} | {"model": model}


def counted(facts: SpanFacts, table: pa.Table) -> SpanFacts:
    """The facts with the rows of the finished span counted by status."""
    statuses = Counter(table["status"].to_pylist())
    return replace(facts, images=len(table), ok=statuses[OK], statuses=dict(sorted(statuses.items())))


def read_facts(entry: Entry) -> SpanFacts:
    """What a span's file says of itself, from its footer; raises StorageError for a file that is not ours."""
    try:
        with storage.open_stream(entry) as stream:
            raw = (pq.read_metadata(stream).metadata or {}).get(META)
        meta = json.loads(raw or b"")
        return SpanFacts(**{name: meta[name] for name in SpanFacts.__dataclass_fields__})
    except (ValueError, KeyError, pa.ArrowException) as error:
        raise StorageError(f"{entry.uri} is no file of ours or damaged: remove it and run again") from error


def find(output: str, name: str) -> SpanFacts | None:
    """The facts of a span that is finished, None of one that is not."""
    entry = storage.stat(path_of(output, name))
    return read_facts(entry) if entry else None


def read_rows(output: str, name: str, columns: list[str] | None = None) -> pa.Table | None:
    """The rows of a finished span."""
    entry = storage.stat(path_of(output, name))
    if entry is None:
        return None
    with storage.open_stream(entry) as stream:
        return pq.read_table(stream, columns=columns).replace_schema_metadata(None)
