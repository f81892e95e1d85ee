"""Wildcards in what the user names."""

from __future__ import annotations

import fnmatch
import re

MAGIC = re.compile(r"[*?\[]")


def glob_root(uri: str) -> tuple[str, str]:
    """The folder above the first wildcard, with its slash, and the pattern below it."""
    fixed = uri[: MAGIC.search(uri).start()]  # type: ignore[union-attr]  # the caller has seen the wildcard
    root = fixed[: fixed.rfind("/") + 1]
    return root, uri[len(root) :]


def glob_regex(pattern: str) -> str:
    """Shell rules: `*` and `?` stay within a folder, `**` crosses folders."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern)
    table = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        table.get(piece) or (_bracket(piece) if piece[:1] == "[" and len(piece) > 2 else re.escape(piece))
        for piece in pieces
    )


def _bracket(piece: str) -> str:
    """One of these letters, or with `!` none of them; in no case a slash."""
    whole = fnmatch.translate(piece)  # (?s:[...])\Z, since Python 3.14 with \z
    return "(?!/)" + whole[len("(?s:") : -len(r")\Z")]
