"""Parquet files: image bytes, Hugging Face's struct<bytes, path>, or a column of URIs. A position is a row's number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ConfigError, ObjectUnreadable, is_pyarrows
from pipeline.source.columns import IMAGE_NAMES, KEY_NAMES, URI_NAMES, known_column
from pipeline.source.item import LARGEST, Item, NoImage, Position, Unfetched, Wanted
from pipeline.source.values import as_keys, as_values, readable, unencoded, without_views
from pipeline.storage import Entry
from pipeline.storage.ranged import Meter, Ranges

Kind = Literal["bytes", "struct", "uri"]
BYTES = pa.binary(), pa.large_binary(), pa.binary_view()
TEXTS = pa.string(), pa.large_string(), pa.string_view()
AT_ONCE: dict[Kind, int] = {"uri": 64, "struct": 16, "bytes": 16}  # rows held in memory at a time
LARGE, PIECE = 64 << 20, 1 << 20  # bytes of a row group that is read piece by piece, and of such a piece
BUFFER = 1 << 18  # bytes per request where single rows are picked
PICKED = 32  # rows held in memory there


def image_column(schema: pa.Schema, wanted: str | None, shard: str) -> tuple[str, Kind]:
    """Which column holds the images, and in which form. Raises ConfigError that lists the columns if none does."""
    kinds = {field.name: kind for field in schema if (kind := _kind(field.type))}
    name = _likely_column(kinds) if wanted is None else wanted
    if name is not None and name in kinds:
        return name, kinds[name]
    listed = ", ".join(schema.names)
    if wanted is None:
        raise ConfigError(f"{shard}: no image column found, name one with --image-column; its columns: {listed}")
    raise ConfigError(f"--image-column {wanted}: {shard} has no such image column; its columns: {listed}")


def _likely_column(kinds: dict[str, Kind]) -> str | None:
    """The column that is likely the image: bytes come before URIs, and a usual name before an only candidate."""
    for kind in ("struct", "bytes"):
        names = [name for name, found in kinds.items() if found == kind]
        if name := names[0] if len(names) == 1 else known_column(names, IMAGE_NAMES):
            return name
    return known_column((name for name, found in kinds.items() if found == "uri"), URI_NAMES)


def _kind(type_: pa.DataType) -> Kind | None:
    if pa.types.is_struct(type_):
        return "struct" if type_.get_field_index("bytes") >= 0 else None
    if pa.types.is_dictionary(type_):  # a categorical of pandas
        type_ = type_.value_type
    if type_ in BYTES:
        return "bytes"
    return "uri" if type_ in TEXTS else None


def schema_of(entry: Entry) -> tuple[pa.Schema, int]:
    """The columns of a Parquet file, and how many rows it has; raises ObjectUnreadable when it is none."""
    try:
        with storage.open_stream(entry) as stream:
            file = pq.ParquetFile(stream)
            return file.schema_arrow, file.metadata.num_rows
    except pa.ArrowInvalid as error:
        raise ObjectUnreadable(f"not a Parquet file ({str(error).split('.')[0]})") from error


def kept_types(schema: pa.Schema, keep: tuple[str, ...], shard: str) -> dict[str, pa.DataType]:
    """The types of the columns to keep, without views; a missing one raises ConfigError that lists what there is."""
    for name in keep:
        if name not in schema.names:
            raise ConfigError(f"--keep {name}: {shard} has no such column; its columns: {', '.join(schema.names)}")
    return {name: _as_kept(schema.field(name).type) for name in keep}


def _repeated(schema: pa.Schema, names: Sequence[str]) -> str | None:
    """What is wrong where a column that is wanted is there several times: nobody can say which one is meant."""
    twice = next((name for name in names if schema.names.count(name) > 1), None)
    return None if twice is None else f"it has {schema.names.count(twice)} columns called {twice}: rename all but one"


def _as_kept(type_: pa.DataType) -> pa.DataType:
    """The type of a kept column: a categorical's numbers are wide enough for the words of all shards together."""
    if pa.types.is_dictionary(type_):
        return pa.dictionary(pa.int32(), without_views(type_.value_type), ordered=type_.ordered)
    return without_views(type_)


