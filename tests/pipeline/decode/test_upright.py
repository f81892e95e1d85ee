"""Pictures that are stored turned, or with one colour for what is transparent, in every format that can say so."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from beit_core import PixelSpec
from pipeline.decode.decode import decode, open_upright
from pipeline.masks import overlay
from pipeline.page.pictures import thumbnail

ORIENTATION = 0x0112
STORED = {  # how a viewer turns what is stored, by EXIF's number
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
BACK = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
SPECS = [PixelSpec(resize=None), PixelSpec(resize=20), PixelSpec(resize=(16, 16))]


def upright() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 48, 3), np.uint8))


def stored(orientation: int, kind: str) -> bytes:
    """The picture as a camera that was held so would store it, without loss."""
    way = BACK.get(orientation, STORED.get(orientation))
    picture = upright() if way is None else upright().transpose(way)
    exif, sink = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    picture.save(sink, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    return sink.getvalue()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_are_as_the_upright_one(orientation: int, kind: str, exact: bool) -> None:
    wanted = decode(stored(1, "PNG"), SPECS, exact=exact)
    found = decode(stored(orientation, kind), SPECS, exact=exact)
    assert (found.width, found.height) == (wanted.width, wanted.height) == (48, 30)
    assert all(map(np.array_equal, found.views, wanted.views))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_that_cannot_be_written_again_turns_pictures_too(kind: str) -> None:
    """The maker's name is a fraction: Pillow reads it, and fails to write it."""
    fields = struct.pack("<HHII", 0x010F, 5, 1, 38) + struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + fields + struct.pack("<III", 0, 1, 2)
    picture, sink = Image.new("RGB", (200, 100)), io.BytesIO()
    picture.paste("white", (0, 0, 100, 100))
    picture.save(sink, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    data = sink.getvalue()
    found = decode(data, [PixelSpec(resize=None)])
    assert (found.width, found.height) == open_upright(data).size == (100, 200)
    assert [int(found.views[0][row].mean()) for row in (20, 180)] == [255, 0]
    assert Image.open(io.BytesIO(thumbnail(data, 50) or b"")).size == (25, 50)
    assert overlay(data, np.zeros((200, 100), np.uint8)).size == (100, 200)


def test_a_colour_that_stands_for_nothing_is_white() -> None:
    picture, sink = Image.new("RGB", (2, 1), (10, 20, 30)), io.BytesIO()
    picture.putpixel((1, 0), (1, 2, 3))
    picture.save(sink, "PNG", transparency=(1, 2, 3))
    assert decode(sink.getvalue(), [PixelSpec(resize=None)]).views[0].tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_a_deep_grey_that_stands_for_nothing_is_white() -> None:
    sink = io.BytesIO()
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(sink, "PNG", transparency=257)
    assert decode(sink.getvalue(), [PixelSpec(resize=None)]).views[0][0, :, 0].tolist() == [0, 255, 255]
