"""Small pictures of the images that rows are about, read from where the images lie.

Nothing here fails: an image that cannot be read or drawn, or lies beyond the reading budget, is left out of the answer.
"""

from __future__ import annotations

import io
import re
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from pipeline import decode, storage, tables
from pipeline.errors import PipelineError
from pipeline.page.reader import Meter, Ranges, grouped

SHARD = re.compile(r"(?s)(.*\.(?:tar|parquet))#(.*)", re.IGNORECASE)
BUFFER = 1 << 18  # bytes per request inside a shard
READ_BUDGET = 48 << 20
EXACT = 64  # pixels a side up to which a picture is kept without loss
AT_ONCE = 8  # loose images read before the budget is looked at again
UNREADABLE = (OSError, PipelineError, pa.ArrowException, tarfile.TarError, ValueError, KeyError, IndexError, EOFError)


def split(uri: str) -> tuple[str, str]:
    """A row's uri as shard and place in it; a loose image is a place in no shard."""
    match = SHARD.fullmatch(uri)
    return (match.group(1), match.group(2)) if match else ("", uri)


def thumbnails(uris: list[str], size: int, meter: Meter | None = None) -> dict[str, bytes]:
    """For each uri whose image can be had, a PNG or JPEG of at most `size` pixels a side."""
    meter = meter or Meter(READ_BUDGET)
    groups = grouped(dict.fromkeys(uris), lambda uri: split(uri)[0])
    found: dict[str, bytes] = {}
    for done, (shard, members) in enumerate(groups.items()):
        for uri, data in _images(shard, members, meter.part(len(groups) - done)):
            small = thumbnail(data, size)
            if small:
                found[uri] = small
    return found


def _images(shard: str, uris: list[str], meter: Meter) -> Iterator[tuple[str, bytes]]:
    """The bytes of the images of one shard, until one read fails."""
    try:
        if not shard:
            yield from _loose(uris, meter)
            return
        entry = storage.stat(shard)
        if entry is None:
            return
        wanted = {split(uri)[1]: uri for uri in uris}
        read = _from_tar if shard.lower().endswith(".tar") else _from_parquet
        yield from read(entry, wanted, meter)
    except UNREADABLE:
        return


def _loose(uris: list[str], meter: Meter) -> Iterator[tuple[str, bytes]]:
    for first in range(0, len(uris), AT_ONCE):
        some = uris[first : first + AT_ONCE]
        for uri, data in zip(some, storage.read_many(some), strict=True):
            if isinstance(data, bytes):
                meter.take(len(data))
                yield uri, data


def _from_tar(entry: storage.Entry, wanted: dict[str, str], meter: Meter) -> Iterator[tuple[str, bytes]]:
    """One pass over the tar up to the last member wanted; a repeated name is `name~2`, as in the rows."""
    seen: Counter[str] = Counter()
    left = set(wanted)
    with tarfile.open(fileobj=io.BufferedReader(Ranges(entry, meter), BUFFER), mode="r:", ignore_zeros=True) as tar:
        while left and (member := tar.next()) is not None:
            if member.isdir():
                continue
            seen[member.name] += 1
            name = member.name if seen[member.name] == 1 else f"{member.name}~{seen[member.name]}"
            if name in left:
                left.discard(name)
                file = tar.extractfile(member)
                if file is not None:
                    yield wanted[name], file.read()


def _from_parquet(entry: storage.Entry, wanted: dict[str, str], meter: Meter) -> Iterator[tuple[str, bytes]]:
    """The image column's values at the rows wanted, from as few row groups as hold them."""
    file = pq.ParquetFile(Ranges(entry, meter), buffer_size=BUFFER, pre_buffer=False)
    column, _ = tables.image_column(file.schema_arrow, None, entry.uri)
    rows = {int(row): uri for row, uri in wanted.items()}
    first = 0
    for group in range(file.num_row_groups):
        stop = first + file.metadata.row_group(group).num_rows
        inside = sorted(row for row in rows if first <= row < stop)
        if inside:
            yield from _from_group(file, group, column, {row - first: rows[row] for row in inside})
        first = stop


def _from_group(file: pq.ParquetFile, group: int, column: str, rows: dict[int, str]) -> Iterator[tuple[str, bytes]]:
    at = 0
    for batch in file.iter_batches(batch_size=32, row_groups=[group], columns=[column]):
        for row in [row for row in rows if at <= row < at + batch.num_rows]:
            value = batch.column(0)[row - at].as_py()
            value = value.get("bytes") if isinstance(value, dict) else value
            data = storage.try_read(value) if isinstance(value, str) else value
            if isinstance(data, bytes):
                yield rows[row], data
        at += batch.num_rows
        if at > max(rows):
            return


def thumbnail(data: bytes, size: int) -> bytes | None:
    """An image file as a small upright one; None when it cannot be drawn."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=decode.formats())
            if image.width * image.height > decode.MAX_PIXELS:
                return None
            image.draft("RGB", (2 * size, 2 * size))
            rgb = decode.to_rgb(ImageOps.exif_transpose(image))
            rgb.thumbnail((size, size), Image.Resampling.LANCZOS)
        return encode(rgb)
    except Exception:  # Pillow's plugins raise nearly anything on bytes they do not like; see decode.py
        return None


def encode(image: Image.Image) -> bytes:
    """PNG for pictures so small that every pixel counts, else JPEG."""
    if max(image.size) <= EXACT:
        return png(image)
    into = io.BytesIO()
    image.convert("RGB").save(into, "JPEG", quality=80, optimize=True)
    return into.getvalue()


def png(image: Image.Image) -> bytes:
    """The picture exactly as it is."""
    into = io.BytesIO()
    image.save(into, "PNG", optimize=True)
    return into.getvalue()


def shrink(data: bytes, size: int) -> bytes:
    """One of our thumbnails, smaller still."""
    image = Image.open(io.BytesIO(data))
    if max(image.size) <= size:
        return data
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    return encode(image)


def dimensions(data: bytes) -> tuple[int, int]:
    """Width and height of one of our pictures."""
    return Image.open(io.BytesIO(data)).size
