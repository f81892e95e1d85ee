"""How this program was called, for messages that name a command to give."""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

NAME = "beit-batch"
INSTALLED = "beit"


@dataclass
class _Called:
    """How this process's job was started: by its file, or as a word of the installed command."""

    installed: bool = False


_called = _Called()


def called_as_installed() -> None:
    """Note that the job of this process was started by `beit`."""
    _called.installed = True


def job(name: str) -> str:
    """The beginning of the command line of one of our jobs, such as `python jobs/report.py` or `beit report`."""
    return f"{INSTALLED} {name}" if _called.installed else f"python jobs/{name}.py"


def program() -> str:
    """What errors and `--help` call this job: `label.py`, or `beit label`."""
    script = Path(sys.argv[0])
    return f"{INSTALLED} {script.stem}" if _called.installed else script.name


def version() -> str:
    """What this is and which version of it, installed or as a checkout."""
    try:
        number = importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
        number = project["project"]["version"]
    return f"{NAME} {number}"
