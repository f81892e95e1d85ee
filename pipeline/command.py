"""How this program was called, for messages that name a command to give."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

NAME = "beit-batch"
INSTALLED = "beit"
SUBMIT = ("ray", "job", "submit", "--working-dir", ".", "--")
HIDDEN = "***"
SECRET = (
    r"(?:[\w.-]*[_.-]|aws)?(?:sig|signature|token|secret|password|credentials?|key|accesskeyid)"  # what one is called
)
SECRETS = (
    re.compile(r"(://[^/@:]*:)[^/@]*(?=@)"),  # of https://user:password@host
    re.compile(r"(https?://)[^/@:]*(?=@)"),  # of https://token@host; abfs://container@account is none
    re.compile(rf"([?&]{SECRET}=)[^&#]*", re.IGNORECASE),  # of an address that is signed
    re.compile(rf"^((?:--)?{SECRET}=).*", re.IGNORECASE | re.DOTALL),  # of --tag token=..., and of a task's own flags
)


@dataclass
class _Called:
    """How this process's job was started: `word` is the one behind `beit`, empty where its file was run.

    `by_command` is whether a command line has started it, and not a program that calls us.
    """

    word: str = ""
    by_command: bool = False


_called = _Called()


def called_by_beit(word: str) -> None:
    """Note that the job of this process was started as `beit WORD`."""
    _called.word = word


def called_by_command() -> None:
    """Note that this process's command line is that of a job."""
    _called.by_command = True


def given(*, submitted: bool) -> str | None:
    """This process's command line for a shell, without secrets: as it was typed, or as `submitted` to Ray.

    None where a program has called us.
    """
    if not _called.by_command:
        return None
    flags, words = sys.argv[1:], sys.orig_argv
    typed = words[: len(words) - len(flags)] if words[len(words) - len(flags) :] == flags else ["python", sys.argv[0]]
    start = [INSTALLED, _called.word] if _called.word else typed
    return shlex.join([*(SUBMIT if submitted else ()), *start, *_without_secrets(flags)])


def _without_secrets(flags: list[str]) -> list[str]:
    shown = []
    for before, word in zip(["", *flags], flags, strict=False):
        for secret in SECRETS:
            word = secret.sub(rf"\1{HIDDEN}", word)
        shown.append(HIDDEN if re.fullmatch(f"--{SECRET}", before, re.IGNORECASE) else word)
    return shown


def job(name: str) -> str:
    """The beginning of the command line of one of our jobs, such as `python jobs/report.py` or `beit report`."""
    return f"{INSTALLED} {name}" if _called.word else f"python jobs/{name}.py"


def program() -> str:
    """What errors and `--help` call this job: `label.py`, or `beit label`."""
    return f"{INSTALLED} {_called.word}" if _called.word else Path(sys.argv[0]).name


def again(flag: str, value: str) -> str:
    """This process's own command line with another value of a flag, for a shell, without secrets."""
    words = iter(_without_secrets(sys.argv[1:]))
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
