"""Spans: runs of consecutive images, the unit of work, of commit and of resume. Names depend on URIs only."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

SPAN_BYTES = 256 << 20  # decoded pixels of one span at most
MOST, LEAST = 4096, 32  # images of one span; fewer than `LEAST` would pad most of a batch
PIECES = 32  # spans that a small source is cut into, so that it spreads and commits as it goes
TYPICAL_IMAGE = 100_000  # bytes of an image in a shard, as long as only the shard's size is known


@dataclass(frozen=True)
class Span:
    """One row of the Ray dataset: a known span, or an unread shard (or the rest of one) when `stop` is None.

    `source` is the shard's URI, or that of the plan part which lists the images; `start` and `stop` count images in it.
    `offset` and `skip` say where `start` is found in a tar: the byte of a sample, and images of that sample to pass by.
    `redo` writes finished spans again: "failed" their failed rows, "changed" those in `changed`; other rows are copied.
    An unread shard also knows how many images of it are wanted (`most`, 0: all), the `number` of the plan entry it will
    get, and what the latest one says (`known`), so that a second look adds no second entry.
    """

    kind: str  # "images", or the name of a shard's format
    source: str
    name: str
    version: str
    start: int
    stop: int | None
    size: int = 0
    offset: int = 0
    skip: int = 0
    redo: str = ""
    changed: tuple[str, ...] = ()
    most: int = 0
    number: int = 0
    known: str = ""

    def to_table(self) -> pa.Table:
        """As a dataset block of one row; only plain columns travel."""
        return pa.Table.from_pylist([{**asdict(self), "changed": list(self.changed)}], SPAN_SCHEMA)

    @staticmethod
    def from_row(row: dict[str, Any]) -> Span:
        """The inverse of `to_table`, for one row."""
        return Span(**{**row, "changed": tuple(row["changed"])})


SPAN_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("kind", "source", "name", "version")]
    + [(name, pa.int64()) for name in ("start", "stop", "size")]
    + [("offset", pa.int64()), ("skip", pa.int64()), ("redo", pa.string())]
    + [("changed", pa.list_(pa.string())), ("most", pa.int64()), ("number", pa.int64()), ("known", pa.string())]
)


def digest(text: str, length: int = 16) -> str:
    """Hex characters of a SHA-256: stable everywhere, unlike `hash`."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]


def shard_name(uri: str) -> str:
    """A shard's part of its spans' names: readable, safe in any file system, unique by its hash."""
    stem = uri.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return f"{re.sub(r'[^A-Za-z0-9-]+', '-', stem).strip('-')[:40] or 'shard'}-{digest(uri)}"


def span_name(shard: str, start: int) -> str:
    """The span of a shard that begins at image `start`."""
    return f"{shard}-{start:09d}"


def images_name(uris: list[str]) -> str:
    """The span of these loose images."""
    return f"images-{digest(chr(10).join(uris), 24)}"


def auto_span_size(bytes_per_image: int, images: int | None) -> int:
    """Images per span: about 256 MiB decoded at most, less for a source known to be small (`images`; None: large).

    Depends on the source and the model's image size, never on workers; a multiple of 32 so that batches come out even.
    """
    most = max(1, min(MOST, SPAN_BYTES // max(1, bytes_per_image)))
    if images is None:
        return most if most < LEAST else most // LEAST * LEAST
    wanted = max(LEAST, -(-images // PIECES // LEAST) * LEAST)
    return min(most, wanted)
