"""Pictures resized by torch: how far from Pillow's, and the same bytes wherever they are computed."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image

from beit_core import PixelSpec
from pipeline.decode.child import BYTES_PER_PIXEL, HEADROOM
from pipeline.decode.decode import DecodeSettings, centre, decode
from pipeline.decode.pool import DecodePool
from pipeline.decode.process import Child, Undecoded
from pipeline.decode.resize import resized
from tests.helpers import ROOT
from tests.photos import crop, jpegs, originals
from tests.pipeline.decode.answers import Answers, coloured

LANCZOS, BILINEAR, BICUBIC = 1, 2, 3
PHOTO, PORTRAIT = (375, 500), (500, 375)
# Before and after, (height, width).
USUAL = [
    *((before, (side, side)) for before in (PHOTO, PORTRAIT) for side in (224, 256, 384)),
    ((480, 640), (224, 224)),
    ((640, 427), (384, 384)),
    ((1200, 1600), (224, 224)),
]
# Among them those whose height shrinks by far more than their width: there Pillow takes the two passes the other way.
ODD = [
    (PORTRAIT, (224, 370)),
    ((1000, 100), (64, 90)),
    ((1000, 100), (64, 200)),
    ((100, 1000), (90, 64)),
    ((100, 1000), (200, 64)),
    ((1600, 301), (299, 224)),
    (PHOTO, (374, 499)),
    (PHOTO, (8, 8)),
    ((75, 300), (224, 224)),
    ((320, 320), (256, 256)),
    ((40, 31), (30, 31)),
    ((17, 23), (5, 1)),
    ((2, 3), (1, 2)),
    ((2, 3), (30, 2)),
    ((300, 1), (7, 1)),
    ((1, 300), (1, 7)),
]


def pictures(size: tuple[int, int]) -> Iterator[Image.Image]:
    rng = np.random.default_rng(size)
    for photo in originals():
        for _ in range(3):
            yield crop(photo, rng, size[1], size[0])


def by_pillow(picture: Image.Image, size: tuple[int, int], resample: int) -> np.ndarray:
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling(resample)))


def differences(before: tuple[int, int], size: tuple[int, int], resample: int) -> np.ndarray:
    """|torch - Pillow| of photographs, (N, *size, 3)."""
    found = []
    for picture in pictures(before):
        pixels = resized(picture, size, resample)
        found.append(np.abs(pixels.astype(int) - by_pillow(picture, size, resample)))
    return np.stack(found)


@pytest.mark.parametrize("resample", [BILINEAR, BICUBIC])
@pytest.mark.parametrize(("before", "size"), USUAL)
def test_of_usual_photographs_few_bytes_are_one_step_off(
    before: tuple[int, int], size: tuple[int, int], resample: int
) -> None:
    difference = differences(before, size, resample)
    assert difference.shape[1:] == (*size, 3)
    assert (difference > 0).mean() <= 0.005
    assert (difference > 1).mean() <= 1e-5
    assert difference.max() <= 2


@pytest.mark.parametrize("resample", [BILINEAR, BICUBIC])
@pytest.mark.parametrize(("before", "size"), ODD)
def test_odd_shapes_stay_close_too(before: tuple[int, int], size: tuple[int, int], resample: int) -> None:
    difference = differences(before, size, resample)
    assert difference.shape[1:] == (*size, 3)
    assert (difference > 0).sum() <= max(4, 0.045 * difference.size)
    assert (difference > 1).sum() <= 1e-4 * difference.size
    assert difference.max() <= 2


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        (PixelSpec(resize=(224, 224)), False),
        (PixelSpec(resize=(224, 224), resample=BILINEAR), False),
        (PixelSpec(resize=256, crop=(224, 224)), False),
        (PixelSpec(resize=100, crop=(224, 90)), False),
        (PixelSpec(resize=(224, 224), resample=LANCZOS), True),
        (PixelSpec(resize=(224, 224), resample=0), True),
        (PixelSpec(resize=(374, 1000)), False),
        (PixelSpec(resize=(1000, 499), resample=BILINEAR), False),
        (PixelSpec(resize=(375, 501)), True),
        (PixelSpec(resize=(384, 512)), True),
        (PixelSpec(resize=(375, 500)), True),
    ],
)
def test_only_what_need_not_be_exact_is_torchs(spec: PixelSpec, same: bool) -> None:
    for _, _, data in jpegs(4, 500, 375):
        picture = Image.open(io.BytesIO(data))
        resized = picture.resize(spec.target(*PHOTO)[::-1], Image.Resampling(spec.resample))
        wanted = np.asarray(resized if spec.crop is None else cropped(resized, spec.crop))
        assert np.array_equal(decode(data, [spec], exact=True).views[0], wanted)
        quick = decode(data, [spec]).views[0]
        assert np.array_equal(quick, wanted) == same
        assert np.abs(quick.astype(int) - wanted).max() <= 2


def cropped(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    top, left = (picture.height - size[0]) // 2, (picture.width - size[1]) // 2
    return picture.crop((left, top, left + size[1], top + size[0]))


@pytest.mark.parametrize("size", [(10, 10), (11, 13), (14, 8), (8, 15), (20, 21), (1, 1)])
def test_centre_crops_are_pillows(size: tuple[int, int]) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(1, 256, (11, 13, 3), np.uint8))
    assert np.array_equal(centre(np.asarray(picture), size), np.asarray(cropped(picture, size)))


@pytest.mark.parametrize("resample", [BILINEAR, BICUBIC])
def test_pictures_that_pillow_keeps_in_pieces_give_the_same_bytes(resample: int) -> None:
    whole = list(pictures(PHOTO))
    size = Image.core.get_block_size()
    Image.core.set_block_size(1 << 16)
    try:
        pieces = [picture.copy() for picture in whole]
    finally:
        Image.core.set_block_size(size)
    for picture, in_pieces in zip(whole, pieces, strict=True):
        with pytest.raises(ValueError, match="contiguous"):
            pyarrow.array(in_pieces)
        wanted = resized(picture, (224, 224), resample)
        assert np.array_equal(resized(in_pieces, (224, 224), resample), wanted)


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return [data for _, _, data in jpegs(24, 500, 375)]


def test_the_same_bytes_in_every_child_and_in_every_turn(photos: list[bytes], answers: Answers) -> None:
    specs = (PixelSpec(resize=(224, 224)),)
    with DecodePool(DecodeSettings(specs), 3) as pool:
        for turn in range(4):
            for number, data in enumerate(photos):
                pool.submit(data, None, answers.of((turn, number)))
        answers.wait(4 * len(photos))
    for number, data in enumerate(photos):
        wanted = decode(data, specs).views[0]
        assert all(np.array_equal(answers.found[turn, number].views[0], wanted) for turn in range(4))


@pytest.mark.torture
def test_the_same_bytes_without_vector_instructions_and_on_more_threads(photos: list[bytes], tmp_path: Path) -> None:
    code = (
        "import sys, numpy; from pathlib import Path; from beit_core import PixelSpec\n"
        "from pipeline.decode.decode import decode\n"
        "files = [file.read_bytes() for file in sorted(Path(sys.argv[1]).iterdir())]\n"
        "sys.stdout.buffer.write(b''.join(decode(data, [PixelSpec()]).views[0].tobytes() for data in files))\n"
    )
    for number, data in enumerate(photos):
        (tmp_path / f"{number:02d}.jpg").write_bytes(data)
    found = []
    for env in ({"ATEN_CPU_CAPABILITY": "default"}, {"OMP_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": "1"}):
        command = [sys.executable, "-c", code, str(tmp_path)]
        found.append(subprocess.run(command, cwd=ROOT, env=os.environ | env, stdout=subprocess.PIPE, check=True).stdout)
    assert len(found[0]) == len(photos) * 224 * 224 * 3
    assert found[0] == found[1] == found[2]


def test_a_child_that_has_imported_torch_still_has_a_limit(photos: list[bytes]) -> None:
    """Set before, it would forbid the import; lifted for it, it must come back."""
    child = Child(DecodeSettings((PixelSpec(resize=(8, 8)),), max_pixels=1 << 20))
    try:
        child.wait_until_ready()
        before = limit_of(child)
        child.send([Undecoded(coloured(1), None)])
        assert child.receive()[0].status == "ok"
        assert limit_of(child) == before
        child.send([Undecoded(photos[0], None)])
        assert child.receive()[0].status == "ok"
        room = HEADROOM + (BYTES_PER_PIXEL << 20)
        assert before < limit_of(child) < taken_by(child) + room + (64 << 20)
    finally:
        child.end()


def limit_of(child: Child) -> int:
    lines = Path(f"/proc/{child.process.pid}/limits").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Max address space")).split()[3])


def taken_by(child: Child) -> int:
    pages = Path(f"/proc/{child.process.pid}/statm").read_text().split()[0]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_a_picture_at_the_limit_is_resized_within_the_memory_allowed() -> None:
    sink = io.BytesIO()
    Image.new("RGBA", (6000, 5000), (9, 8, 7, 255)).save(sink, "PNG", compress_level=1)
    child = Child(DecodeSettings((PixelSpec(resize=(224, 224)),), max_pixels=30_000_000))
    try:
        child.send([Undecoded(sink.getvalue(), None)])
        child.wait_until_ready()
        (answer,) = child.receive()
        assert (answer.status, answer.error) == ("ok", None)
        assert (answer.views[0] == (9, 8, 7)).all()
    finally:
        child.end()
