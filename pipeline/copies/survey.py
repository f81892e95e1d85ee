"""What a copy lacks, and which of its files no longer fit.

A file fits while every span file that it was made from is what it was. One that does not is made anew under its own
name, so readers find no row twice; rows of new spans go into new files. Many files less than half full are merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.copies.parts import Part, Piece
from pipeline.copies.writer import FILE_BYTES
from pipeline.storage import Entry

END = 1 << 62  # behind the last row of any file
SMALL = 8  # files less than half full that are merged once there are so many


class Gap(NamedTuple):
    """Rows [start, stop) of a span's file that no fitting file holds; some of them, or all, may be behind its end."""

    span: str
    entry: Entry
    start: int
    stop: int


@dataclass(frozen=True)
class Rewrite:
    """Rows to be written in place of these files, of which there may be none, or too many."""

    targets: tuple[Entry, ...]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class Survey:
    """The files that do not fit any more, and what is to be done."""

    stale: tuple[Part, ...]
    rewrites: tuple[Rewrite, ...]

    def concerns(self, spans: Mapping[str, Entry]) -> bool:
        """Whether something is to be done about these very span files, or about files of the copy."""
        gaps = [gap for rewrite in self.rewrites for gap in rewrite.gaps]
        return any(rewrite.targets for rewrite in self.rewrites) or any(
            spans.get(gap.span) == gap.entry for gap in gaps
        )


def survey(spans: Mapping[str, Entry], parts: Iterable[Part], most: int | None = None) -> Survey:
    """Hold a copy's files against the span files by name; `most` rows may be in a file (None: any, and no merging)."""
    fit, stale = _sorted_out(spans, parts, most)
    small = _small(fit, most)
    held = _held(part for part in fit if part not in small)
    left = {name: gaps for name, entry in spans.items() if (gaps := _gaps(name, entry, held.get(name, [])))}
    rewrites = [_rewrite([part], left) for part in stale]
    if small:
        rewrites.append(_rewrite(small, left))
    if left:
        rewrites.append(Rewrite((), tuple(gap for gaps in left.values() for gap in gaps)))
    return Survey(tuple(stale), tuple(rewrites))


def _sorted_out(spans: Mapping[str, Entry], parts: Iterable[Part], most: int | None) -> tuple[list[Part], list[Part]]:
    """The files that fit and those that do not. Of two with the same rows, which a kill may leave, the larger does."""
    fit, stale = list[Part](), list[Part]()
    held: dict[str, list[Piece]] = {}
    for part in sorted(parts, key=lambda part: (-part.rows, part.entry.uri)):
        small_enough = most is None or part.rows <= most
        if small_enough and all(_is_free(piece, spans, held.get(piece.span, [])) for piece in part.pieces):
            fit.append(part)
            for piece in part.pieces:
                held.setdefault(piece.span, []).append(piece)
        else:
            stale.append(part)
    return sorted(fit, key=_name), sorted(stale, key=_name)


def _name(part: Part) -> str:
    return part.entry.uri


def _held(parts: Iterable[Part]) -> dict[str, list[Piece]]:
    """What these files hold of each span."""
    found: dict[str, list[Piece]] = {}
    for piece in (piece for part in parts for piece in part.pieces):
        found.setdefault(piece.span, []).append(piece)
    return found


def _is_free(piece: Piece, spans: Mapping[str, Entry], others: list[Piece]) -> bool:
    """Whether the span's file is still that one, and no other file holds any of these rows."""
    entry = spans.get(piece.span)
    if entry is None or entry.version != piece.version:
        return False
    if not piece.rows:  # of a span whose images are all forgotten
        return not others
    return all(piece.stop <= other.start or other.stop <= piece.start for other in others)


def _small(fit: list[Part], most: int | None) -> list[Part]:
    """Files that are to be merged."""
    if most is None:
        return []
    small = [part for part in fit if 2 * part.rows < most and 2 * part.entry.size < FILE_BYTES]
    return small if len(small) >= SMALL else []


def _gaps(name: str, entry: Entry, held: list[Piece]) -> list[Gap]:
    """The rows of a span that are in no piece."""
    if not held:
        return [Gap(name, entry, 0, END)]
    gaps, at = [], 0
    for piece in sorted(held, key=lambda piece: piece.start):
        if piece.start > at:
            gaps.append(Gap(name, entry, at, piece.start))
        at = piece.stop
    return [*gaps, Gap(name, entry, at, END)] if at < held[0].rows else gaps


def _rewrite(parts: list[Part], left: dict[str, list[Gap]]) -> Rewrite:
    """The rows that stand now where these files had some, and are then no longer left for others."""
    mine: list[Gap] = []
    for piece in sorted(piece for part in parts for piece in part.pieces):
        if piece.span in left:
            taken, left[piece.span] = _cut(left[piece.span], piece)
            mine += taken
            if not left[piece.span]:
                del left[piece.span]
    return Rewrite(tuple(part.entry for part in parts), tuple(mine))


def _cut(gaps: list[Gap], piece: Piece) -> tuple[list[Gap], list[Gap]]:
    """What of the gaps lies where the piece is, and what does not; the last piece of a span reaches on for ever."""
    begin, end = piece.start, END if piece.stop == piece.rows else piece.stop
    inside = [gap._replace(start=max(gap.start, begin), stop=min(gap.stop, end)) for gap in gaps]
    before = [gap._replace(stop=min(gap.stop, begin)) for gap in gaps]
    behind = [gap._replace(start=max(gap.start, end)) for gap in gaps]
    return [gap for gap in inside if gap.start < gap.stop], [gap for gap in before + behind if gap.start < gap.stop]
