"""URIs as text: absolute, joined, and read relative to the file that names them. Nothing is escaped or decoded."""

from __future__ import annotations

import os
import re

SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://")
HERE = ("file", "local")  # schemes of this machine
MISTAKEN = re.compile(r"/((s3a?|gs|gcs|az|abfss?|adl|hdfs|https?|file|local|memory):)/*([^/].*)?", re.IGNORECASE)


def scheme_of(uri: str) -> str:
    """`s3` of `s3://bucket/key`; empty for a path of this machine."""
    match = SCHEME.match(uri)
    return match.group(1) if match else ""


def absolute(uri: str) -> str:
    """The one spelling of a URI: `file://` and relative paths become absolute paths; a trailing slash stays."""
    if scheme_of(uri) in HERE:
        uri = uri.partition("://")[2]
        uri = uri.removeprefix("localhost") if uri.startswith("localhost/") else uri
    if SCHEME.match(uri):
        return uri
    slash = "/" if uri.endswith("/") else ""
    path = os.path.abspath(os.path.expanduser(uri)).strip("/")  # of two slashes at its beginning it leaves both
    return f"/{path}{slash}" if path else "/"


def as_text(path: str) -> str:
    r"""The URI of a path of this machine: a byte that is not UTF-8 is written `\xNN`, as columns hold UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def followed(uri: str) -> str:
    """The file that a path of this machine leads to once all links are followed; other URIs as they are."""
    return uri if SCHEME.match(uri) else os.path.realpath(uri)


def is_relative(uri: str) -> bool:
    """Whether it is a path that depends on the current folder."""
    path = uri.partition("://")[2] if scheme_of(uri) in HERE else uri
    return not SCHEME.match(path) and not path.startswith(("/", "~"))


def mistaken(path: str) -> str | None:
    """What to say of a path of this machine that is likely to have been meant as a URI; None if it is not.

    `S3://bucket` and `s3:/bucket` name folders, as a scheme is in lower case and has two slashes.
    """
    match = MISTAKEN.search(path)
    if match is None or os.path.lexists(path[: match.start(1)] + path[match.start(1) :].partition("/")[0]):
        return None
    scheme, rest = match[2].lower(), match[3] or ""
    meant = f"{scheme}://{'/' if scheme in HERE else ''}{rest}"
    return f"that is the path {path} of this machine; did you mean {meant}?"


def join(base: str, *parts: str) -> str:
    """`base/part/part`, whatever the store."""
    return "/".join([base.rstrip("/"), *parts])


def named_in(file: str, name: str) -> str:
    """The URI for a name in this file: a URI, absolute path or `~/path` as it is, else relative to the file.

    Beyond this machine too `./` and `../` at its beginning are the file's folder and those above, up to the bucket.
    """
    if SCHEME.match(name) or name.startswith(("/", "~/")):
        return absolute(name)
    folder = file[: file.rfind("/") + 1]
    if SCHEME.match(file):
        bucket = len(file.partition("://")[0]) + len("://") + len(file.partition("://")[2].partition("/")[0]) + 1
        while name.startswith(("./", "../")):
            up, _, name = name.partition("/")
            if up == "..":
                folder = folder[: max(bucket, folder.rstrip("/").rfind("/") + 1)]
    return absolute(folder + name)


def below(uri: str, root: str) -> str:
    """A folder-like URI with its trailing slash; `root` is the shortest one, to which none is added."""
    return uri if uri == root or uri.endswith("/") else uri + "/"
