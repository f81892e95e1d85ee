"""Thumbnails of the images of rows, read from the source.

Nothing here fails: an image that cannot be read or drawn, or lies beyond the reading budget, is left out of the answer.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from PIL import Image

from pipeline import storage
from pipeline.decode.decode import MAX_PIXELS, formats, to_rgb, upright
from pipeline.errors import StorageError
from pipeline.images import UNREADABLE
from pipeline.page.reader import grouped
from pipeline.source.format import shard_at
from pipeline.source.item import Wanted
from pipeline.storage.ranged import Meter

READ_BUDGET = 48 << 20
EXACT = 64  # pixels a side up to which a picture is kept without loss
AT_ONCE = 8  # loose images read before the budget is looked at again
LARGEST_SHOWN = 64 << 20  # bytes of a loose image that is drawn on the page


@dataclass(frozen=True)
class Pictured:
    """An image to be shown: the uri of its row, and the shard it lies in (empty for a loose image)."""

    uri: str
    shard: str

    @property
    def name(self) -> str:
        """What the image is called within its shard."""
        return self.uri.removeprefix(f"{self.shard}#")


def originals(images: list[Pictured], wanted: Wanted, meter: Meter) -> dict[str, bytes]:
    """By uri, the files of the images that can be had; the meter bounds what they take in memory."""
    groups = grouped(dict.fromkeys(images), lambda image: image.shard)
    found: dict[str, bytes] = {}
    for done, (shard, members) in enumerate(groups.items()):
        found.update(_images(shard, members, wanted, meter.part(len(groups) - done)))
    return found


def drawn(files: Mapping[str, bytes], size: int) -> dict[str, bytes]:
    """By uri, a PNG or JPEG of at most `size` pixels a side of each image file that can be drawn."""
    return {uri: small for uri, data in files.items() if (small := thumbnail(data, size))}


def thumbnails(images: list[Pictured], size: int, wanted: Wanted, meter: Meter | None = None) -> dict[str, bytes]:
    """Both in one: by uri, the thumbnails of the images that can be had."""
    return drawn(originals(images, wanted, meter or Meter(READ_BUDGET)), size)


def _images(shard: str, images: list[Pictured], wanted: Wanted, meter: Meter) -> Iterator[tuple[str, bytes]]:
    """The bytes of the images of one shard, until one read fails."""
    try:
        if not shard:
            yield from _loose([image.uri for image in images], meter)
            return
        if (found := shard_at(shard)) is None:
            return
        entry, form = found
        uris = {image.name: image.uri for image in images}
        for name, data in form.pick(entry, wanted, set(uris), meter):
            yield uris[name], data
    except (*UNREADABLE, StorageError):  # of the source: the output can be read
        return


def _loose(uris: list[str], meter: Meter) -> Iterator[tuple[str, bytes]]:
    for first in range(0, len(uris), AT_ONCE):
        some = uris[first : first + AT_ONCE]
        for uri, data in zip(some, storage.read_many(some, LARGEST_SHOWN), strict=True):
            if isinstance(data, bytes):
                meter.take(len(data))
                yield uri, data


def thumbnail(data: bytes, size: int) -> bytes | None:
    """An image file as a small upright one; None when it cannot be drawn."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=formats())
            if image.width * image.height > MAX_PIXELS:
                return None
            image.draft("RGB", (2 * size, 2 * size))
            rgb = to_rgb(upright(image))
            rgb.thumbnail((size, size), Image.Resampling.LANCZOS)
        return encode(rgb)
    except Exception:  # Pillow's plugins raise many types of errors; see decode.py
        return None


def encode(image: Image.Image) -> bytes:
    """PNG for pictures so small that every pixel counts, else JPEG."""
    if max(image.size) <= EXACT:
        return png(image)
    into = io.BytesIO()
    image.convert("RGB").save(into, "JPEG", quality=72, optimize=True)
    return into.getvalue()


def png(image: Image.Image) -> bytes:
    """The picture exactly as it is."""
    into = io.BytesIO()
    image.save(into, "PNG", optimize=True)
    return into.getvalue()


def shrink(data: bytes, size: int) -> bytes:
    """One of our pictures, smaller still; what is small already stays as it is."""
    image = Image.open(io.BytesIO(data))
    if max(image.size) <= size:
        return data
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    return encode(image)


def dot(data: bytes, size: int) -> bytes:
    """One of our pictures as a small JPEG, for a map of hundreds."""
    into = io.BytesIO()
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    image.save(into, "JPEG", quality=60, optimize=True)
    return into.getvalue()


def dimensions(data: bytes) -> tuple[int, int]:
    """Width and height of one of our pictures."""
    return Image.open(io.BytesIO(data)).size
