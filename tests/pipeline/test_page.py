"""What is on the page, for outputs of every kind and state."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.output.columns import schema_of
from pipeline.output.place import Place
from pipeline.page import page
from pipeline.page import sample as page_sample
from pipeline.page.charts import rates
from pipeline.page.embed import nearest, plane
from pipeline.page.parts import duration, share
from pipeline.page.reader import fair_shares, spread
from pipeline.page.segment import overlay, palette
from pipeline.page.tokens import mosaic, predictions
from pipeline.plan.verify import Verification
from tests.outputs import LABELS, TASKS, example, put, run_report, setup, write_output, write_span
from tests.weed import Weed

EVIL = "<script>alert(1)</script>"


def text_of(output: Path, **options: Any) -> str:
    return Path(page.write(str(output), **options)).read_text()


def row(number: int, **values: Any) -> dict[str, Any]:
    return {"uri": f"/none/{number}.jpg", "key": f"{number}.jpg", "status": "ok", "width": 9, "height": 9} | values


def labelled(number: int, name: str = "cat", score: float = 0.75) -> dict[str, Any]:
    return row(number, label_ids=[1], labels=[name], scores=[score])


def pixels(picture: bytes | None) -> np.ndarray:
    assert picture is not None
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=int)


@pytest.mark.parametrize("task", TASKS)
def test_page_is_one_file_that_needs_nothing_else(tmp_path: Path, task: str) -> None:
    text = text_of(example(tmp_path, task))
    assert set(re.findall(r'(?:src|href)="(.{5})', text)) == {"data:"}
    assert not re.search(r"<script|@import|url\(", text)
    assert len(text) < 4_000_000
    assert text == text_of(tmp_path)  # the same output, the same page


def test_page_tells_what_the_runs_said(tmp_path: Path) -> None:
    text = text_of(example(tmp_path, "label"))
    assert "Labels of 361 images" in text
    assert "361 planned = 360 ok + 1 failed; nothing missing, nothing twice" in text
    assert "Complete: every planned image" in text
    assert "OSError: image file is truncated" in text
    assert "2 x .txt" in text
    assert text.count('class="step"') == 2


def test_strange_names_show_as_text(tmp_path: Path) -> None:
    rows = [labelled(i, name=EVIL) | {"key": EVIL, "uri": f"/x/{EVIL}{i}.jpg"} for i in range(3)]
    rows.append(row(9, status=EVIL, error=EVIL, uri=EVIL))
    output = write_output(tmp_path, "label", rows, LABELS)
    put(output / "_run.json", setup(EVIL) | {"model": {"name": EVIL}, EVIL: [EVIL], "settings": {EVIL: {EVIL: EVIL}}})
    strange = {"mode": EVIL, "device": EVIL, "started": EVIL, "errors": {EVIL: 2}, "skipped": {EVIL: 1}}
    more = {"steps": {EVIL: 3.0}, "audit": {"line": EVIL}}
    put(output / "runs/20261123-000000-ffff.json", run_report("20261123-000000-ffff", "", 4) | strange | more)
    text = text_of(output, verified=Verification(1, 3, 3, 0, (EVIL,)))
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20


def test_output_before_its_first_run_has_a_page(tmp_path: Path) -> None:
    put(tmp_path / "_run.json", setup("label"))
    text = text_of(tmp_path)
    assert "Unfinished: the same command continues it." in text
    assert "No run has ended yet." in text


def test_output_in_which_everything_failed_has_a_page(tmp_path: Path) -> None:
    columns = LABELS | {"embedding": pa.list_(pa.float16(), 4), "mask": pa.binary(), "tokens": pa.list_(pa.int16(), 4)}
    rows = [row(i, status="decode_error", error="OSError: cut") for i in range(3)]
    text = text_of(write_output(tmp_path, "label", rows, columns))
    assert "OSError: cut" in text
    assert "100 %" in text


def test_damaged_parts_are_passed_over(tmp_path: Path) -> None:
    output = example(tmp_path, "embed")
    (output / "data/span-zzz.parquet").write_bytes(b"PAR1 half a file")
    (output / "runs/20261124-000000-eeee.json").write_text("{")
    assert "Embeddings of 361 images" in text_of(output)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_folder_that_is_no_output_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "_run.json").write_text(content)
    with pytest.raises(ConfigError, match="no output of these jobs"):
        page.write(str(tmp_path))


def test_task_unknown_to_the_page_is_shown_by_its_images(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (80, 60), "teal").save(image)
    rows = [row(1, uri=str(image), beauty=0.5)]
    text = text_of(write_output(tmp_path / "out", "beauty", rows, {"beauty": pa.float32()}))
    assert "beauty of 1 image" in text
    assert "<img" in text


def test_images_out_of_reach_are_said_to_be(tmp_path: Path) -> None:
    text = text_of(write_output(tmp_path, "label", [labelled(i) for i in range(3)], LABELS))
    assert text.count("cannot be read from here") == 1
    assert text.count("picture not available") == 3


def test_verification_is_on_the_page(tmp_path: Path) -> None:
    example(tmp_path, "label")
    good, bad = Verification(6, 361, 360, 0, ()), Verification(6, 361, 360, 1, ("a.parquet: cut",))
    assert "361 rows in 6 files, 360 ok, every URI once, none missing<" in text_of(tmp_path, verified=good)
    assert "1 row twice, none missing; 1 file damaged: a.parquet: cut" in text_of(tmp_path, verified=bad)
    assert 'class="audit bad"' in text_of(tmp_path, verified=bad)


def test_page_goes_where_it_is_told(tmp_path: Path) -> None:
    output = example(tmp_path / "out", "label")
    assert page.write(f"{output}/", to=str(tmp_path / "deep/page.html")) == str(tmp_path / "deep/page.html")
    assert not (output / "report.html").exists()


def test_large_output_is_sampled(tmp_path: Path) -> None:
    schema = schema_of(LABELS, {})
    for shard in range(60):
        for start in (0, 30):
            rows = [labelled(shard * 100 + start + i) for i in range(30)]
            write_span(tmp_path, f"s{shard:04d}-{start:09d}", rows, schema, start)
    put(tmp_path / "_run.json", setup("label"))
    last = run_report("20261122-000000-aaaa", "2026-11-22T00:00:00", 10_000_000)
    last["images"] |= {"planned": 10_000_000, "ok": 10_000_000, "failed": 0}
    put(tmp_path / "runs/20261122-000000-aaaa.json", last)
    sample = page_sample.take_sample(Place(str(tmp_path)))
    shards = sorted({int(row["uri"][6:-4]) // 100 for row in sample.rows})
    assert (sample.file_count, sample.files, len(sample.rows)) == (120, page_sample.FILES, 360)
    assert len(shards) == page_sample.FILES
    assert shards[0] < 8
    assert shards[-1] > 45
    assert all(int(row["uri"][6:-4]) % 100 < 30 for row in sample.rows)  # from where shards begin
    assert "Labels of 10,000,000 images" in text_of(tmp_path)


def test_long_file_is_read_in_part(tmp_path: Path) -> None:
    random = np.random.default_rng(0).normal(size=(20_000, 64))
    rows = [row(i, embedding=vector.tolist()) for i, vector in enumerate(random)]
    schema = schema_of({"embedding": pa.list_(pa.float32(), 64)}, {})
    write_span(tmp_path, "a", rows, schema)
    sample = page_sample.take_sample(Place(str(tmp_path)))
    assert len(sample.rows) == page_sample.ROWS
    assert sample.bytes_read < (tmp_path / "data/a.parquet").stat().st_size / 2
    np.testing.assert_allclose(sample.vectors, random[: page_sample.ROWS].astype(np.float32))


def test_report_of_an_output_on_s3(weed: Weed, s3_env: dict[str, str], tmp_path: Path) -> None:
    assert s3_env
    fs = weed.fs()
    shard = "inb/digits a#1.tar"
    fs.put_file(str(TASKS["label"][1] / "digits-00000.tar"), shard)
    rows = [labelled(0) | {"uri": f"s3://{shard}#{key}.png"} for key in ("1496", "0188", "absent")]
    fs.put(str(write_output(tmp_path / "out", "label", rows, LABELS)), "outb/report-page", recursive=True)
    assert page.write("s3://outb/report-page/") == "s3://outb/report-page/report.html"
    text = storage.read("s3://outb/report-page/report.html").decode()
    assert text.count("<img") == 2


def test_nearest_are_the_most_similar_others() -> None:
    unit = np.array([[1, 0], [0, 1], [0.8, 0.6], [0.6, 0.8]], dtype=np.float32)
    order, cosines = nearest(unit, 5)
    assert order.tolist() == [[2, 3, 1], [3, 2, 0], [3, 0, 1], [2, 1, 0]]
    np.testing.assert_allclose(cosines[0], [0.8, 0.6, 0], atol=1e-6)


@pytest.mark.parametrize("vectors", [np.eye(3), np.zeros((3, 8)), np.ones((4, 1)), np.arange(12.0).reshape(6, 2)])
def test_map_lies_in_the_unit_square(vectors: np.ndarray) -> None:
    places, explained = plane(vectors)
    assert places.shape == (len(vectors), 2)
    assert places.min() >= 0
    assert places.max() <= 1
    assert 0 <= explained <= 1 + 1e-9


def test_overlay_has_the_colours_of_the_palette() -> None:
    mask = Image.fromarray(np.array([[0, 1]], dtype=np.uint8).repeat(40, 0).repeat(20, 1))
    mask.putpalette([0, 0, 0, 250, 50, 0])
    data, photo = io.BytesIO(), io.BytesIO()
    mask.save(data, "PNG")
    Image.new("RGB", (20, 20), (100, 100, 100)).save(photo, "PNG")
    drawn = pixels(overlay(photo.getvalue(), data.getvalue(), 192))
    assert palette(data.getvalue())[1] == "#fa3200"
    assert drawn[5, 15].tolist() == pytest.approx([190, 70, 40], abs=2)
    assert drawn[5, 5].tolist() == pytest.approx([40, 40, 40], abs=2)
    assert pixels(overlay(None, data.getvalue(), 192)).shape == (40, 40, 3)
    assert overlay(None, b"no mask", 192) is None


def test_mosaic_tells_tokens_masks_and_hits_apart() -> None:
    tokens, masked, predicted = [5, 5, 9, 9], [True, False, True, False], [5, 1, 1, 1]
    drawn = pixels(mosaic(tokens, masked)).reshape(2, 12, 2, 12, 3)
    assert (drawn[0, :, 1] == drawn[0, 0, 1, 0]).all()
    assert (drawn[0, 0, 0] == drawn[0, 0, 1]).all()
    assert (drawn[0, 6, 0, 6] != drawn[0, 0, 0, 0]).any()
    guessed = pixels(predictions(tokens, masked, predicted)).reshape(2, 12, 2, 12, 3)
    assert guessed[0, 6, 0, 6].tolist() == [255, 255, 255]
    assert guessed[1, 6, 0, 6].tolist() == guessed[1, 0, 0, 0].tolist()


def test_decoder_adds_reconstructions(tmp_path: Path) -> None:
    output = example(tmp_path, "tokens")
    text = text_of(output, decoder=lambda tokens: np.zeros((len(tokens), 32, 32, 3), np.uint8))
    assert text.count("decoded from its tokens") == 12


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
