"""The shards of a simulation: tars, and in rough ones also compressed tars, zips and Parquet files."""

from __future__ import annotations

import gzip
import io
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.source.item import Names

Member = tuple[str, bytes]
CUT: Member = ("", b"")  # in place of an archive's end: what is behind is lost
NAMES = ["c", "g", "q"]
ENDINGS = (".tar", ".tgz", ".zip", ".tar", ".tgz", ".zip", ".tar", ".parquet", ".zip", ".tar")  # by a seed's last digit
BLOCK = 1024  # a header and a small file; and the mark at the end


def read_of(name: str, members: list[Member]) -> list[Member]:
    """What a reader can get at: nothing of what has its directory at its end, and no end."""
    if CUT not in members:
        return members
    return [] if name.endswith((".zip", ".parquet")) else members[: members.index(CUT)]


def uris_of(name: str, members: list[Member]) -> Iterator[tuple[str, bytes]]:
    """What can be read, by the part of its URI behind the `#`."""
    names = Names()
    for number, (member, content) in enumerate(read_of(name, members)):
        yield str(number) if name.endswith(".parquet") else names.unique(member), content


def bytes_of(name: str, members: list[Member]) -> bytes:
    """The archive, of the kind that its name tells, ended by no more than its mark, if it has an end."""
    return _bytes_of(name.rpartition(".")[2], tuple(members))


@cache
def _bytes_of(kind: str, members: tuple[Member, ...]) -> bytes:
    there = members[: members.index(CUT)] if CUT in members else members
    if kind in ("zip", "parquet"):
        whole = _zip(there) if kind == "zip" else _parquet(there)
        return whole[: -len(whole) // 3] if CUT in members else whole
    blocks = _tar(there)[: BLOCK * (len(there) + (CUT not in members))]
    if kind == "tar":
        return blocks
    # Each block by itself, so that all before a cut can be read.
    return b"".join(gzip.compress(blocks[at : at + BLOCK], 1, mtime=0) for at in range(0, len(blocks), BLOCK))


def _tar(members: tuple[Member, ...]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def _parquet(members: tuple[Member, ...]) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"image": pa.array([content for _, content in members], pa.binary())})
    pq.write_table(table, sink, row_group_size=2)
    whole: bytes = sink.getvalue().to_pybytes()
    return whole


def _zip(members: tuple[Member, ...]) -> bytes:
    sink = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(sink, "w") as archive:
        warnings.simplefilter("ignore", UserWarning)  # names that come twice
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return sink.getvalue()
