"""The report in a real browser: nothing is missing, nothing is fetched, nothing sticks out."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.page import page
from tests.browser import CHROMIUM, DESK, PHONE, Browser, browser
from tests.outputs import TASKS, Examples

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

MISSING = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
OVERFLOW = "document.scrollingElement.scrollWidth - window.innerWidth"
UNNAMED = "document.querySelectorAll('img:not([alt]), svg:not([aria-label], [aria-hidden])').length"
LUMINANCE = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.mark.parametrize("task", TASKS)
def test_report_in_chromium(tab: Browser, examples: Examples, tmp_path: Path, task: str) -> None:
    url = Path(page.write(str(examples.copy(task, tmp_path)))).as_uri()
    for width, dark in ((DESK, False), (PHONE, True)):
        tab.open(url, width, dark)
        assert tab.complaints() == []
        assert tab.requests() == [url]
        assert tab.ask("document.images.length + document.querySelectorAll('svg image').length") > 20
        assert tab.ask(MISSING) == 0
        assert tab.ask(UNNAMED) == 0
        assert tab.ask(OVERFLOW) <= 0
        assert (tab.ask(LUMINANCE) < 128) == dark


def test_browser_would_notice(tab: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="absent.png"><script>console.error(1)</script><p style="width: 3000px">x</p>')
    tab.open(bad.as_uri(), PHONE)
    assert tab.complaints()
    assert len(tab.requests()) == 2
    assert tab.ask(MISSING) == 1
    assert tab.ask(UNNAMED) == 1


def test_screenshot_shows_the_whole_page(tab: Browser, examples: Examples, tmp_path: Path) -> None:
    tab.open(Path(page.write(str(examples.copy("label", tmp_path)))).as_uri(), PHONE)
    tab.screenshot(tmp_path / "shot.png")
    assert (tmp_path / "shot.png").stat().st_size > 50_000