class Parquet:
    """Parquet files of any row groups."""

    endings = (".parquet", ".pq")
    mark = (0, (b"PAR1",))
    names_repeat = False
    counts_bytes = False

    def check(self, shard: Entry, wanted: Wanted) -> dict[str, pa.DataType]:
        """As in `ShardFormat`; a damaged or missing file is a row, and refuses no others unless it decides types."""
        try:
            schema, rows = schema_of(shard)
        except (ObjectUnreadable, OSError) as error:
            if not wanted.keep:
                return {}
            raise ConfigError(f"--input {shard.uri}: {storage.cause(error)}") from error
        name, _ = image_column(schema, wanted.image_column, shard.uri)
        if why := _repeated(schema, [name, *wanted.keep]):
            raise ConfigError(f"--input {shard.uri}: {why}")
        types = kept_types(schema, wanted.keep, shard.uri)
        _check_kept(schema, wanted, shard.uri)
        if not rows:
            raise NoImage(f"{shard.uri} has no rows", types, empty=True)
        return types

    def items(self, shard: Entry, wanted: Wanted, at: Position) -> Iterator[Item]:
        """As in `ShardFormat`; images behind a column of URIs come as `Unfetched`."""
        row = at.offset + at.skip
        try:
            with storage.open_stream(shard, pinned=True) as stream:
                file = pq.ParquetFile(stream)
                name, kind = image_column(file.schema_arrow, wanted.image_column, shard.uri)
                _check_kept(file.schema_arrow, wanted, shard.uri)
                if why := _repeated(file.schema_arrow, [name, *wanted.keep]):
                    yield Item(shard.uri, "", ValueError(why), {}, row)
                    return
                for batch in _batches(file, stream, [name, *wanted.keep], AT_ONCE[kind], row):
                    yield from _items(batch, shard.uri, (name, kind), wanted, row)
                    row += len(batch)
        except (pa.ArrowException, UnicodeDecodeError, OSError, ObjectUnreadable) as error:
            yield Item(shard.uri, "", _failure(error), {}, row)

    def end(self, shard: Entry, images: int) -> int:  # noqa: ARG002 - other formats count bytes
        """The number of rows."""
        return images

    def pick(self, shard: Entry, wanted: Wanted, names: set[str], meter: Meter) -> Iterator[tuple[str, bytes]]:
        """As in `ShardFormat`: the row groups that hold these rows, up to the last of them."""
        file = pq.ParquetFile(Ranges(shard, meter), buffer_size=BUFFER, pre_buffer=False)
        column, kind = image_column(file.schema_arrow, wanted.image_column, shard.uri)
        rows = sorted(int(name) for name in names)
        first = 0
        for group in range(file.num_row_groups):
            stop = first + file.metadata.row_group(group).num_rows
            inside = [row - first for row in rows if first <= row < stop]
            if inside:
                for place, image in _cells(file, group, column, inside):
                    data = _fetched(_content(image, kind, shard.uri), meter)
                    if data is not None:
                        yield str(first + place), data
            first = stop


def _failure(error: Exception) -> ValueError | ObjectUnreadable:
    """Why a file cannot be read on: of damaged pages and of encryption pyarrow tells by errors of several types."""
    if isinstance(error, ObjectUnreadable) or (isinstance(error, OSError) and not is_pyarrows(error)):
        return ObjectUnreadable(storage.reason(error))
    return ValueError("it is encrypted" if "crypt" in str(error) else "it is damaged or no Parquet file")


