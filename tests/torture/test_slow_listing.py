"""Work begins while a source of 200,000 objects is still listed, a page of 1,000 keys every 0.2 s."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow import DIGITS, png
from tests.slow_listing import SlowListing, slow_listing
from tests.torture.conftest import Tally
from tests.torture.proof import more_than, start, wait_until

pytestmark = [pytest.mark.torture, pytest.mark.timeout(300)]
PAGES = 200


@pytest.fixture
def listing() -> Iterator[SlowListing]:
    with slow_listing(PAGES * 1000, 0.2, png(9)) as found:
        yield found


@pytest.mark.parametrize(("mode", "most"), [(["--local"], 60), (["--workers", "2"], PAGES)], ids=["local", "ray"])
def test_the_first_image_is_predicted_while_the_source_is_listed(
    mode: list[str], most: int, listing: SlowListing, tmp_path: Path, tally: Tally
) -> None:
    command = ["--input", "s3://many/photos/", "--output", tmp_path / "out", "--model", DIGITS / "model", *mode]
    job = start(*command, env=listing.env)
    assert wait_until(more_than(tmp_path / "out", 1), job), job.communicate()[0]
    pages = listing.pages
    job.terminate()
    job.communicate()
    tally(f"first span written ({mode[0]}): page {pages} of {PAGES} asked for", injected=0, lost=0, duplicated=0)
    assert pages < most
