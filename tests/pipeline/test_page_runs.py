"""What the page says of runs: rates, failures as they are now, a column per run, the command to copy."""

import io
import re
from pathlib import Path

from PIL import Image

from pipeline.page import page
from tests.flow import make_tar, png, run_here
from tests.outputs import Examples, edit


def text_of(output: Path) -> str:
    return Path(page.write(str(output))).read_text()


def test_errors_are_those_of_now_with_pictures(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.new("RGB", (60, 40), "teal").save(whole, "PNG")
    make_tar(tmp_path / "in/a.tar", [("big.png", whole.getvalue()), ("small.png", png(9)), ("cut.png", b"cut")])
    output = tmp_path / "out"
    assert run_here(tmp_path / "in", output, "brightness", max_pixels=100, max_failed=1) == 0
    text = text_of(output)
    assert re.findall(r'<span class="name" title="(\w+)">', text) == ["too_large", "decode_error"]
    assert text.count('<td><div class="few"><button') == 1  # what is too large has a picture, what is cut has none
    assert "2 images failed, as the output is now." in text
    make_tar(tmp_path / "in/a.tar", [("big.png", png(1)), ("small.png", png(9)), ("cut.png", png(2))])
    assert run_here(tmp_path / "in", output, "brightness", max_pixels=100) == 0
    text = text_of(output)
    assert 'id="errors"' not in text
    assert "too_large" not in text


def test_rate_is_that_of_the_run_that_did_most(examples: Examples, tmp_path: Path) -> None:
    output = examples.copy("label", tmp_path)
    first, last = sorted((output / "runs").glob("*.json"))
    edit(first, images={"done": 600, "failed": 0}, seconds=10)
    edit(last, images={"done": 3, "failed": 0}, seconds=10)
    text = text_of(output)
    assert "<dt>images per second<small>of 600 images</small></dt><dd>60</dd>" in text
    assert text.count(": 600 images in 10 s</title>") == 1  # a bar per run
    assert text.count(": 3 images in 10 s</title>") == 1


def test_commands_are_there_to_copy_and_settings_are_folded(examples: Examples, tmp_path: Path) -> None:
    output = examples.copy("label", tmp_path / "a b")
    verify = f'data-copy="python jobs/report.py &#39;{output}&#39; --verify"'
    text = text_of(output)
    assert re.findall(r'data-copy="\w+ [^"]*"', text) == [verify]  # these runs had no command line
    first, last = sorted((output / "runs").glob("*.json"))
    edit(first, command="python jobs/label.py --keep 'a b'")
    edit(last, command="python jobs/label.py --overwrite")
    assert "<span>Start over: --overwrite deletes what is there</span>" in text_of(output)
    edit(last, command="python jobs/forget.py", mode="forget")
    text = text_of(output)
    assert re.findall(r'data-copy="\w+ [^"]*"', text) == [
        'data-copy="python jobs/label.py --keep &#39;a b&#39;"',
        verify,
    ]
    assert re.search(r'<section id="settings".*?<details><summary>', text)
