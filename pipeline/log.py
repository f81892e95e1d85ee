"""What is said while a run goes on, on standard error: a line for people, or with `--log-json` an object for programs.

Where nobody watches (a pipe, a file) each line begins with the time. With `--log-json` each has `time`, `level` (one of
`info`, `warning`, `error`) and `message`; progress has `task`, `listed`, `done`, `total`, `planning` and
`images_per_second` besides, the end of a phase `phase` and `seconds`. The result itself is on standard output.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Level = Literal["info", "warning", "error"]
QUIET_S = 1.0  # a phase that takes longer says that it goes on


@dataclass
class _Form:
    """How this process's lines are written."""

    json: bool = False
    lost: bool = False  # some of what was written to standard output


_form = _Form()


def log_as_json(wanted: bool) -> None:
    """Whether this process's lines are JSON objects."""
    _form.json = wanted


def is_json() -> bool:
    """Whether this process's lines are JSON objects."""
    return _form.json


def open_streams() -> None:
    """A stream that was closed, as by `>&-`, leads nowhere, and not to the next file that is opened.

    What standard output has no letters for, as in a terminal that is not UTF-8's, is escaped there and ends no run.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def for_people() -> bool:
    """Whether somebody watches a terminal."""
    return not _form.json and sys.stderr.isatty()


def say(text: str, level: Level = "info", **fields: object) -> None:
    """One line for the user; `fields` are for programs, which get them beside the text."""
    if _form.json:
        text = json.dumps({"time": _now(), "level": level, "message": text, **fields})
    elif not sys.stderr.isatty():
        text = f"{_now()} {text}"
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def warn(text: str) -> None:
    """One line about what the user may want to change."""
    say(text if _form.json else f"warning: {text}", "warning")


def answer(text: str) -> None:
    """One line of the result, on standard output."""
    with _heard():
        sys.stdout.write(text + "\n")


def deliver() -> bool:
    """Whether standard output has taken all of the result by now."""
    with _heard():
        sys.stdout.flush()
    return not _form.lost


@contextmanager
def _heard() -> Iterator[None]:
    """Where standard output is written: a disk that is full is said once, and is not taken for the output's.

    That nobody reads the result any more, as `head`, is no failure.
    """
    try:
        yield
    except BrokenPipeError:
        return
    except OSError as error:
        if not _form.lost:
            _form.lost = True
            why = f"standard output cannot be written ({error.strerror or error})"
            say(f"{why}: what was to be said there is lost, the work is not", "error")


@contextmanager
def hushable() -> Iterator[None]:
    """Behind the block standard output is what it was before, though `hush` was called within."""
    kept = os.dup(1)
    try:
        yield
    finally:
        deliver()
        os.dup2(kept, 1)
        os.close(kept)


def hush() -> None:
    """Nothing more on standard output: an interrupted run has no result, and Ray tells there of every actor it ends."""
    deliver()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


@contextmanager
def phase(what: str) -> Iterator[None]:
    """Say what the block does if it takes longer than a second, and then how long it took."""
    began = time.monotonic()
    told = threading.Timer(QUIET_S, say, [what])
    told.daemon = True
    told.start()
    try:
        yield
    finally:
        told.cancel()
    seconds = round(time.monotonic() - began, 1)
    if seconds >= QUIET_S:
        say(f"{what}: done in {seconds} s", phase=what, seconds=seconds)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
