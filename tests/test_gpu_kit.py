"""The checks for accelerators, on this machine's device with small models: a machine with a GPU runs `make gpu`."""

from pathlib import Path

import pytest

from tests.gpu.__main__ import parts, tried

JOBS = "the four tasks"


def test_every_check_holds_on_any_device(tmp_path: Path) -> None:
    """All but the jobs, which other tests run."""
    found = [check for title, part in parts(tmp_path, small=True) if title != JOBS for check in tried(title, part)]
    assert [check for check in found if check.holds is False] == []
    assert len([check for check in found if check.holds]) >= 11
    assert [check.name for check in found if "images/s" in check.value]


@pytest.mark.torture
def test_the_jobs_hold_as_well(tmp_path: Path) -> None:
    (part,) = [part for title, part in parts(tmp_path, small=True) if title == JOBS]
    assert {check.holds for check in tried(JOBS, part)} == {True}
