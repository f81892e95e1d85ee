"""The shards of a simulation: tars, and in rough ones also compressed tars and zips."""

from __future__ import annotations

import gzip
import io
import tarfile
import warnings
import zipfile
from functools import cache

Member = tuple[str, bytes]
CUT: Member = ("", b"")  # in place of an archive's end: what is behind is lost
NAMES = ["c", "g", "q"]
ENDINGS = (".tar", ".tgz", ".zip")
BLOCK = 1024  # a header and a small file; and the mark at the end


def read_of(name: str, members: list[Member]) -> list[Member]:
    """What a reader can get at: of a zip without an end nothing."""
    if CUT not in members:
        return members
    return [] if name.endswith(".zip") else members[: members.index(CUT)]


def bytes_of(name: str, members: list[Member]) -> bytes:
    """The archive, of the kind that its name tells, ended by no more than its mark, if it has an end."""
    return _bytes_of(name.rpartition(".")[2], tuple(members))


@cache
def _bytes_of(kind: str, members: tuple[Member, ...]) -> bytes:
    there = members[: members.index(CUT)] if CUT in members else members
    if kind == "zip":
        whole = _zip(there)
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


def _zip(members: tuple[Member, ...]) -> bytes:
    sink = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(sink, "w") as archive:
        warnings.simplefilter("ignore", UserWarning)  # names that come twice
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return sink.getvalue()
