"""Masks on the page: colours that differ, a background that shows through, masks alone; captions of token mosaics."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.page import page
from pipeline.page.palette import distinct, laboratory
from pipeline.page.segment import background, coloured, overlay, palette
from tests.flow import png_header
from tests.outputs import Examples


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGBA"), dtype=int)


def numbers(colours: tuple[str, ...]) -> np.ndarray:
    return np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours])


def test_a_truth_of_masks_is_for_another_job(examples: Examples, tmp_path: Path) -> None:
    output = str(examples.copy("segment", tmp_path))
    with pytest.raises(ConfigError, match=r"--truth key: the page compares labels; of masks .*evaluate.* --truth key"):
        page.write(output, truth="key")


def test_distance_of_colours_is_that_of_the_standard() -> None:
    seen = laboratory(np.array([[255, 0, 0], [255, 255, 255], [0, 0, 0]]))
    np.testing.assert_allclose(seen[0], [53.24, 80.09, 67.20], atol=0.1)
    np.testing.assert_allclose(seen[1:], [[100, 0, 0], [0, 0, 0]], atol=0.1)


@pytest.mark.parametrize("count", [2, 8, 24])
def test_colours_of_listed_classes_differ_and_most_from_their_neighbours(count: int) -> None:
    seen = laboratory(numbers(distinct(count)))
    away = np.linalg.norm(seen[:, None] - seen[None], axis=2) + 1000 * np.eye(count)
    assert away.min() > 20
    assert np.diag(away, 1).min() > 45


def test_the_background_is_clear_and_shows_through() -> None:
    into, photo = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.array([[0, 1]], dtype=np.uint8).repeat(40, 0).repeat(20, 1)).save(into, "PNG")
    Image.new("RGB", (20, 20), (100, 100, 100)).save(photo, "PNG")
    mask = coloured(into.getvalue(), {1: "#fa3200"}, {0})
    assert mask is not None
    over, alone = overlay(photo.getvalue(), mask, 192)
    assert pixels(over)[5, 5].tolist() == [100, 100, 100, 255]
    assert pixels(over)[5, 15].tolist() == pytest.approx([190, 70, 40, 255], abs=2)
    assert pixels(alone)[5, 5, 3] == 0
    assert pixels(alone)[5, 15].tolist() == pytest.approx([250, 50, 0, 255], abs=2)
    assert pixels(overlay(None, mask, 192)[0]).shape == (40, 40, 4)
    assert coloured(b"no mask", {}, set()) is None
    assert coloured(png_header(20_000, 20_000), {}, set()) is None


def test_class_0_is_background_unless_it_has_a_name_of_its_own() -> None:
    assert [background(*one) for one in ((0, "LABEL_0"), (0, "wall"), (7, "Background"), (1, "LABEL_1"))] == [
        *(True, False, True, False)
    ]
    assert palette([(0, "background", 0.9), (4, "hair", 0.1)]) == {4: distinct(1)[0]}


def test_masks_can_be_seen_alone(examples: Examples, tmp_path: Path) -> None:
    text = Path(page.write(str(examples.copy("segment", tmp_path)))).read_text()
    assert "Masks only</label>" in text
    assert text.count("whole alone") == text.count("whole over") > 10


def test_mosaics_have_captions_and_begin_with_the_highest_loss(examples: Examples, tmp_path: Path) -> None:
    text = Path(page.write(str(examples.copy("tokens", tmp_path)))).read_text()
    losses = [float(found) for found in re.findall(r"<b>loss ([\d.]+)</b>", text)]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 18
    assert [text.count(f'<p class="under">{said}</p>') for said in ("image", "tokens", "predicted")] == [18, 18, 18]
