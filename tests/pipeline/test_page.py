"""What is on the page, for outputs of every kind and state."""

import base64
import hashlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.output import span_file
from pipeline.output.bound import bound_of
from pipeline.output.columns import schema_of
from pipeline.output.place import Place
from pipeline.output.span_file import SpanFacts
from pipeline.page import page
from pipeline.page import sample as page_sample
from pipeline.page.charts import rates
from pipeline.page.parts import duration, share
from pipeline.page.reader import fair_shares, spread
from pipeline.page.tokens import mosaic, predictions
from pipeline.plan.verify import Verification
from tests.flow import DIGITS, make_tar, png, run_here
from tests.outputs import IMAGES, TASKS, Examples, edit, model_of, newest_report
from tests.weed import Weed

EVIL = "<script>alert(1)</script>"


def text_of(output: Path, **options: Any) -> str:
    return Path(page.write(str(output), **options)).read_text()


def pixels(picture: bytes | None) -> np.ndarray:
    assert picture is not None
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=int)


@pytest.mark.parametrize("task", TASKS)
def test_page_is_one_file_that_needs_nothing_else(examples: Examples, tmp_path: Path, task: str) -> None:
    text = text_of(examples.copy(task, tmp_path))
    assert set(re.findall(r'(?:src|href)="(.{5})', text)) == {"data:"}
    assert not re.search(r"@import|url\(|<script [^>]", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in text
    assert len(text) < 3_000_000
    assert text == text_of(tmp_path)  # the same output, the same page


def test_page_tells_what_the_runs_said(examples: Examples, tmp_path: Path) -> None:
    text = text_of(examples.copy("label", tmp_path))
    assert f"Labels of {IMAGES} images" in text
    assert f"planned {IMAGES} = ok {IMAGES - 1} + failed 1, missing 0, duplicates 0" in text
    assert "Complete, 1 failed." in text
    assert "image file is truncated" in text
    assert "2 x .txt" in text
    assert text.count('class="step"') == 2


def test_every_run_on_the_page_says_on_which_device_it_was(examples: Examples, tmp_path: Path) -> None:
    output = examples.copy("label", tmp_path)
    devices = [json.loads(path.read_text())["device"] for path in sorted((output / "runs").glob("*.json"))]
    cells = re.findall(r"<td>local</td><td>\d+</td><td>(.*?)</td>", text_of(output))
    assert cells == devices[::-1]
    assert len(devices) == 2
    assert all(devices)


def test_strange_names_show_as_text(tmp_path: Path) -> None:
    model = shutil.copytree(DIGITS / "model", tmp_path / "model")
    edit(model / "config.json", id2label={str(number): EVIL for number in range(10)})
    images = [(f"{EVIL}{number}.png", png(number)) for number in range(3)]
    make_tar(tmp_path / "in/a.tar", [*images, (f"{EVIL}3.png", b"cut")])
    output = tmp_path / "out"
    assert run_here(tmp_path / "in", output, model=model, max_failed=1) == 0
    edit(output / "_run.json", task=EVIL, model={"name": EVIL}, settings={EVIL: {EVIL: EVIL}}, **{EVIL: [EVIL]})
    strange = {"mode": EVIL, "device": EVIL, "started": EVIL, "errors": {EVIL: 2}, "skipped": {EVIL: 1}}
    edit(newest_report(output), **strange, steps={EVIL: 3.0}, audit={"line": EVIL})
    text = text_of(output, verified=Verification(1, 3, 3, 0, (EVIL,)))
    assert text.count("<script") == 1
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20


def test_output_before_its_first_run_has_a_page(examples: Examples, tmp_path: Path) -> None:
    output = examples.copy("label", tmp_path)
    (output / "_SUCCESS").unlink()
    for name in ("data", "plan", "runs"):
        shutil.rmtree(output / name)
    text = text_of(output)
    assert "Unfinished: the same command continues it." in text
    assert "No run has ended yet." in text


@pytest.mark.parametrize("task", TASKS)
def test_output_in_which_everything_failed_has_a_page(tmp_path: Path, task: str) -> None:
    make_tar(tmp_path / "in/a.tar", [(f"{number}.png", b"cut") for number in range(3)])
    model, flags = model_of(task, tmp_path)
    assert run_here(tmp_path / "in", tmp_path / "out", task, model, max_failed=1, **flags) == 0
    text = text_of(tmp_path / "out")
    assert "not an image that Pillow knows" in text
    assert "100 %" in text


def test_damaged_parts_are_passed_over(examples: Examples, tmp_path: Path) -> None:
    output = examples.copy("embed", tmp_path)
    (output / "data/span-zzz.parquet").write_bytes(b"PAR1 half a file")
    (output / "runs/00000000.json").write_text("{")
    assert f"Embeddings of {IMAGES} images" in text_of(output)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_folder_that_is_no_output_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "_run.json").write_text(content)
    with pytest.raises(ConfigError, match="no output of these jobs"):
        page.write(str(tmp_path))


