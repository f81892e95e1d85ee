"""A proxy in front of an S3 server that fails on purpose: `python -m tests.faults --upstream PORT --port PORT`.

Rules are set with PUT /__faults__ (a JSON list of objects with the fields of `Rule`) and read back, with their hits,
by GET. GET /__counts__ tells what was asked for, how many body bytes GETs delivered and how many clients are connected;
DELETE sets the first two to zero.
Host passes through untouched, because the clients' signatures cover it. The first live rule that matches is applied.
"""

import argparse
import asyncio
import json
import struct
import threading
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, NoReturn
from urllib.parse import unquote

from tests.http1 import CHUNK, NO_BODY, Head, body_pieces, read_head, reply, send_body, whole_body
from tests.rules import REPLIES, Rule

COUNTS, FAULTS = "/__counts__", "/__faults__"


@dataclass(frozen=True)
class Exchange:
    """One request, the fault it meets (if any), and the line to the client."""

    head: Head
    rule: Rule | None
    reader: StreamReader
    writer: StreamWriter

    @property
    def kind(self) -> str:
        return self.rule.kind if self.rule else ""

    @property
    def key(self) -> str:
        return unquote(self.head.target.partition("?")[0]).lstrip("/")


class CutError(Exception):
    """The client's connection ends here, by a reset or in the plain way."""

    def __init__(self, *, reset: bool) -> None:
        self.reset = reset


class Proxy:
    """The rules, the counts, and one coroutine for each client connection."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.rules: list[Rule] = []
        self.requests: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.clients = 0

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.clients += 1
        try:
            with suppress(OSError, IncompleteReadError, asyncio.CancelledError):  # the client hung up, or we are ending
                await self.converse(reader, writer)
        finally:
            self.clients -= 1
        writer.close()

    async def converse(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while (head := await read_head(reader)) and await self.answer(head, reader, writer):
                pass
        except CutError as end:
            await asyncio.sleep(0.05)  # what was sent should arrive before the reset does
            if end.reset:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, linger)
                writer.transport.abort()

    async def answer(self, head: Head, reader: StreamReader, writer: StreamWriter) -> bool:
        """Answer one request; True if its connection may be used again."""
        if head.target in (COUNTS, FAULTS):
            state = self.control(head, await whole_body(head, reader))
            await reply(writer, "200 OK", json.dumps(state).encode(), "application/json")
            return True
        rule = next((rule for rule in self.rules if rule.fits(head)), None)
        exchange = Exchange(head, rule, reader, writer)
        self.requests[f"{head.method} {exchange.key}"] += 1
        if rule is not None:
            rule.hits += 1
            if rule.kind in REPLIES:
                return await refuse(exchange)
            await delay(rule, reader)
        return await self.forward(exchange)

    def control(self, head: Head, body: bytes) -> object:
        if head.method == "PUT":
            self.rules = [Rule(**rule) for rule in json.loads(body)]
        if head.method == "DELETE":
            self.requests.clear()
            self.bytes.clear()
        others = self.clients - 1  # beside the one that asks
        counts = {"requests": dict(self.requests), "bytes": dict(self.bytes), "clients": others}
        return counts if head.target == COUNTS else [asdict(rule) for rule in self.rules]

    async def forward(self, exchange: Exchange) -> bool:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream, limit=CHUNK)
        up_writer.write(exchange.head.raw)
        # In a task of its own: a client that says `Expect: 100-continue` gives its body only after the first reply.
        sending = asyncio.create_task(send_body(exchange.head, exchange.reader, up_writer))
        try:
            answer = await final_head(up_reader, exchange.writer)
            if answer is None or exchange.kind == "lost":
                raise CutError(reset=exchange.kind == "lost")
            if exchange.rule is not None and exchange.kind == "mute":
                await silence(exchange.rule, exchange.reader)
            exchange.writer.write(answer.raw)
            if exchange.head.method != "HEAD" and answer.status not in NO_BODY:
                await self.pass_body(exchange, answer, up_reader)
            await exchange.writer.drain()
            return sending.done() and not answer.is_last
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            up_writer.close()

    async def pass_body(self, exchange: Exchange, answer: Head, up_reader: StreamReader) -> None:
        counted = exchange.head.method == "GET" and answer.status in (200, 206)
        async for piece in faulty(exchange, body_pieces(answer, up_reader)):
            exchange.writer.write(piece)
            await exchange.writer.drain()
            self.bytes[exchange.key] += len(piece) * counted


async def final_head(up_reader: StreamReader, writer: StreamWriter) -> Head | None:
    answer = await read_head(up_reader)
    while answer is not None and answer.status < 200:
        writer.write(answer.raw)
        answer = await read_head(up_reader)
    return answer


async def refuse(exchange: Exchange) -> bool:
    """An error in S3's form. A client that waits for leave to send its body never gets it: the line then closes."""
    status, code = REPLIES[exchange.kind]
    waits = exchange.head.headers.get("expect", "").lower() == "100-continue"
    if not waits:
        await whole_body(exchange.head, exchange.reader)
    xml = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected: {exchange.kind}</Message></Error>'
    body = b"" if exchange.head.method == "HEAD" else xml.encode()
    await reply(exchange.writer, status, body, "application/xml", close=waits)
    return not waits


