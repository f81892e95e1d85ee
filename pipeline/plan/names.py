"""Names of spans. They depend on URIs only: never on when, where or by whom a span is worked on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

LOOSE_SPAN = re.compile(r"images-[0-9a-f]{24}")
SHARD_SPAN = re.compile(r"(.+-[0-9a-f]{16})-(\d{9,})")


def digest(text: str, length: int = 16) -> str:
    """Hex characters of a SHA-256: stable everywhere, unlike `hash`."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]


def shard_name(uri: str) -> str:
    """A shard's part of its spans' names: readable, safe in any file system, unique by its hash."""
    stem = uri.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return f"{re.sub(r'[^A-Za-z0-9-]+', '-', stem).strip('-')[:40] or 'shard'}-{digest(uri)}"


def span_name(shard: str, start: int) -> str:
    """The span of a shard that begins at image `start`; `shard` is what `shard_name` gave."""
    return f"{shard}-{start:09d}"


def shard_of(span: str) -> str:
    """The shard whose span it is, as `shard_name` calls it; empty for a span of loose images."""
    match = SHARD_SPAN.fullmatch(span)
    return match[1] if match else ""


def last_spans(names: Iterable[str]) -> dict[str, int]:
    """Where the last span of every shard begins, of which there is one among these names of spans."""
    last: dict[str, int] = {}
    for match in filter(None, map(SHARD_SPAN.fullmatch, names)):
        last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    return last


def images_name(uris: Sequence[str]) -> str:
    """The span of these loose images."""
    return f"images-{digest(chr(10).join(uris), 24)}"


def short_version(version: str) -> str:
    """A version as it stands in the name of a shard's entry: a digest of 8 characters."""
    return digest(version, 8)


def combined_version(uris: Sequence[str], versions: Sequence[str]) -> str:
    """The version of a span of loose images: a digest of all of theirs."""
    return digest("\n".join(pairs(uris, versions)))


def pairs(uris: Sequence[str], versions: Sequence[str]) -> list[str]:
    """URIs with their versions, as one text each."""
    return [f"{uri}\t{version}" for uri, version in zip(uris, versions, strict=True)]