def test_task_unknown_to_the_page_is_shown_by_its_images(tmp_path: Path) -> None:
    image = tmp_path / "in/a.png"
    image.parent.mkdir()
    Image.new("RGB", (80, 60), "teal").save(image)
    assert run_here(image, tmp_path / "out", "brightness") == 0
    text = text_of(tmp_path / "out")
    assert "Brightness of 1 image" in text
    assert "<img" in text


def test_images_out_of_reach_are_said_to_be(tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "in/a.tar", [(f"{number}.png", png(number)) for number in range(3)])
    assert run_here(tmp_path / "in", tmp_path / "out") == 0
    shard.unlink()
    text = text_of(tmp_path / "out")
    assert text.count("cannot be read from here") == 1
    assert text.count("picture not available") == 3


def test_verification_is_on_the_page(examples: Examples, tmp_path: Path) -> None:
    examples.copy("label", tmp_path)
    good, bad = Verification(6, 361, 360, 0, ()), Verification(6, 361, 360, 1, ("a.parquet: cut",))
    assert "361 rows in 6 files, 360 ok, every URI once, none missing<" in text_of(tmp_path, verified=good)
    assert "1 row twice, none missing; 1 file damaged: a.parquet: cut" in text_of(tmp_path, verified=bad)
    assert 'class="audit bad"' in text_of(tmp_path, verified=bad)


def test_page_goes_where_it_is_told(examples: Examples, tmp_path: Path) -> None:
    output = examples.copy("label", tmp_path / "out")
    assert page.write(f"{output}/", to=str(tmp_path / "deep/page.html")) == str(tmp_path / "deep/page.html")
    assert not (output / "report.html").exists()


def test_large_output_is_sampled(tmp_path: Path) -> None:
    for shard in range(60):
        make_tar(tmp_path / f"in/{shard:02d}.tar", [(f"{shard:02d}-{n}.png", png(shard)) for n in range(4)])
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", span_size=2) == 0
    sample = page_sample.take_sample(page_sample.read_account(Place(str(tmp_path / "out"))), page.SAMPLED)
    shards, places = zip(*(row["key"].split("-") for row in sample.rows), strict=True)
    assert (sample.file_count, sample.files, len(sample.rows)) == (120, page_sample.FILES, 2 * page_sample.FILES)
    assert len(set(shards)) == page_sample.FILES
    assert min(shards) < "08"
    assert max(shards) > "45"
    assert set(places) == {"0", "1"}  # from where shards begin
    assert "Brightness of 240 images" in text_of(tmp_path / "out")


