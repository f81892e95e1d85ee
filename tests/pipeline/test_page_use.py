"""The page in use, in a real browser: tiles open, filters, copying, by keyboard; and whether small text can be read."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.page import page
from tests.browser import CHROMIUM, DESK, PHONE, Browser, browser
from tests.flow import DIGITS, make_tar, png, run_here
from tests.outputs import TASKS, Examples, edit, newest_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

EVIL = '"><img src=x onerror=document.title="harmed"><script>document.title="harmed"</script>'
# Of all text that is seen: [contrast, pixels of its font, whether it is large or bold, its beginning], the worst first.
CONTRASTS = """(() => {
  const linear = c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const over = (below, color) => {
    canvas.fillStyle = `rgb(${below.join(" ")})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim(), holder = walk.currentNode.parentElement;
    if (!text || !holder.checkVisibility() || holder.closest(".hidden, script, style, option, title")) continue;
    const style = getComputedStyle(holder), chain = [];
    for (let one = holder; one; one = one.parentElement) chain.unshift(getComputedStyle(one).backgroundColor);
    const below = chain.reduce(over, [255, 255, 255]), above = over(below, style.color);
    const [a, b] = [light(above), light(below)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || size >= 18.66 && style.fontWeight >= 700;
    found.push([(a + .05) / (b + .05), size, large, text.slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
})()"""
SMALL_TARGETS = """[...document.querySelectorAll("button, select, input, summary")].filter(one => one.checkVisibility())
  .filter(one => one.getBoundingClientRect().height < 24).map(one => one.outerHTML.slice(0, 80))"""
SEEN = "[...document.querySelectorAll('#label-sheet figure')].filter(one => !one.hidden)"


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as started:
        started.call("Emulation.setFocusEmulationEnabled", enabled=True)
        yield started


@pytest.fixture(scope="module")
def labels(examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = examples.copy("label", tmp_path_factory.mktemp("used"))
    return Path(page.write(str(output))).as_uri()


@pytest.mark.parametrize("task", TASKS)
def test_small_text_can_be_read(tab: Browser, examples: Examples, tmp_path: Path, task: str) -> None:
    url = Path(page.write(str(examples.copy(task, tmp_path)))).as_uri()
    for width, dark in ((DESK, False), (DESK, True), (PHONE, False)):
        tab.open(url, width, dark)
        tab.ask("[...document.querySelectorAll('details')].forEach(one => { one.open = true; })")
        tab.ask("document.querySelector('button.open')?.click()")
        found = tab.ask(CONTRASTS)
        assert len(found) > 40
        assert [one for one in found if one[0] < (3 if one[2] else 4.5)] == []
        assert [one for one in found if one[1] < 13] == []
        assert tab.ask(SMALL_TARGETS) == []


def test_pale_and_small_text_would_be_noticed(tab: Browser, tmp_path: Path) -> None:
    pale = tmp_path / "pale.html"
    pale.write_text('<body style="background: #fff"><p style="color: #888; font-size: 10px">pale</p><button>x</button>')
    tab.open(pale.as_uri())
    worst = tab.ask(CONTRASTS)[0]
    assert worst[0] == pytest.approx(3.54, abs=0.01)
    assert worst[1] == 10
    assert len(tab.ask(SMALL_TARGETS)) == 1


def test_a_tile_opens_by_keyboard_with_all_that_is_known(tab: Browser, labels: str) -> None:
    tab.open(labels)
    tab.ask("document.querySelector('#label-sheet button.open').focus()")
    tab.press("Enter")
    assert tab.ask("document.getElementById('opened').open")
    assert tab.ask("document.querySelectorAll('#opened .body .bars li').length") == 5
    assert tab.ask("document.querySelector('#opened .picture img').naturalWidth") > 0
    first = tab.ask("document.querySelector('#opened .uri').textContent")
    assert ".tar#" in first
    tab.press("ArrowRight")
    assert tab.ask("document.querySelector('#opened .uri').textContent") != first
    tab.press("ArrowLeft")
    assert tab.ask("document.querySelector('#opened .uri').textContent") == first
    tab.press("Escape")
    assert not tab.ask("document.getElementById('opened').open")
    assert tab.ask("document.activeElement.classList.contains('open')")
    assert tab.complaints() == []


def test_a_uri_is_copied(tab: Browser, labels: str) -> None:
    tab.open(labels)
    tab.ask("document.querySelector('#label-sheet button.open').click()")
    uri = tab.ask("document.querySelector('#opened .uri').textContent")
    tab.ask("document.querySelector('#opened .copy').focus()")
    tab.press("Enter")
    tab.ask(
        "new Promise(done => { const look = () => document.querySelector('#opened .copy').textContent === 'Copied'"
        " ? done() : setTimeout(look, 10); look(); })"
    )
    tab.call("Browser.grantPermissions", permissions=["clipboardReadWrite"])
    assert tab.ask("navigator.clipboard.readText()") == uri


def test_the_sheet_is_filtered_by_class_and_score(tab: Browser, labels: str) -> None:
    tab.open(labels)
    every = tab.ask(f"{SEEN}.length")
    tab.ask("document.querySelector('form.tools select').focus()")
    tab.press("ArrowDown")
    name = tab.ask("document.querySelector('form.tools select').value")
    assert name
    of_class = tab.ask(f"{SEEN}.length")
    assert 0 < of_class < every
    assert tab.ask(f"{SEEN}.every(one => one.dataset.class === '{name}')")
    assert tab.ask("document.querySelector('form.tools output[aria-live]').textContent") == f"{of_class} of {every}"
    tab.ask("document.querySelector('form.tools [type=reset]').click()")
    tab.ask("new Promise(done => setTimeout(done))")
    assert tab.ask(f"{SEEN}.length") == every
    tab.ask("document.querySelector('form.tools [name=least]').focus()")
    for _ in range(16):
        tab.press("ArrowRight")
    assert tab.ask(f"{SEEN}.every(one => one.dataset.score >= .8)")
    assert tab.ask(f"{SEEN}.length") < every


def test_hostile_words_stay_text(tab: Browser, tmp_path: Path) -> None:
    model = shutil.copytree(DIGITS / "model", tmp_path / "model")
    edit(model / "config.json", id2label={str(number): EVIL for number in range(10)})
    images = [(f"{EVIL.replace('/', '_').replace('.', '_')}{n}.png", png(n)) for n in range(3)]
    make_tar(tmp_path / "in/a.tar", [*images, ("cut.png", b"cut")])
    assert run_here(tmp_path / "in", tmp_path / "out", model=model, max_failed=1) == 0
    edit(newest_report(tmp_path / "out"), errors={EVIL: 1}, mode=EVIL, skipped={EVIL: 1})
    tab.open(Path(page.write(str(tmp_path / "out"))).as_uri())
    tab.ask("document.querySelector('button.open').click()")
    assert EVIL in tab.ask("document.querySelector('#opened').textContent")
    assert tab.ask("document.title") == "Labels of 4 images"
    assert tab.ask("document.querySelectorAll('img[src=x]').length") == 0
    assert len(tab.requests()) == 1
    assert tab.complaints() == []


def test_only_the_pages_own_script_runs(tab: Browser, labels: str) -> None:
    tab.open(labels)
    tab.ask("window.one = document.createElement('script')")
    tab.ask("one.textContent = 'document.title = 1', document.body.append(one)")
    tab.ask("document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"document.title = 2\">')")
    tab.ask("new Promise(done => setTimeout(done, 50))")
    assert tab.ask("document.title").startswith("Labels of")
    assert any("Content Security Policy" in str(one) for one in tab.complaints())


def test_a_task_of_ones_own_is_sorted_by_its_columns(tab: Browser, tmp_path: Path) -> None:
    make_tar(tmp_path / "in/a.tar", [(f"{n}.png", png(40 * n % 251)) for n in range(7)])
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness") == 0
    tab.open(Path(page.write(str(tmp_path / "out"))).as_uri())
    assert tab.ask("document.title") == "Brightness of 7 images"
    values = "[...document.querySelectorAll('#image-sheet figure')].map(one => Number(one.dataset.v0))"
    before = tab.ask(values)
    tab.ask("document.querySelector('form.tools select').focus()")
    tab.press("ArrowDown")
    assert tab.ask(values) == sorted(before, reverse=True) != before
    tab.press("ArrowDown")
    assert tab.ask(values) == sorted(before)
    tab.ask("document.querySelector('#image-sheet button.open').click()")
    assert "brightness" in tab.ask("document.querySelector('#opened .facts').textContent")
    assert tab.complaints() == []


def test_masks_alone_are_a_tick_away(tab: Browser, examples: Examples, tmp_path: Path) -> None:
    tab.open(Path(page.write(str(examples.copy("segment", tmp_path)))).as_uri())
    seen = "['over', 'alone'].map(kind => document.querySelector('.layers .' + kind).checkVisibility())"
    assert tab.ask(seen) == [True, False]
    tab.ask("document.querySelector('.masks-only input').focus()")
    tab.press("Space")
    assert tab.ask(seen) == [False, True]


@pytest.mark.torture
def test_a_page_of_many_photos_is_below_3_mb_and_one_file(tab: Browser, tmp_path: Path) -> None:
    """Of 5,000 rows with labels, the truth and a vector each; the pictures are hard to compress."""
    random = np.random.default_rng(0)
    photos = []
    for _ in range(400):
        small = Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8))
        into = io.BytesIO()
        small.resize((640, 480), Image.Resampling.BICUBIC).save(into, "JPEG", quality=80)
        photos.append(into.getvalue())
    members = [(f"{number}.jpg", photos[number % len(photos)]) for number in range(5000)]
    classes = [(f"{number}.cls", str(number % 1000).encode()) for number in range(5000)]
    make_tar(tmp_path / "in/a.tar", [member for pair in zip(members, classes, strict=True) for member in pair])
    assert run_here(tmp_path / "in", tmp_path / "out", keep=("cls",), with_embedding=True) == 0
    report = Path(page.write(str(tmp_path / "out")))
    assert report.stat().st_size < 3_000_000
    tab.open(report.as_uri())
    assert tab.complaints() == []
    assert tab.requests() == [report.as_uri()]
    tab.ask("document.querySelector('button.open').click()")
    assert tab.ask("document.querySelector('#opened .picture img').naturalWidth") == 512
