"""Real HEIC photographs, where `pillow-heif` is installed: read, turned upright, and told apart when damaged."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.images import open_image
from tests.flow import make_tar, run_here
from tests.helpers import rows
from tests.photos import originals

pillow_heif = pytest.importorskip("pillow_heif", reason="the extra `heif` is not installed")
TURNED = 6  # EXIF's number for a camera held upright


def heic(photo: Image.Image, orientation: int = 1) -> bytes:
    """A HEIC file as a phone writes it: stored as the camera was held, with the turn beside it."""
    pillow_heif.register_heif_opener()
    exif, content, held = Image.Exif(), io.BytesIO(), photo.copy()
    exif[0x0112] = orientation
    held.info["exif"] = exif.tobytes()
    held.save(content, "HEIF", quality=90)
    return content.getvalue()


def test_heic_photographs_are_answered_like_any(tmp_path: Path) -> None:
    photo = originals()[4]  # a cat
    files = {"cat.heic": heic(photo), "turned.HEIC": heic(photo, TURNED), "cut.heic": heic(photo)[: 1 << 14]}
    make_tar(tmp_path / "in/s.tar", list(files.items()))
    photo.save(tmp_path / "in/cat.png")
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    assert run_here(tmp_path / "in", tmp_path / "out", max_failed=1.0) == 0
    found = {row["uri"].removeprefix(f"{tmp_path}/in/"): row for row in rows(tmp_path / "out").to_pylist()}
    assert len(found) == 7
    flat, turned = photo.size, photo.size[::-1]
    for name, size in {
        "cat.heic": flat,
        "turned.HEIC": turned,
        "s.tar#cat.heic": flat,
        "s.tar#turned.HEIC": turned,
    }.items():
        assert (found[name]["status"], (found[name]["width"], found[name]["height"])) == ("ok", size)
        assert open_image(found[name]["uri"]).size == size
    assert found["cat.heic"]["labels"][0] == found["cat.png"]["labels"][0]
    np.testing.assert_allclose(found["cat.heic"]["scores"], found["cat.png"]["scores"], atol=0.05)
    assert {found[name]["status"] for name in ("cut.heic", "s.tar#cut.heic")} == {"decode_error"}
