"""Who works on an output now: `_lease.json`, which a run renews while it lives and which expires when it does not.

Nothing's correctness rests on it: runs that all believe to have it share the work, as `--if-running join` does on
purpose. No two clocks are compared: a lease is alive if its file changes, and has expired for whoever has seen it
unchanged, by his own clock, for as long as it says.
"""

from __future__ import annotations

import errno
import json
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from pipeline import storage
from pipeline.errors import ConfigError, PipelineError
from pipeline.log import say
from pipeline.output.place import Place

IfRunning = Literal["join", "wait", "exit"]
LEASE_S = 60.0  # how long an unchanged lease counts
BEAT_S = 5.0  # between two renewals
LOOK_S = 1.0  # between two looks of a run that waits
GIVE_BACK_S = 2.0  # `ray job stop` gives a run 3 s in all


@contextmanager
def lease(place: Place, run: str, if_running: IfRunning) -> Iterator[Lease | None]:
    """Work within the block under the lease of an output. None: another run works there and this one is to exit.

    With `wait` the block begins when the lease is free; with `join` at once, and the lease is taken when it is free.
    Raises ConfigError where nothing may be written.
    """
    mine = Lease(place, run)
    try:
        is_to_work = mine.acquire(if_running)
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:  # it is the first thing that is written
            raise ConfigError(f"{place.root} cannot be written: {storage.cause(error)}") from error
        raise
    if not is_to_work:
        yield None
        return
    thread = threading.Thread(target=mine.keep, name="lease", daemon=True)
    thread.start()
    try:
        yield mine
    finally:
        mine.release()


def check_overwrite(place: Place) -> None:
    """Raise ConfigError where a living run holds the lease; waits for as long as it takes to tell."""
    watch = _Watch(place)
    if watch.look() is not None:
        say(f"--overwrite: looking whether {watch.holder} still works, which takes {watch.counts_s:.0f} s at most")
    while watch.look() is not None and not watch.expired:
        if watch.alive:
            raise ConfigError(
                f"--overwrite: {watch.holder} works on {place.root}: end it, wait for it, or choose another --output"
            )
        time.sleep(LOOK_S)


class _Watch:
    """Looks at a lease time and again to tell whether it is alive."""

    def __init__(self, place: Place) -> None:
        self.file = place.lease_file
        self.version = ""
        self.alive = False  # it has changed since the first look
        self.run, self.holder, self.counts_s = "", "another run", LEASE_S
        self._since = time.monotonic()

    def look(self) -> str | None:
        """The version of the lease as it is now, None where there is none."""
        entry = storage.stat(self.file)
        if entry is None:
            return None
        if entry.version != self.version:
            self.alive = self.version != ""
            self.version, self._since = entry.version, time.monotonic()
            self._read()
        return entry.version

    @property
    def expired(self) -> bool:
        """Whether the lease last seen has been unchanged for its time."""
        return time.monotonic() - self._since >= self.counts_s

    def _read(self) -> None:
        self.run, self.holder, self.counts_s = "", "another run", LEASE_S
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # it is free again, or nobody's
            content = json.loads(storage.read(self.file))
            self.run, self.counts_s = str(content["run"]), float(content["seconds"])
            self.holder = f"run {self.run} on {content['host']}"


class Lease:
    """The lease of one output as one run sees it, which holds it or would like to."""

    def __init__(self, place: Place, run: str) -> None:
        self.place, self.run = place, run
        self.held = False
        self.watch = _Watch(place)
        self._renewals = 0
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def acquire(self, if_running: IfRunning) -> bool:
        """Whether this run is to work; see `lease`."""
        told = False
        while not self.beat() and if_running != "join":
            if if_running == "exit" and self.watch.alive:
                return False
            if if_running == "wait" and not told:
                say(f"{self.watch.holder} has the lease of {self.place.root}: waiting for it (--if-running wait)")
                told = True
            time.sleep(LOOK_S)
        return True

    def beat(self) -> bool:
        """Renew the lease, or take it where it is free or has expired; whether it is held now."""
        version = self.watch.look()
        if version is None:
            self.held = storage.create(self.place.lease_file, self._content())
        elif self.watch.run == self.run or self.watch.expired:
            self.held = storage.replace(self.place.lease_file, self._content(), version)
        else:
            self.held = False
        return self.held

    def keep(self) -> None:
        """Renew it until it is released; for a thread. What fails is tried again: at worst the lease expires."""
        while not self._ended.wait(BEAT_S):
            with self._lock, suppress(OSError, PipelineError), storage.quick():
                if not self._ended.is_set():
                    self.beat()

    def release(self) -> None:
        """Give it back, within two seconds. Where the storage is away it expires instead."""
        self._ended.set()
        giving = threading.Thread(target=self._give_back, name="lease", daemon=True)
        giving.start()
        giving.join(GIVE_BACK_S)

    def _give_back(self) -> None:
        with self._lock, suppress(OSError, PipelineError), storage.quick():
            if self.watch.look() is not None and self.watch.run == self.run:
                storage.delete(self.place.lease_file)

    def _content(self) -> bytes:
        self._renewals += 1
        content = {"run": self.run, "host": platform.node(), "seconds": LEASE_S, "renewals": self._renewals}
        return json.dumps(content).encode()
