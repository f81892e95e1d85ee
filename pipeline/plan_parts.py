"""The plan on storage: numbered parts that list loose images, and one entry for every shard that was read to its end.

Each file is created exclusively and never changed. A part holds one row per image; what its spans are is in its
metadata, so a finished one costs a footer. A shard's counts are in its entry's *name*, so finished
shards cost one listing:

    plan/part-000012.parquet                           loose images, or later versions of images of earlier parts
    plan/shard-NAME.NUMBER-VERSION-IMAGES.json         the latest number of a shard counts
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ObjectUnreadable, StorageError
from pipeline.output import SpanFacts, writing
from pipeline.source.item import Item, Remote
from pipeline.spans import Span, digest
from pipeline.storage import Entry

PART_SCHEMA = pa.schema([("uri", pa.string()), ("key", pa.string()), ("version", pa.string()), ("span", pa.string())])
META = b"beit"
GROUP = 1024  # rows of a row group: the least that is read to get at a span
PART = re.compile(r"part-(\d{6})\.parquet")
SHARD = re.compile(r"shard-(.+)\.(\d+)-([0-9a-f]{8})-(\d+)\.json")


@dataclass(frozen=True)
class PlannedSpan:
    """A span of loose images: rows [start, stop) of its part, and the digest of their versions when planned."""

    name: str
    start: int
    stop: int
    version: str


@dataclass(frozen=True)
class ShardEntry:
    """What an entry's name tells: which version of the shard was read to its end, and how many images it holds."""

    name: str
    number: int
    version: str
    images: int
    uri: str

    @property
    def told(self) -> str:
        """Version and images as the name tells them."""
        return f"{self.version}-{self.images}"


def listing(output: str) -> tuple[list[Entry], dict[str, ShardEntry]]:
    """All parts by number, and the latest entry of every shard by its name."""
    parts: list[Entry] = []
    shards: dict[str, ShardEntry] = {}
    for entry in storage.listing(storage.join(output, "plan")):
        file = entry.uri.rpartition("/")[2]  # the folder above may be called anything, `shard-1` too
        if PART.fullmatch(file):
            parts.append(entry)
        elif match := SHARD.fullmatch(file):
            name, number, version, images = match.groups()
            found = ShardEntry(name, int(number), version, int(images), entry.uri)
            if name not in shards or (shards[name].number, shards[name].images) < (found.number, found.images):
                shards[name] = found
    return sorted(parts, key=lambda part: part.uri), shards


def short_version(version: str) -> str:
    """A version as it stands in an entry's name."""
    return digest(version, 8)


def combined_version(uris: Sequence[str], versions: Sequence[str]) -> str:
    """The version of a span of loose images: a digest of all of theirs."""
    return digest("\n".join(f"{uri}\t{version}" for uri, version in zip(uris, versions, strict=True)))


def write_part(output: str, number: int, spans: list[tuple[PlannedSpan, pa.Table]], *, changes: bool = False) -> bool:
    """Create part `number` with these spans' images; False when another run has taken that number."""
    meta = {"spans": [asdict(span) for span, _ in spans], "changes": changes}
    table = pa.concat_tables([rows for _, rows in spans]).replace_schema_metadata({META: json.dumps(meta)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=GROUP)
    with writing(output):
        return storage.create(storage.join(output, "plan", f"part-{number:06d}.parquet"), sink.getvalue().to_pybytes())


def find_part(output: str, number: int) -> Entry:
    """Part `number`, which exists."""
    entry = storage.stat(storage.join(output, "plan", f"part-{number:06d}.parquet"))
    if entry is None:
        raise StorageError(f"{output}: somebody deletes the plan while it is written")
    return entry


def read_part(part: Entry) -> tuple[list[PlannedSpan], bool]:
    """The spans of a part from its footer, and whether it lists later versions of images planned before."""
    with storage.open_stream(part) as stream:
        meta = json.loads(pq.read_metadata(stream).metadata[META])
    return [PlannedSpan(**span) for span in meta["spans"]], meta["changes"]


def read_images(part: Entry, columns: list[str] | None = None) -> pa.Table:
    """All rows of a part."""
    with storage.open_stream(part) as stream:
        return pq.read_table(stream, columns=columns)


def read_rows(uri: str, start: int, stop: int) -> pa.Table:
    """Rows [start, stop) of a part; only the row groups that hold them are read."""
    entry = storage.stat(uri)
    if entry is None:
        raise ObjectUnreadable(f"{uri} is gone: the plan of this output is damaged")
    with storage.open_stream(entry) as stream:
        file = pq.ParquetFile(stream)
        if stop > file.metadata.num_rows:
            raise ObjectUnreadable(f"{uri} has no row {stop - 1}: the plan of this output is damaged")
        first = start // GROUP
        groups = file.read_row_groups(list(range(first, -(-stop // GROUP))))
        return groups.slice(start - first * GROUP, stop - start)


def read_items(span: Span) -> Iterator[Item]:
    """The loose images of a span, in order."""
    table = read_rows(span.source, span.start, span.stop or 0)
    for uri, key in zip(table["uri"].to_pylist(), table["key"].to_pylist(), strict=True):
        yield Item(uri, key, Remote(uri))


def write_shard_entry(output: str, span: Span, spans: list[dict[str, Any]], *, repeated: bool) -> None:
    """Add the entry of a shard that was read to its end; `spans` says where each begins and its number of images."""
    images = sum(piece["images"] for piece in spans)
    body = {
        "uri": span.source,
        "version": span.version,
        "size": span.size,
        "images": images,
        "repeated_names": repeated,
        "spans": spans,
    }
    told = f"{short_version(span.version)}-{images}"
    if told != span.known:
        name = f"shard-{span.name}.{span.number}-{told}.json"
        with writing(output):
            storage.create(storage.join(output, "plan", name), json.dumps(body).encode())


def read_shard_entry(entry: ShardEntry) -> dict[str, Any]:
    """The whole entry: uri, version, size, images, repeated_names, spans."""
    body: dict[str, Any] = json.loads(storage.read(entry.uri))
    return body


def where(facts: SpanFacts) -> dict[str, Any]:
    """A span's line in its shard's entry."""
    return {"start": facts.start, "images": facts.images, "offset": facts.offset, "skip": facts.skip}
