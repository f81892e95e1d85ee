"""One image by the `uri` of its row, wherever it lies.

    picture = open_image("s3://bucket/shard-00000.tar#0001.jpg")

For looking at single images; a run reads thousands at a time by other ways.
"""

from __future__ import annotations

import lzma
import sys
import tarfile
import zipfile
from collections.abc import Iterator

import pyarrow as pa
from PIL import Image

from pipeline import storage
from pipeline.decode.decode import endings, open_upright
from pipeline.errors import ConfigError, ObjectUnreadable
from pipeline.output.bound import Bound
from pipeline.source.format import shard_at
from pipeline.source.item import Wanted
from pipeline.storage.ranged import Meter

# What reading an image, or a file of rows, may raise that is the fault of neither the program nor the storage.
UNREADABLE = (
    *(OSError, ObjectUnreadable, ConfigError, pa.ArrowException, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError),
    *(ValueError, KeyError, IndexError, EOFError),
)


def open_image(uri: str, image_column: str | None = None) -> Image.Image:
    """The upright image, RGB, as a run sees it before it is resized: a loose one, or one in a tar, zip or Parquet.

    `image_column` is the run's `--image-column`, if it had one. Raises FileNotFoundError where there is no such image,
    and what Pillow raises for one that is damaged.
    """
    return open_upright(read_image(uri, image_column))


def read_image(uri: str, image_column: str | None = None) -> bytes:
    """The image's file as it is; arguments and FileNotFoundError as for `open_image`."""
    uri = uri if uri.startswith("/") else storage.absolute(uri)  # a member's name may hold `..`, which stays
    if storage.stat(uri) is not None:
        return storage.read(uri)
    wanted = Wanted(endings(), image_column)
    for shard, name in _cuts(uri):
        if (found := shard_at(shard)) is not None:
            entry, form = found
            for _, data in form.pick(entry, wanted, {name}, Meter(sys.maxsize)):
                return data
    raise FileNotFoundError(f"{uri}: no such image")


def wanted_by(bound: Bound) -> Wanted:
    """What an output takes from shards, as far as images go, whatever can be read here and now."""
    return Wanted(frozenset(bound.image_endings), bound.image_column)


def _cuts(uri: str) -> Iterator[tuple[str, str]]:
    """Shard and name for every `#` behind what may be a shard; names of files hold some themselves."""
    for place in (place for place, letter in enumerate(uri) if letter == "#"):
        if not uri[:place].endswith("/"):
            yield uri[:place], uri[place + 1 :]
