"""Masks as files: what a person sees, what NumPy reads, and how the two lie over each other."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beit_core import label_map
from pipeline.masks import classes, columns, default_palette, label_maps, overlay, read_mask, size_of, to_png
from tests.flow import png_header

RAINBOW = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@settings(deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    count=st.sampled_from([1, 2, 3, 11, 16, 17, 150, 256, 257, 3000]),
)
def test_a_mask_comes_back_as_it_was(height: int, width: int, count: int) -> None:
    mask = np.random.default_rng(height * 41 + width).integers(0, count, (height, width))
    png = to_png(mask, default_palette([str(i) for i in range(count)]))
    assert np.array_equal(read_mask(png), mask)
    assert read_mask({"mask": png}).shape == (height, width)
    assert png == to_png(mask.astype(np.int16), default_palette([str(i) for i in range(count)]))


def test_opening_it_shows_the_colours() -> None:
    image = Image.open(io.BytesIO(to_png(np.array([[0, 1, 2]]), RAINBOW)))
    assert image.mode == "P"
    assert [image.convert("RGB").getpixel((x, 0)) for x in range(3)] == RAINBOW


def test_more_than_256_classes_make_a_grey_png_of_16_bits() -> None:
    png = to_png(np.array([[0, 40000]]), default_palette(["x"] * 40001))
    assert read_mask(png).dtype == np.uint16
    assert read_mask(png).tolist() == [[0, 40000]]


def test_overlay_mixes_image_and_colours(tmp_path: Path) -> None:
    grey = np.full((1, 3, 3), 100, np.uint8)
    png = to_png(np.array([[0, 1, 2]]), RAINBOW)
    mixed = np.asarray(overlay(grey, png, alpha=0.4))
    assert mixed.tolist() == [[[162, 60, 60], [60, 162, 60], [60, 60, 162]]]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    for image in (Image.fromarray(grey), tmp_path / "grey.png", (tmp_path / "grey.png").read_bytes()):
        assert np.array_equal(np.asarray(overlay(image, {"mask": png}, alpha=0.4)), mixed)
    assert np.asarray(overlay(grey, np.array([[2, 2, 2]], np.uint8), RAINBOW, 1)).tolist() == [[[0, 0, 255]] * 3]


def test_overlay_turns_the_image_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    mask = to_png(np.zeros((30, 20), np.uint8), RAINBOW)
    assert overlay(tmp_path / "turned.jpg", mask).size == (20, 30)


def test_overlay_refuses_a_mask_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"mask is \(3, 1\).*image \(2, 2\)"):
        overlay(np.zeros((2, 2, 3), np.uint8), to_png(np.array([[0, 1, 2]]), RAINBOW))


def test_overlay_of_many_classes_has_colours_too() -> None:
    mask = to_png(np.array([[0, 300]]), default_palette(["x"] * 301))
    left, right = np.asarray(overlay(np.zeros((1, 2, 3), np.uint8), mask, alpha=1))[0].tolist()
    assert left != right


def test_a_failed_row_has_no_mask() -> None:
    with pytest.raises(ValueError, match="status"):
        read_mask({"mask": None})


def test_a_header_says_how_large_a_mask_is_that_nobody_could_hold() -> None:
    assert size_of(png_header(400_000, 20_000)) == (20_000, 400_000)
    for damaged in (b"", b"\xff\xd8\xff", png_header(2, 2)[:30]):
        with pytest.raises(ValueError, match=r"no mask|no PNG, or damaged"):
            size_of(damaged)


def test_a_mask_beyond_pillows_own_bound_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_mask(to_png(np.ones((5, 5), np.uint8), RAINBOW)).all()


def test_classes_are_sorted_by_area_then_id() -> None:
    mask = np.array([[2, 2, 1, 1], [3, 2, 1, 2]])
    found = classes(mask, ["sky", "tree", "road", "sea"])
    assert found == [
        {"id": 2, "label": "road", "fraction": 0.5},
        {"id": 1, "label": "tree", "fraction": 0.375},
        {"id": 3, "label": "sea", "fraction": 0.125},
    ]
    assert [c["id"] for c in classes(np.array([[3, 0]]), ["a", "b", "c", "d"])] == [0, 3]


def test_large_masks_are_counted_whole() -> None:
    mask = np.zeros((1500, 1000), np.uint8)
    mask[-1, -3:] = 1
    assert classes(mask, ["a", "b"])[1] == {"id": 1, "label": "b", "fraction": 2e-6}


def test_no_answer_is_no_mask() -> None:
    found = columns([np.array([[1]]), None, np.array([], np.uint8)], ["a", "b"], None)
    assert [bool(png) for png in found["mask"]] == [True, False, False]
    assert [len(row) for row in found["classes"]] == [1, 0, 0]


def test_default_colours_differ_and_do_not_depend_on_the_count() -> None:
    names = [f"class {i}" for i in range(256)]
    colors = default_palette(names)
    assert len(set(colors)) == 256
    assert default_palette(names[:11]) == colors[:11]
    assert (0, 0, 0) not in colors
    first = np.array(colors[:20], float)
    apart = np.linalg.norm(first[:, None] - first[None], axis=-1) + 1e9 * np.eye(20)
    assert apart.min() > 30


def test_only_background_is_black() -> None:
    assert default_palette(["Background", "cat"])[0] == (0, 0, 0)
    assert default_palette(["wall", "background"])[0] != (0, 0, 0)


def test_only_what_is_not_finite_has_no_map() -> None:
    """What else is wrong with a picture, such as that it is too small, has a reason of its own."""
    logits = torch.eye(3)[:, :, None]
    maps = label_maps(label_map, [logits, logits / 0, logits], [(6, 2), (6, 2), (0, 0)])
    assert [None if one is None else one.numel() for one in maps] == [12, None, 0]

    def refuse(*_: object) -> torch.Tensor:
        raise ValueError("too small")

    with pytest.raises(ValueError, match="too small"):
        label_maps(refuse, [logits], [(6, 2)])
