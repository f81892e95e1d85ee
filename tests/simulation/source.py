"""The images of a simulation: loose ones and tars, which grow, change and shrink; and the rows they should have."""

from __future__ import annotations

import hashlib
import io
import tarfile
from random import Random

from pipeline.source.item import Names
from tests.simulation.store import SimulatedStore

INPUT = "sim://bucket/in"
LOOSE = [f"{name}.png" for name in "bdfhkmpr"]
TARS = ["c.tar", "g.tar", "q.tar"]
BAD = b"bad"  # how the bytes of an image begin that cannot be decoded

Row = tuple[str, str | None]  # status and answer
Member = tuple[str, bytes]


class Source:
    """What lies below `INPUT`. No content ever comes back after another, so that a version stands for a content."""

    def __init__(self, store: SimulatedStore, random: Random, changes: int, removes: float = 0.25) -> None:
        """`removes`: how often what changes is removed."""
        self.store, self.random, self.removes = store, random, removes
        self.count = 0
        self.loose: dict[str, bytes] = {}
        self.tars: dict[str, list[Member]] = {}
        self.away: dict[str, bytes | list[Member]] = {}  # removed; it may come back as it was
        self.met: dict[str, set[Row]] = {}  # every row that an image had at any time, by uri
        self.ever_away: set[str] = set()  # names of what was removed at any time
        self.static = False
        for name in random.sample(LOOSE, random.choice((0, 3, 6))):
            self._set(name, self._image())
        for name in random.sample(TARS, random.choice((0, 1, 2)) if self.loose else random.choice((1, 2, 3))):
            self._set(name, self._members(random.randint(0, 7)))
        if not self.rows():
            self._set(LOOSE[0], self._image())
        self.static, self.loose_changed = not changes, False
        self.at = sorted(random.randint(1, 200) for _ in range(changes))  # requests before each change

    def meanwhile(self, requests: int) -> str | None:
        """Make the change that is due by now, if one is; says what it was."""
        if not self.at or requests < self.at[0]:
            return None
        self.at.pop(0)
        return self.change()

    def change(self) -> str:
        """One change of any kind."""
        name = self.random.choice(LOOSE + TARS * 2)
        if name in self.away and self.random.random() < 0.5:
            self._set(name, self.away.pop(name))
            return f"{name} comes back"
        there = {**self.loose, **self.tars}.get(name)
        if there is None:
            self._set(name, self._members(self.random.randint(0, 7)) if name in TARS else self._image())
            return f"{name} is new"
        others = len(self.rows()) - (1 if isinstance(there, bytes) else len(there))
        if self.random.random() < self.removes and others:
            self._remove(name)
            return f"{name} is removed"
        if isinstance(there, bytes):
            self._set(name, self._image())
            return f"{name} has another content"
        return self._change_tar(name, there, others)

    def _change_tar(self, name: str, there: list[Member], others: int) -> str:
        kind = self.random.choice(("grows", "shrinks", "is replaced"))
        if kind == "grows":
            there = there + self._members(self.random.randint(1, 4))
        elif kind == "shrinks" and others:
            there = there[: self.random.randint(0, max(0, len(there) - 1))]
        else:
            there = self._members(max(1, len(there)))
        self._set(name, there)
        return f"{name} {kind}, to {len(there)} images"

    def _image(self) -> bytes:
        self.count += 1
        return (BAD if self.random.random() < 0.1 else b"good") + b"%d" % self.count

    def _members(self, images: int) -> list[Member]:
        first = self.count
        repeats = self.random.random() < 0.15
        return [
            (f"{first % 2 if repeats else first}-{n // 2 if repeats else n}.png", self._image()) for n in range(images)
        ]

    def _set(self, name: str, content: bytes | list[Member]) -> None:
        uri = f"{INPUT}/{name}"
        if isinstance(content, bytes):
            self.loose[name] = content
            self.store.set(uri, content)
            self.loose_changed = True
        else:
            self.tars[name] = content
            self.store.set(uri, tar_of(content))
        for one, row in self.rows().items():
            self.met.setdefault(one, set()).add(row)

    def _remove(self, name: str) -> None:
        self.ever_away.add(name)
        self.loose_changed |= name in self.loose
        self.away[name] = self.loose.pop(name) if name in self.loose else self.tars.pop(name)
        self.store.remove(f"{INPUT}/{name}")

    def last(self, name: str) -> bytes | None:
        """The last content of a loose image, also of one that is removed."""
        found = self.loose.get(name, self.away.get(name))
        return found if isinstance(found, bytes) else None

    def rows(self) -> dict[str, Row]:
        """Status and answer of every image as the source is now, by uri."""
        found = {f"{INPUT}/{name}": row_of(content) for name, content in self.loose.items()}
        for name, members in self.tars.items():
            names = Names()
            for member, content in members:
                found[f"{INPUT}/{name}#{names.unique(member)}"] = row_of(content)
        return found


def row_of(content: bytes) -> Row:
    """What becomes of an image with these bytes."""
    return ("decode_error", None) if content.startswith(BAD) else ("ok", answer(content))


def answer(content: bytes) -> str:
    """What the simulated model says of an image."""
    return hashlib.sha256(content).hexdigest()[:12]


def tar_of(members: list[Member]) -> bytes:
    """A tar of these members, ended by no more than its mark."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()[: 1024 * (len(members) + 1)]