async def delay(rule: Rule, reader: StreamReader) -> None:
    """The faults that strike before the server is asked."""
    if rule.kind == "rst":
        raise CutError(reset=True)
    if rule.kind == "latency":
        await asyncio.sleep(rule.secs)
    if rule.kind == "stall" and not rule.after:
        await silence(rule, reader)


async def silence(rule: Rule, reader: StreamReader) -> NoReturn:
    """Say nothing until the time is over or the client gives up."""
    rule.silences += 1
    with suppress(TimeoutError):
        async with asyncio.timeout(rule.secs):
            while await reader.read(CHUNK):
                pass
    raise CutError(reset=False)


async def faulty(exchange: Exchange, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The body's pieces with what the rule does to them."""
    rule, sent = exchange.rule, 0
    async for piece in pieces:
        if rule is not None and rule.kind == "slow":
            step = max(1, rule.bps // 10)
            for start in range(0, len(piece), step):
                yield piece[start : start + step]
                await asyncio.sleep(min(step, len(piece)) / rule.bps)
        elif rule is not None and rule.kind in ("midrst", "trunc", "stall"):
            part = piece[: rule.after - sent]
            sent += len(part)
            yield part
            if sent >= rule.after:
                await (silence(rule, exchange.reader) if rule.kind == "stall" else asyncio.sleep(0))
                raise CutError(reset=rule.kind == "midrst")
        else:
            yield piece


@dataclass(frozen=True)
class FaultProxy:
    """The tests' end of a running proxy."""

    port: int

    def env(self, env: dict[str, str]) -> dict[str, str]:
        """The same credentials, by way of the proxy."""
        return env | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def fail(self, *rules: Rule) -> None:
        """Replace all rules by these; none at all means a faultless proxy."""
        self.ask("PUT", FAULTS, json.dumps([asdict(rule) for rule in rules]))

    def hits(self) -> list[int]:
        """How often each rule struck, in the order they were given."""
        return [rule["hits"] for rule in self.ask("GET", FAULTS)]

    def silences(self) -> list[int]:
        """How many requests each rule has left without a word."""
        return [rule["silences"] for rule in self.ask("GET", FAULTS)]

    def clients(self) -> int:
        """Connections of clients; 0 once the last request of a killed one is carried out or dropped."""
        return int(self.ask("GET", COUNTS)["clients"])

    def requests(self) -> dict[str, int]:
        """Number of requests by "METHOD bucket/key"."""
        return dict(self.ask("GET", COUNTS)["requests"])

    def bytes(self) -> dict[str, int]:
        """Body bytes that GETs delivered, by "bucket/key"."""
        return dict(self.ask("GET", COUNTS)["bytes"])

    def reset(self) -> None:
        self.fail()
        self.ask("DELETE", COUNTS)

    def ask(self, method: str, target: str, body: str | None = None) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, target, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


async def start(upstream: int, port: int = 0) -> asyncio.Server:
    return await asyncio.start_server(Proxy(upstream).serve, "127.0.0.1", port, limit=CHUNK)


async def stop(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def serving(starting: Coroutine[Any, Any, asyncio.Server]) -> Iterator[int]:
    """The port of a server in a thread of this process, for as long as the block lasts."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(starting, loop).result(10)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def fault_proxy_server(upstream: int, port: int = 0) -> Iterator[FaultProxy]:
    """A proxy for as long as the block lasts."""
    with serving(start(upstream, port)) as found:
        yield FaultProxy(found)


async def serve_for_ever(upstream: int, port: int) -> None:
    async with await start(upstream, port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", type=int, required=True, help="port of the real server on 127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    asyncio.run(serve_for_ever(**vars(parser.parse_args())))
