"""Compressed tars. A position is a byte of the decompressed archive: to resume, all before it is decompressed again."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from pipeline import storage
from pipeline.source import tar
from pipeline.source.item import Wanted
from pipeline.storage import Entry
from pipeline.storage.ranged import Meter, Ranges

END = 1 << 62  # the offset behind the last image; the decompressed size is unknown
KEPT = 1 << 20  # bytes behind the reader to which it may go back
PIECE = 1 << 20


class TarGz(tar.Tar):
    """Tars compressed with gzip, read in one pass."""

    endings = (".tar.gz", ".tgz")
    mark = (0, (b"\x1f\x8b",))
    counts_bytes = False  # but of what they become

    def end(self, shard: Entry, images: int) -> int:  # noqa: ARG002 - as in `Tar`
        """An offset beyond any archive."""
        return END

    def open(self, shard: Entry) -> AbstractContextManager[BinaryIO]:
        """The decompressed bytes."""
        return _decompressed(storage.open_stream(shard, pinned=True))

    def pick(self, shard: Entry, wanted: Wanted, names: set[str], meter: Meter) -> Iterator[tuple[str, bytes]]:
        """As in `ShardFormat`; all before the last of these members is decompressed."""
        with _decompressed(io.BufferedReader(Ranges(shard, meter), tar.BUFFER)) as stream:
            yield from tar.pick_from(stream, wanted, names)


def _decompressed(stream: BinaryIO) -> BinaryIO:
    return io.BufferedReader(_Forward(stream), PIECE)


class _Forward(io.RawIOBase):
    """A gzip stream decompressed once from its start. It may go back by `KEPT` bytes, as tarfile does by one."""

    def __init__(self, compressed: BinaryIO) -> None:
        self.compressed = compressed
        self.content = gzip.GzipFile(fileobj=compressed)
        self.position = 0
        self.reached = 0  # bytes decompressed by now
        self.tail = bytearray()  # the last of them

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        while whence == io.SEEK_END and self._more(PIECE):
            pass
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.reached}[whence]
        self.position = base + offset
        return self.position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # what readers hand in
        while self.reached < self.position:
            if not self._more(min(PIECE, self.position - self.reached)):
                return 0
        back = self.reached - self.position
        if back > len(self.tail):
            raise io.UnsupportedOperation(f"a compressed tar cannot be read {back} bytes back")
        data = self.tail[len(self.tail) - back :][: len(buffer)] if back else self._more(len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def _more(self, size: int) -> bytes:
        """Decompress up to so many bytes more; empty at the end."""
        try:
            data = self.content.read1(size)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise tarfile.ReadError(f"the compressed data are damaged or cut ({error})") from error
        self.reached += len(data)
        self.tail += data
        if len(self.tail) > 2 * KEPT:  # seldom, as it moves them
            del self.tail[:-KEPT]
        return data

    def close(self) -> None:
        self.compressed.close()
        super().close()
