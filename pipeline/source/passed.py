"""What a listing meets that is neither image nor shard: photos of kinds that cannot be read here, and all else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

HOW_TO_READ = "--unreadable row makes them rows, in archives of a new --output; pip install pillow-heif reads HEIC"
SHOWN = 12  # kinds named before the rest is only counted
COMPRESSED = ".avif .heic .heics .heif .hif .jxl .jxr"
RAW = ".3fr .arw .cr2 .cr3 .dng .erf .iiq .kdc .mef .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .srw .x3f"
# Kinds of photos that Pillow reads only with a plugin, or not at all; what it can read here is an image and not passed.
PHOTOS = frozenset([*COMPRESSED.split(), *RAW.split()])


class PassedBy:
    """Counts by ending: `photos` that cannot be read here, and `others`."""

    def __init__(self) -> None:
        self.photos: Counter[str] = Counter()
        self.others: Counter[str] = Counter()

    def note(self, ending: str) -> None:
        """One more file with this ending (or kind, such as `hidden`)."""
        (self.photos if ending in PHOTOS else self.others)[ending or "no ending"] += 1


def counted(kinds: Mapping[str, int]) -> str:
    """`1,200 x .heic, 3 x .mp4`, largest first; the last of many kinds are only counted."""
    ordered = Counter(kinds).most_common()
    named = [f"{count:,} x {kind or 'no ending'}" for kind, count in ordered[:SHOWN]]
    rest = len(ordered) - SHOWN
    return ", ".join(named) + (f" and {rest} more kind{'s' if rest > 1 else ''}" if rest > 0 else "")


def told(photos: Mapping[str, int], others: Mapping[str, int]) -> list[str]:
    """A line for each of both that there is any of."""
    lines = [f"photos that cannot be read here, passed by: {counted(photos)} ({HOW_TO_READ})"] if photos else []
    return [*lines, f"not images, passed by: {counted(others)}"] if others else lines
