"""Images that harm the process that decodes them; tests/hooks says how."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.pipeline.decode.answers import Answers


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests/hooks"))
    monkeypatch.setenv("POISON", "1")


@pytest.fixture
def gate(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder: images that wait do so until `open` is there; who has one in hand leaves its process id there."""
    request.getfixturevalue("poison")
    monkeypatch.setenv("GATE", str(tmp_path))
    return tmp_path


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails a test after which this process holds more descriptors, or has more children, than before."""
    descriptors, children = belongings()
    yield
    after = belongings()
    assert not after[0] - descriptors
    assert after[1] <= children  # others' may have ended meanwhile


def belongings() -> tuple[Counter[str], set[str]]:
    """What the descriptors of this process lead to, and its children."""
    children: set[str] = set()
    for task in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since it was listed
            children.update(Path(f"/proc/self/task/{task}/children").read_text().split())
    targets: Counter[str] = Counter()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that the listing itself had
            targets[os.readlink(f"/proc/self/fd/{descriptor}").partition(":[")[0]] += 1
    return targets, children
