"""Parquet files as shards: image bytes, Hugging Face's struct<bytes, path>, or a column of URIs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ConfigError, CredentialsLost, ObjectUnreadable
from pipeline.sources import URI_HEADERS
from pipeline.storage import Entry
from pipeline.tar import Item

AT_ONCE = {"uri": 64, "struct": 16, "bytes": 16}  # rows materialised; of URIs all are fetched together
LARGE, PIECE = 64 << 20, 1 << 20  # bytes of a row group that is read piece by piece, and of such a piece
IMAGE_NAMES = ("image", "img", "image_bytes", "bytes", "jpg", "jpeg", "png", "webp", "data", "content")
KEY_NAMES = ("key", "id", "__key__")


def image_column(schema: pa.Schema, wanted: str | None, shard: str) -> tuple[str, Literal["bytes", "struct", "uri"]]:
    """Which column is the image and how; raises ConfigError that lists the columns when none is."""
    kinds = {field.name: kind for field in schema if (kind := _kind(field.type))}
    listed = ", ".join(schema.names)
    if wanted is not None:
        if wanted not in kinds:
            raise ConfigError(f"--image-column {wanted}: {shard} has no such image column; its columns: {listed}")
        return wanted, kinds[wanted]
    for kind in ("struct", "bytes"):
        names = [name for name, found in kinds.items() if found == kind]
        for name in [*(n for n in IMAGE_NAMES if n in names), *(names if len(names) == 1 else ())]:
            return name, kind  # type: ignore[return-value]  # one of the literals above
    for name in URI_HEADERS:
        if kinds.get(name) == "uri":
            return name, "uri"
    raise ConfigError(f"{shard}: no image column found, name one with --image-column; its columns: {listed}")


def _kind(type_: pa.DataType) -> Literal["bytes", "struct", "uri"] | None:
    if pa.types.is_struct(type_):
        return "struct" if type_.get_field_index("bytes") >= 0 else None
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return "bytes"
    return "uri" if pa.types.is_string(type_) or pa.types.is_large_string(type_) else None


def schema_of(entry: Entry) -> pa.Schema:
    """The columns of a Parquet file; raises ObjectUnreadable when it is none."""
    try:
        with storage.open_stream(entry) as stream:
            return pq.ParquetFile(stream).schema_arrow
    except pa.ArrowInvalid as error:
        raise ObjectUnreadable(f"not a Parquet file ({str(error).split('.')[0]})") from error


def kept_types(schema: pa.Schema, keep: tuple[str, ...], shard: str) -> dict[str, pa.DataType]:
    """The types of the columns to keep; a missing one raises ConfigError that lists what there is."""
    for name in keep:
        if name not in schema.names:
            raise ConfigError(f"--keep {name}: {shard} has no such column; its columns: {', '.join(schema.names)}")
    return {name: schema.field(name).type for name in keep}


def read_table(
    entry: Entry, column: str | None, keep: dict[str, pa.DataType], start: int, stop: int | None
) -> Iterator[Item]:
    """Rows [start, stop) of a Parquet file; a file that cannot be read on ends with an item for the file itself."""
    row = start
    try:
        with storage.open_stream(entry, pinned=True) as stream:
            file = pq.ParquetFile(stream)
            name, kind = image_column(file.schema_arrow, column, entry.uri)
            _check_kept(file.schema_arrow, keep, entry.uri)
            for batch in _batches(file, stream, [name, *keep], AT_ONCE[kind], start, stop):
                yield from _items(batch, entry.uri, name, kind, tuple(keep), row)
                row += len(batch)
    except (ConfigError, CredentialsLost):
        raise
    except (pa.ArrowException, OSError, ObjectUnreadable) as error:
        damaged = isinstance(error, pa.ArrowException)
        reason = "it is damaged or no Parquet file" if damaged else storage.reason(error)
        failure = ValueError(reason) if damaged else ObjectUnreadable(reason)
        yield Item(entry.uri, "", failure, {}, row)


def _check_kept(schema: pa.Schema, keep: dict[str, pa.DataType], shard: str) -> None:
    for name, type_ in keep.items():
        found = schema.field(name).type if name in schema.names else None
        if found is not None and found != type_:
            raise ConfigError(f"--keep {name}: {shard} has it as {found}, the first shard as {type_}; make them equal")


def _batches(
    file: pq.ParquetFile, stream: BinaryIO, wanted: list[str], most: int, start: int, stop: int | None
) -> Iterator[pa.RecordBatch]:
    """Record batches of up to `most` of the rows [start, stop): row groups before `start` are passed by unread."""
    names = [name for name in dict.fromkeys([*wanted, *KEY_NAMES]) if name in file.schema_arrow.names]
    last = file.metadata.num_rows if stop is None else min(stop, file.metadata.num_rows)
    begin = 0
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        end = begin + about.num_rows
        if end > start and begin < last:
            row = begin
            reader = _piecewise(file, stream) if about.total_byte_size > LARGE else file
            for batch in reader.iter_batches(most, row_groups=[group], columns=names):
                low, high = max(start - row, 0), min(last - row, len(batch))
                if low < high:
                    yield batch.slice(low, high - low)
                row += len(batch)
        begin = end


def _piecewise(file: pq.ParquetFile, stream: BinaryIO) -> pq.ParquetFile:
    """The same file for large row groups, which pyarrow holds whole: a writer's default is a million rows in one.

    Not for small ones: hopping between columns piece by piece would fetch their neighbourhood several times.
    """
    return pq.ParquetFile(stream, metadata=file.metadata, buffer_size=PIECE, pre_buffer=False)


def _items(
    batch: pa.RecordBatch, shard: str, column: str, kind: str, keep: tuple[str, ...], row: int
) -> Iterator[Item]:
    names = batch.schema.names
    images = batch.column(column).to_pylist()
    data = _fetch(images, shard) if kind == "uri" else [_bytes(image) for image in images]
    key_name = next((name for name in KEY_NAMES if name in names), None)
    keys = batch.column(key_name).to_pylist() if key_name else range(row, row + len(batch))
    kept = {name: batch.column(name).to_pylist() for name in keep if name in names}
    for index, (key, content) in enumerate(zip(keys, data, strict=True)):
        values = {name: column[index] for name, column in kept.items()}
        number = row + index
        yield Item(f"{shard}#{number}", str(number if key is None else key), content, values, offset=number)


def _bytes(image: Any) -> bytes | Exception:
    if isinstance(image, dict):
        path, image = image.get("path"), image.get("bytes")
        if image is None and path and (path.startswith("/") or "://" in path):
            return storage.try_read(path)
    return image if isinstance(image, bytes) else ObjectUnreadable("the row has no image bytes")


def _fetch(uris: list[str | None], shard: str) -> list[bytes | Exception]:
    wanted = [storage.named_in(shard, uri) for uri in uris if uri]
    contents = storage.read_many(wanted)
    known = (
        ObjectUnreadable(f"{uri}: {data}") if isinstance(data, Exception) else data
        for uri, data in zip(wanted, contents, strict=True)
    )
    return [next(known) if uri else ObjectUnreadable("the row has no URI") for uri in uris]