def test_long_file_is_read_in_part(examples: Examples, tmp_path: Path) -> None:
    """Written without a run, which would take a minute for so many images."""
    random = np.random.default_rng(0).normal(size=(20_000, 64))
    uris = [
        {"uri": f"/none/{n}.jpg", "key": f"{n}.jpg", "status": "ok", "width": 9, "height": 9} for n in range(20_000)
    ]
    rows = [row | {"embedding": vector.tolist()} for row, vector in zip(uris, random, strict=True)]
    table = pa.Table.from_pylist(rows, schema_of({"embedding": pa.list_(pa.float32(), 64)}, {}))
    facts = span_file.counted(SpanFacts("a", "", "1", 0, 0, 0), table)
    bound = bound_of(Place(str(examples.copy("embed", tmp_path / "other"))))
    span_file.write_span(Place(str(tmp_path)), table, facts, bound)
    account = page_sample.Account(Place(str(tmp_path)), bound, [], 0, complete=False)
    sample = page_sample.take_sample(account, page.SAMPLED)
    assert len(sample.rows) == page_sample.ROWS
    assert sample.bytes_read < (tmp_path / "data/a.parquet").stat().st_size / 2
    np.testing.assert_allclose(sample.vectors, random[: page_sample.ROWS].astype(np.float32))


@pytest.mark.usefixtures("s3_env")
def test_report_of_an_output_on_s3(weed: Weed, tmp_path: Path) -> None:
    fs, images = weed.fs(), [(f"{number}.png", png(number)) for number in range(3)]
    fs.put_file(str(make_tar(tmp_path / "a.tar", images)), "inb/digits a#1.tar")
    assert run_here("s3://inb/digits a#1.tar", "s3://outb/report-page") == 0
    fs.put_file(str(make_tar(tmp_path / "a.tar", images[:2])), "inb/digits a#1.tar")
    assert page.write("s3://outb/report-page/") == "s3://outb/report-page/report.html"
    text = storage.read("s3://outb/report-page/report.html").decode()
    assert text.count("<img") == 4  # each once in the sheet and once beside its class


def test_mosaic_tells_tokens_masks_and_hits_apart() -> None:
    tokens, masked, predicted = [5, 5, 9, 9], [True, False, True, False], [5, 1, 1, 1]
    drawn = pixels(mosaic(tokens, masked)).reshape(2, 12, 2, 12, 3)
    assert (drawn[0, :, 1] == drawn[0, 0, 1, 0]).all()
    assert (drawn[0, 0, 0] == drawn[0, 0, 1]).all()
    assert (drawn[0, 6, 0, 6] != drawn[0, 0, 0, 0]).any()
    guessed = pixels(predictions(tokens, masked, predicted)).reshape(2, 12, 2, 12, 3)
    assert guessed[0, 6, 0, 6].tolist() == [255, 255, 255]
    assert guessed[1, 6, 0, 6].tolist() == guessed[1, 0, 0, 0].tolist()


def test_decoder_adds_reconstructions(examples: Examples, tmp_path: Path) -> None:
    output = examples.copy("tokens", tmp_path)
    text = text_of(output, decoder=lambda tokens: np.zeros((len(tokens), 32, 32, 3), np.uint8))
    assert text.count("decoded from its tokens") == 18


def test_numbers_read_well() -> None:
    assert [share(value) for value in (0, 0.0001, 0.5, 0.99999, 1)] == ["0 %", "< 0.1 %", "50.0 %", "99.9 %", "100 %"]
    said = [duration(value) for value in (0.25, 59.6, 61, 3599.9, 86_399.7, float("nan"))]
    assert said == ["0.2 s", "1 min 0 s", "1 min 1 s", "1 h 0 min", "24 h 0 min", "\N{EN DASH}"]
    assert rates([[0, 0], [2, 20], [4, 20]]) == [(1, 10), (2, 10), (3, 0), (4, 0)]
    assert rates([[0, 0]]) == []


def test_samples_are_spread_and_fair() -> None:
    assert spread(iter(range(10)), 20) == (list(range(10)), 10)
    kept, count = spread(iter(range(100_000)), 10)
    assert (len(kept), count) == (10, 100_000)
    assert kept[-1] > 80_000
    assert fair_shares([1000, 5, 1000], 205) == [100, 5, 100]
    assert fair_shares([3, 4], 100) == [3, 4]
