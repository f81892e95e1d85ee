"""The images of a simulation: loose ones and shards, which grow, change and shrink; and the rows they should have.

In a rough one there are also shards that end early, photos that some runs take for images, and objects that nobody may
read for some time.
"""

from __future__ import annotations

import hashlib
from random import Random

from tests.simulation.shards import CUT, NAMES, Member, bytes_of, uris_of
from tests.simulation.store import SimulatedStore

INPUT = "sim://bucket/in"
LOOSE = [f"{name}.png" for name in "bdfhkmpr"]
BAD = b"bad"  # how the bytes of an image begin that cannot be decoded
PHOTO = ".heic"  # what a run takes for an image only where it is told to

Row = tuple[str, str | None]  # status and answer


class Source:
    """What lies below `INPUT`. No content ever comes back after another, so that a version stands for a content."""

    def __init__(
        self, store: SimulatedStore, random: Random, changes: int, removes: float = 0.25, *, rough: str = ""
    ) -> None:
        """`removes`: how often what changes is removed. `rough`: it is, and its shards have this ending."""
        self.store, self.random, self.removes, self.rough = store, random, removes, rough
        self.count = 0
        self.loose: dict[str, bytes] = {}
        self.shards: dict[str, list[Member]] = {}
        self.away: dict[str, bytes | list[Member]] = {}  # removed; it may come back as it was
        self.met: dict[str, set[Row]] = {}  # every row that an image had at any time, by uri
        self.ever_away: set[str] = set()  # names of what was removed at any time
        self.names = [f"{name}{rough or '.tar'}" for name in NAMES]  # of shards
        self.static = False
        for name in random.sample(LOOSE, random.choice((1, 3, 6) if rough else (0, 3, 6))):
            self._set(name, self._image())
        for name in random.sample(self.names, random.choice((0, 1, 2)) if self.loose else random.choice((1, 2, 3))):
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
        if self.rough and self.random.random() < 0.4:
            return self._forbid()
        name = self.random.choice(LOOSE + self.names * 2)
        if name in self.away and self.random.random() < 0.5:
            self._set(name, self.away.pop(name))
            return f"{name} comes back"
        there = {**self.loose, **self.shards}.get(name)
        if there is None:
            self._set(name, self._members(self.random.randint(0, 7)) if name in self.names else self._image())
            return f"{name} is new"
        others = len(self.loose) - (name in self.loose) if self.rough else len(self.rows()) - _count(there)
        if self.random.random() < self.removes and others:
            self._remove(name)
            return f"{name} is removed"
        if isinstance(there, bytes):
            self._set(name, self._image())
            return f"{name} has another content"
        return self._change_shard(name, there, others)

    def _forbid(self) -> str:
        """Forbid an object, or allow one again."""
        name = self.random.choice([*self.loose, *self.shards])
        uri = f"{INPUT}/{name}"
        self.store.forbidden ^= {uri}
        return f"{name} is {'forbidden' if uri in self.store.forbidden else 'allowed'}"

    def _change_shard(self, name: str, there: list[Member], others: int) -> str:
        kind = self.random.choice(("grows", "shrinks", "is replaced"))
        if kind == "grows":
            there = [member for member in there if member != CUT] + self._members(self.random.randint(1, 4))
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
        members = [
            (f"{first % 2 if repeats else first}-{n // 2 if repeats else n}.png", self._image()) for n in range(images)
        ]
        return self._roughened(members) if self.rough else members

    def _roughened(self, members: list[Member]) -> list[Member]:
        """Some of them photos, and perhaps no end."""
        kind = self.random.choice((0.0, 0.3))
        members = [
            (name.replace(".png", PHOTO) if self.random.random() < kind else name, data) for name, data in members
        ]
        return [*members, CUT] if self.random.random() < 0.4 else members

    def _set(self, name: str, content: bytes | list[Member]) -> None:
        uri = f"{INPUT}/{name}"
        if isinstance(content, bytes):
            self.loose[name] = content
            self.store.set(uri, content)
            self.loose_changed = True
        else:
            self.shards[name] = content
            self.store.set(uri, bytes_of(name, content))
        for one, row in self.rows().items():
            self.met.setdefault(one, set()).add(row)

    def _remove(self, name: str) -> None:
        self.ever_away.add(name)
        self.loose_changed |= name in self.loose
        self.away[name] = self.loose.pop(name) if name in self.loose else self.shards.pop(name)
        self.store.remove(f"{INPUT}/{name}")

    def last(self, name: str) -> bytes | None:
        """The last content of a loose image, also of one that is removed."""
        found = self.loose.get(name, self.away.get(name))
        return found if isinstance(found, bytes) else None

    def rows(self) -> dict[str, Row]:
        """Status and answer of every image as the source is now, by uri."""
        found = {f"{INPUT}/{name}": row_of(content) for name, content in self.loose.items()}
        for name, members in self.shards.items():
            for member, content in uris_of(name, members):
                found[f"{INPUT}/{name}#{member}"] = row_of(content)
            if CUT in members:
                found[f"{INPUT}/{name}"] = ("decode_error", None)
        return found


def row_of(content: bytes) -> Row:
    """What becomes of an image with these bytes."""
    return ("decode_error", None) if content.startswith(BAD) else ("ok", answer(content))


def answer(content: bytes) -> str:
    """What the simulated model says of an image."""
    return hashlib.sha256(content).hexdigest()[:12]


def _count(there: bytes | list[Member]) -> int:
    return 1 if isinstance(there, bytes) else len(there)
