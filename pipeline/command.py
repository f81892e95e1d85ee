"""How this program was called, for messages that name a command to give."""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

NAME = "beit-batch"
INSTALLED = "beit"


@dataclass
class _Called:
    """How this process's job was started: `word` is the one behind `beit`, empty where its file was run."""

    word: str = ""


_called = _Called()


def called_by_beit(word: str) -> None:
    """Note that the job of this process was started as `beit WORD`."""
    _called.word = word


def job(name: str) -> str:
    """The beginning of the command line of one of our jobs, such as `python jobs/report.py` or `beit report`."""
    return f"{INSTALLED} {name}" if _called.word else f"python jobs/{name}.py"


def program() -> str:
    """What errors and `--help` call this job: `label.py`, or `beit label`."""
    return f"{INSTALLED} {_called.word}" if _called.word else Path(sys.argv[0]).name


def again(flag: str, value: str) -> str:
    """This process's own command line with another value of a flag, for a shell."""
    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        if word == flag:
            next(words, None)
        elif not word.startswith(f"{flag}="):
            kept.append(word)
    start = program() if _called.word else f"python {shlex.quote(sys.argv[0])}"
    return f"{start} {shlex.join([*kept, flag, value])}"


def version() -> str:
    """What this is and which version of it, installed or as a checkout."""
    try:
        number = importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
        number = project["project"]["version"]
    return f"{NAME} {number}"