def _check_kept(schema: pa.Schema, wanted: Wanted, shard: str) -> None:
    for name, type_ in wanted.types.items():
        found = schema.field(name).type if schema.names.count(name) == 1 else type_
        if not pa.types.is_null(found) and type_ not in (found, _as_kept(found)):  # pandas has null where all are
            raise ConfigError(f"--keep {name}: {shard} has it as {found}, the first shard as {type_}; make them equal")


def _batches(
    file: pq.ParquetFile, stream: BinaryIO, wanted: list[str], most: int, start: int
) -> Iterator[pa.RecordBatch]:
    """Record batches of up to `most` rows from row `start` on; row groups before it are passed by unread."""
    names = [name for name in dict.fromkeys([*wanted, *KEY_NAMES]) if file.schema_arrow.names.count(name) == 1]
    begin = 0
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        end = begin + about.num_rows
        if end > start:
            row = begin
            reader = _piecewise(file, stream) if about.total_byte_size > LARGE else file
            for batch in reader.iter_batches(most, row_groups=[group], columns=names):
                if row + len(batch) > start:
                    yield batch.slice(max(start - row, 0))
                row += len(batch)
        begin = end


def _piecewise(file: pq.ParquetFile, stream: BinaryIO) -> pq.ParquetFile:
    """The same file for large row groups, which pyarrow holds whole: a writer's default is a million rows in one.

    Not for small ones: reading columns piece by piece would fetch the bytes around them several times.
    """
    return pq.ParquetFile(stream, metadata=file.metadata, buffer_size=PIECE, pre_buffer=False)


def _items(batch: pa.RecordBatch, shard: str, image: tuple[str, Kind], wanted: Wanted, row: int) -> Iterator[Item]:
    column, kind = image
    names = batch.schema.names
    key_name = next((name for name in KEY_NAMES if name in names), None)
    keys = as_keys(batch.column(key_name)) if key_name else [None] * len(batch)
    kept = {name: _kept(batch.column(name), wanted.types.get(name)) for name in wanted.keep if name in names}
    for index, (key, cell) in enumerate(zip(keys, as_values(batch.column(column)), strict=True)):
        number = row + index
        values = {name: column.slice(index, 1) for name, column in kept.items()}
        content = _content(cell, kind, shard)
        if key is None:
            key = content.uri if kind == "uri" and isinstance(content, Unfetched) else number
        name = key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)
        yield Item(f"{shard}#{number}", name, content, values, offset=number)


def _kept(column: pa.Array, type_: pa.DataType | None) -> pa.Array:
    """The column as rows keep it, of this type or else without views; of a dictionary its values."""
    column = readable(unencoded(column))
    if type_ is None or pa.types.is_dictionary(type_):
        type_ = without_views(column.type if type_ is None or not pa.types.is_null(column.type) else type_.value_type)
    return column if column.type == type_ else column.cast(type_)


def _content(cell: object, kind: Kind, shard: str) -> bytes | Unfetched | Exception:
    """What a cell of the image column holds or points to."""
    data, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
    if isinstance(data, bytes):
        return data
    if isinstance(name, str) and name:
        return Unfetched(storage.named_in(shard, name), named=True)
    return ObjectUnreadable("the row has no URI" if kind == "uri" else "the row has no image bytes")


def _cells(file: pq.ParquetFile, group: int, column: str, rows: list[int]) -> Iterator[tuple[int, object]]:
    """Values of the image column at these rows of a row group, in order; nothing behind the last is read."""
    at = 0
    for batch in file.iter_batches(PICKED, row_groups=[group], columns=[column]):
        for row in rows:
            if at <= row < at + len(batch):
                yield row, batch.column(0)[row - at].as_py()
        at += len(batch)
        if at > rows[-1]:
            return


def _fetched(content: bytes | Unfetched | Exception, meter: Meter) -> bytes | None:
    if isinstance(content, Unfetched):
        content = storage.try_read(content.uri, LARGEST)
        meter.take(len(content) if isinstance(content, bytes) else 0)
    return content if isinstance(content, bytes) else None
