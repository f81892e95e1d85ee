"""Rows to Parquet files of bounded size, in row groups that suit a scan over vectors or pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.copies.parts import Part, Piece

FILE_BYTES = 512 << 20  # encoded, after which a file is ended; it is held in memory until then
GROUP_BYTES, GROUP_ROWS = 64 << 20, 122_880  # of a row group, not encoded; 60 vectors of DuckDB's


class Chunk(NamedTuple):
    """Some rows of a span's file, in order; `lost[i]`: the picture of row i could not be read.

    So many rows of the same gap follow `behind` it.
    """

    piece: Piece
    table: pa.Table
    lost: tuple[bool, ...] = ()
    behind: int = 0

    @property
    def is_nothing(self) -> bool:
        """Whether it is an empty piece of a span that has rows; a span without rows has one, which is noted."""
        return self.piece.start == self.piece.stop and self.piece.start + self.piece.rows > 0

    def cut(self, rows: int) -> tuple[Chunk, Chunk]:
        """The first rows, and the others."""
        middle = self.piece.start + rows
        first, second = self.piece._replace(stop=middle), self.piece._replace(start=middle)
        others = self.table.slice(rows)
        return (
            Chunk(first, self.table.slice(0, rows), self.lost[:rows], len(others) + self.behind),
            Chunk(second, others, self.lost[rows:], self.behind),
        )


def files(chunks: Iterable[Chunk], most: int) -> Iterator[tuple[bytes, int]]:
    """Whole files of at most so many rows, and how many each has. Gaps that fit into a file are not cut."""
    file: _File | None = None
    for chunk in chunks:
        if chunk.is_nothing:
            continue
        if file is not None and not file.takes(chunk):
            yield file.close()
            file = None
        left: Chunk | None = chunk
        while left is not None:
            file = file or _File(chunk.table.schema, most)
            left = file.add(left)
            if file.full:
                yield file.close()
                file = None
    if file is not None:
        yield file.close()


class _File:
    def __init__(self, schema: pa.Schema, most: int) -> None:
        self.most, self.rows, self.lost = most, 0, 0
        self.pieces: list[Piece] = []
        self.sink = io.BytesIO()  # pyarrow's own doubles, and has to be copied at the end
        self.writer = pq.ParquetWriter(self.sink, schema, compression="zstd")
        self.group: list[pa.Table] = []
        self.group_rows = self.group_bytes = 0

    @property
    def full(self) -> bool:
        return self.rows >= self.most or self.sink.tell() >= FILE_BYTES

    def takes(self, chunk: Chunk) -> bool:
        """Whether the gap that begins with this chunk may be put behind what is there."""
        if self.pieces and self.pieces[-1].span == chunk.piece.span:
            return True
        gap = len(chunk.table) + chunk.behind  # not the span: small parts of large ones would never be merged
        return self.rows + gap <= self.most and self.sink.tell() < FILE_BYTES * 3 // 4

    def add(self, chunk: Chunk) -> Chunk | None:
        """Take as many rows as fit into this row group, and return the others."""
        rows, size = len(chunk.table), chunk.table.nbytes
        room = min(self.most - self.rows, GROUP_ROWS - self.group_rows)
        if size:
            room = min(room, max(1, rows * (GROUP_BYTES - self.group_bytes) // size))
        mine, others = chunk.cut(room) if room < rows else (chunk, None)
        self._note(mine.piece)
        self.lost += sum(mine.lost)
        self.rows += len(mine.table)
        self.group.append(mine.table)
        self.group_rows += len(mine.table)
        self.group_bytes += mine.table.nbytes
        if others is not None or self.group_bytes >= GROUP_BYTES or self.group_rows >= GROUP_ROWS:
            self._flush()
        return others

    def _note(self, piece: Piece) -> None:
        last = self.pieces[-1] if self.pieces else None
        if last and last._replace(stop=piece.stop) == piece._replace(start=last.start) and last.stop == piece.start:
            self.pieces[-1] = last._replace(stop=piece.stop)
        else:
            self.pieces.append(piece)

    def _flush(self) -> None:
        if self.group:
            self.writer.write_table(pa.concat_tables(self.group).combine_chunks(), row_group_size=GROUP_ROWS)
        self.group, self.group_rows, self.group_bytes = [], 0, 0

    def close(self) -> tuple[bytes, int]:
        self._flush()
        self.writer.add_key_value_metadata(Part.said(tuple(self.pieces), self.lost))
        self.writer.close()
        data = self.sink.getvalue()
        self.sink.close()  # else both files would be in memory while the next one grows
        return data, self.rows


def with_images(schema: pa.Schema, names: Iterable[str]) -> pa.Schema:
    """The schema with the word of Hugging Face's `datasets` that these columns are images."""
    features = {name: {"_type": "Image"} for name in names}
    return schema.with_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})
