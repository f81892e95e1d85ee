"""What a machine cannot compute is said before an output is begun."""

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from tests.flow import DIGITS, run_here


def test_a_batch_whose_pixels_no_memory_holds_is_refused(tmp_path: Path) -> None:
    said = r"--batch-size 1000000000: the pixels of one batch take 11,444 GiB, and this machine has \d+: give less"
    with pytest.raises(ConfigError, match=said):
        run_here(DIGITS / "shards", tmp_path / "out", batch_size=10**9)
    assert not (tmp_path / "out").exists()
