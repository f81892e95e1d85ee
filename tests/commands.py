"""Command lines of docs and manifests, taken apart by the jobs' own parsers; nothing is run."""

import argparse
import runpy
import shlex
import sys
from pathlib import Path

import _cli

import pytest

from pipeline.config import RunConfig
from tests.helpers import ROOT

TASKS = ("embed", "label", "segment", "tokens")


class Parsed(Exception):
    """The flags of a command that could be parsed."""


def words_of(command: str) -> list[str]:
    """`label --input ...` of `python jobs/label.py --input ...`, or of `/opt/beit/bin/beit label --input ...`."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    start = next(i for i, word in enumerate(words) if Path(word).name in ("beit", "python"))
    return [Path(words[start + 1]).name.removesuffix(".py"), *words[start + 2 :]]


def flags_of(words: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The flags of a job, with its first word; fails as the job would, before it does anything."""

    def parsed(_: object, parser: argparse.ArgumentParser, **__: object) -> None:
        raise Parsed(vars(parser.parse_args(words[1:])))

    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", [f"jobs/{words[0]}.py", *words[1:]])
        patched.setattr(_cli, "run_simple", parsed)
        with pytest.raises(Parsed) as found:
            runpy.run_path(str(ROOT / f"jobs/{words[0]}.py"), run_name="__main__")
    flags: dict[str, object] = found.value.args[0]
    if words[0] in TASKS:
        RunConfig(**_cli._pick(RunConfig, flags))  # which refuses values that cannot work
    return flags
