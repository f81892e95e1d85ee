"""Pixels as the reference's PIL processor makes them, and a stated policy for every kind of picture."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BeitImageProcessorPil

from beit_core import PixelSpec
from pipeline.decode.decode import Decoded, decode, extensions

OWN_SIZE = PixelSpec(resize=None)
PHOTO_NAMES = ("chelsea", "coffee", "camera")


def photo(name: str) -> Image.Image:
    import skimage.data

    return Image.fromarray(getattr(skimage.data, name)())


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def pixels_of(data: bytes, spec: PixelSpec = OWN_SIZE, *, exact: bool = False) -> np.ndarray:
    answer = decode(data, [spec], exact=exact)
    assert (answer.status, answer.error) == ("ok", None)
    return answer.views[0]


@pytest.mark.parametrize("name", PHOTO_NAMES)
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
@pytest.mark.parametrize("resample", [2, 3])
def test_pixels_are_the_references_bit_by_bit(name: str, mode: str, resample: int) -> None:
    picture = photo(name).convert("RGB").convert(mode)
    processor = BeitImageProcessorPil(size={"height": 96, "width": 128}, do_center_crop=False, resample=resample)
    wanted = processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"]
    spec = PixelSpec(resize=(96, 128), resample=resample)
    pixels = pixels_of(saved(picture), spec, exact=True)
    found = spec.normalize(torch.from_numpy(pixels.copy())[None])
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("crop", [(200, 180), (300, 301), (600, 501)])
def test_centre_crops_are_the_references_also_where_the_picture_is_too_small(crop: tuple[int, int]) -> None:
    picture = photo("chelsea")
    size = {"height": crop[0], "width": crop[1]}
    processor = BeitImageProcessorPil(do_resize=False, do_center_crop=True, crop_size=size, do_normalize=False)
    wanted = processor(picture, return_tensors="pt")["pixel_values"][0].permute(1, 2, 0)
    found = pixels_of(saved(picture), PixelSpec(resize=None, crop=crop)).astype(np.float64) / 255
    assert np.array_equal(found.astype(np.float32), wanted.numpy())


def test_exif_orientation_is_applied_and_sizes_are_upright() -> None:
    picture = photo("chelsea")
    exif = Image.Exif()
    exif[0x0112] = 6
    answer = decode(saved(picture.rotate(90, expand=True), exif=exif), [OWN_SIZE])
    assert (answer.width, answer.height) == picture.size
    assert np.array_equal(answer.views[0], np.asarray(picture))


def test_what_is_transparent_lies_on_white() -> None:
    rgba = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    rgba.putpixel((1, 0), (10, 20, 30, 255))
    assert pixels_of(saved(rgba)).tolist() == [[[255, 255, 255], [10, 20, 30]]]
    assert pixels_of(saved(Image.new("LA", (1, 1), (90, 0)))).tolist() == [[[255, 255, 255]]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert pixels_of(saved(palette, transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_sixteen_bits_become_eight() -> None:
    deep = Image.fromarray(np.array([[0, 257, 65535]], np.uint16))
    assert pixels_of(saved(deep))[0, :, 0].tolist() == [0, 1, 255]
    floats = Image.fromarray(np.array([[0.0, 128.4, 255.0, float("nan")]], np.float32))
    assert pixels_of(saved(floats, "TIFF"))[0, :, 0].tolist() == [0, 128, 255, 0]


def test_cmyk_is_converted_as_pillow_does() -> None:
    picture = photo("chelsea").convert("CMYK")
    data = saved(picture, "JPEG")
    assert np.array_equal(pixels_of(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("L", (4, 4), shade) for shade in (50, 200)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert int(pixels_of(data).max()) == 50


def test_a_large_jpeg_is_decoded_smaller_unless_it_must_be_exact() -> None:
    big = photo("chelsea").resize((2048, 2048))
    data = saved(big, "JPEG", quality=95)
    spec = PixelSpec(resize=(224, 224))
    exact = decode(data, [spec], exact=True).views[0]
    quick = decode(data, [spec]).views[0]
    reference = np.asarray(Image.open(io.BytesIO(data)).resize((224, 224), Image.Resampling.BICUBIC))
    assert np.array_equal(exact, reference)
    difference = np.abs(quick.astype(int) - exact)
    assert 0 < difference.mean() < 0.6
    small = saved(big.resize((500, 375)), "JPEG")
    difference = np.abs(decode(small, [spec]).views[0].astype(int) - decode(small, [spec], exact=True).views[0])
    assert 0 < difference.mean() < 0.005


def failure(data: bytes, **flags: Any) -> Decoded:
    answer = decode(data, [OWN_SIZE], **flags)
    assert not answer.views
    return answer


def test_reasons_are_the_same_on_every_run() -> None:
    assert failure(b"").error == "the file is empty"
    assert failure(b"<html>").error == "not an image that Pillow knows (it begins with 3c68746d6c3e)"
    cut = saved(photo("chelsea"), "JPEG")[:5000]
    assert failure(cut).status == "decode_error"
    assert failure(cut).error == failure(cut).error
    assert "0x" not in str(failure(cut).error)


def bomb(side: int) -> bytes:
    """A PNG of one pixel whose header claims side x side."""
    tiny = saved(Image.new("1", (1, 1)))
    head = tiny[12:16] + struct.pack(">II", side, side) + tiny[24:29]
    return tiny[:12] + head + struct.pack(">I", zlib.crc32(head)) + tiny[33:]


def test_the_pixel_limit_is_checked_before_pixels_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as in the child
    answer = failure(bomb(30_000))
    assert (answer.status, answer.width) == ("too_large", 30_000)
    assert failure(saved(Image.new("L", (30, 30))), max_pixels=899).status == "too_large"


def test_no_format_that_starts_another_program_is_opened() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"} <= extensions()
    assert ".eps" not in extensions()
    assert failure(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").status == "decode_error"
