"""As much of HTTP/1.1 as a proxy needs: heads, and bodies passed on piece by piece as they stand on the wire."""

from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import AsyncIterator
from dataclasses import dataclass

CHUNK = 1 << 16
NO_BODY = (204, 304)


@dataclass(frozen=True)
class Head:
    """The first lines of a request or a reply; `raw` is what to pass on."""

    raw: bytes
    first: tuple[str, str, str]
    headers: dict[str, str]

    @property
    def method(self) -> str:
        return self.first[0]

    @property
    def target(self) -> str:
        return self.first[1]

    @property
    def status(self) -> int:
        return int(self.first[1])

    @property
    def length(self) -> int | None:
        """The body's length; None where only chunks, or the end of the connection, tell it."""
        if self.chunked or "content-length" not in self.headers:
            return None
        return int(self.headers["content-length"])

    @property
    def is_last(self) -> bool:
        """True if nothing can follow this reply on its connection."""
        untold = self.length is None and not self.chunked and self.status not in NO_BODY
        return untold or self.headers.get("connection", "").lower() == "close"

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()


async def read_head(reader: StreamReader) -> Head | None:
    """The next head, or None when the other side has closed the connection."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except IncompleteReadError:
        return None
    lines = raw.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines[1:] if line)
    first, second, *third = lines[0].split(" ", 2)
    return Head(raw, (first, second, "".join(third)), {name.lower(): value.strip() for name, _, value in fields})


async def body_pieces(head: Head, reader: StreamReader) -> AsyncIterator[bytes]:
    """A reply's body as it stands on the wire (chunk sizes included)."""
    if head.chunked:
        while True:
            line = await reader.readuntil(b"\r\n")
            yield line
            size = int(line.partition(b";")[0], 16)
            async for piece in exactly(size + 2 if size else 0, reader):
                yield piece
            if not size:
                break
        while line != b"\r\n":
            line = await reader.readuntil(b"\r\n")
            yield line
    elif head.length is not None:
        async for piece in exactly(head.length, reader):
            yield piece
    else:
        while piece := await reader.read(CHUNK):
            yield piece


async def exactly(count: int, reader: StreamReader) -> AsyncIterator[bytes]:
    while count > 0:
        piece = await reader.read(min(count, CHUNK))
        if not piece:
            raise IncompleteReadError(b"", count)
        count -= len(piece)
        yield piece


async def request_body(head: Head, reader: StreamReader) -> AsyncIterator[bytes]:
    """A request without a length and without chunks has no body."""
    if head.chunked or head.length is not None:
        async for piece in body_pieces(head, reader):
            yield piece


async def whole_body(head: Head, reader: StreamReader) -> bytes:
    return b"".join([piece async for piece in request_body(head, reader)])


async def send_body(head: Head, reader: StreamReader, writer: StreamWriter) -> None:
    """A client that dies in the middle of its body takes the line to the server with it."""
    try:
        async for piece in request_body(head, reader):
            writer.write(piece)
            await writer.drain()
    except (OSError, IncompleteReadError):
        writer.transport.abort()
        raise


async def reply(writer: StreamWriter, status: str, body: bytes, kind: str, *, close: bool = False) -> None:
    fields = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    fields += ["Connection: close"] if close else []
    writer.write("\r\n".join([*fields, "", ""]).encode() + body)
    await writer.drain()
