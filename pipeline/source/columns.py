"""Which column of a table holds the images, by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable

IMAGE_NAMES = ("image", "img", "image_bytes", "bytes", "jpg", "jpeg", "png", "webp", "data", "content")
KEY_NAMES = ("key", "id", "__key__")
THINGS = ("image", "img", "photo", "picture", "pic")
WHERE = ("uri", "url", "path", "file", "filename", "filepath", "link", "location", "src")
# Of two that a table has, the first here counts: `image_url` is surer than `url`, which may be a page's.
URI_NAMES = (
    *(f"{thing}_{where}" for thing in THINGS for where in WHERE),
    *("uri", "url", "path", *THINGS, "file", "filename", "filepath", "src", "href", "location", "key"),
)


def known_column(names: Iterable[str], usual: Iterable[str]) -> str | None:
    """The first of the usual names that is there, whatever its case and punctuation: `imageUrl`, `Image URL`."""
    there: dict[str, str] = {}
    for name in names:
        there.setdefault(_plain(name), name)
    return next((there[plain] for name in usual if (plain := _plain(name)) in there), None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
