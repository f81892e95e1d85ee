"""An S3 server of one bucket of very many equal images, whose listing is slow: a page of 1,000 keys takes its time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PAGE = 1000
ITEM = "<Contents><Key>photos/{:09d}.png</Key><Size>{}</Size><ETag>&quot;e&quot;</ETag></Contents>"
LISTING = (
    '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>many</Name>'
    "<KeyCount>{}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>{}</IsTruncated>{}{}</ListBucketResult>"
)


@dataclass
class SlowListing:
    """`keys` images below s3://many/photos/; `pages` are how often a page was asked for since the last `begin`."""

    keys: int
    page_s: float
    image: bytes
    port: int = 0
    pages: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        }  # fmt: skip

    def page(self, first: int) -> str:
        """The page that begins with key number `first`; a listing begins with the first page."""
        with self.lock:
            self.pages = self.pages + 1 if first else 1
        time.sleep(self.page_s)
        stop = min(first + PAGE, self.keys)
        items = "".join(ITEM.format(number, len(self.image)) for number in range(first, stop))
        more = f"<NextContinuationToken>{stop}</NextContinuationToken>" if stop < self.keys else ""
        return LISTING.format(stop - first, "true" if more else "false", more, items)


class Handler(BaseHTTPRequestHandler):
    """Answers listings and whole images; signatures are not looked at."""

    protocol_version = "HTTP/1.1"
    listing: SlowListing

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if "list-type" in query:
            self.reply(self.listing.page(int(query.get("continuation-token", ["0"])[0])).encode(), "application/xml")
        else:
            self.reply(self.listing.image, "image/png")

    def reply(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), ("ETag", '"e"')):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line for each of very many requests."""


@contextmanager
def slow_listing(keys: int, page_s: float, image: bytes) -> Iterator[SlowListing]:
    """The server on loopback, for as long as the block lasts."""
    found = SlowListing(keys, page_s, image)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfOne", (Handler,), {"listing": found}))
    server.daemon_threads = True
    found.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
