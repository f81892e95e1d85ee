"""The checks for accelerators, on this machine's device with small models: a machine with a GPU runs `make gpu`."""

from pathlib import Path

import pytest

from tests.gpu.__main__ import parts, tried

SLOW = ("the four tasks", "throughput", "a run")


def test_what_must_hold_on_a_device_holds_on_this_one(tmp_path: Path) -> None:
    found = [check for title, part in parts(tmp_path, small=True) if title not in SLOW for check in tried(title, part)]
    assert [check for check in found if check.holds is False] == []
    assert len([check for check in found if check.holds]) >= 11


@pytest.mark.torture
def test_jobs_and_measurements_work_as_well(tmp_path: Path) -> None:
    found = [check for title, part in parts(tmp_path, small=True) if title in SLOW for check in tried(title, part)]
    assert [check for check in found if check.holds is False] == []
    assert [check.name for check in found if "images/s" in check.value]
