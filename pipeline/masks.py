"""Class masks as PNG files, and back: a palette PNG's pixel is the class id, its colours are for people.

    row = pyarrow.parquet.read_table("masks/data").to_pylist()[0]
    mask = read_mask(row)  # (height, width) class ids
    overlay("photo.jpg", row).save("overlay.png")

A mask is an array (height, width) of class ids, as large as the upright image.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from beit_core import NotFinite
from pipeline.decode.decode import to_rgb, upright
from pipeline.task import Columns

if TYPE_CHECKING:
    from torch import Tensor

Color = tuple[int, int, int]
PALETTE_CLASSES = 256  # ids that a palette PNG can hold; more classes make a grey PNG of 16 bits
GOLDEN = 0.618033988749895  # golden angle, in turns: consecutive classes differ clearly in hue
STEP = 1 << 20  # pixels counted at a time
DAMAGED = "it is no PNG, or damaged"


class ClassShare(TypedDict):
    """A class in a mask, and the fraction of the pixels that it has."""

    id: int
    label: str
    fraction: float


def label_maps(
    to_map: Callable[[Tensor, int, int], Tensor], given: Iterable[Tensor], sizes: Sequence[tuple[int, int]]
) -> list[Tensor | None]:
    """`to_map` of every image's logits or pixels: empty for padding, None where the model's answer is not finite."""
    maps: list[Tensor | None] = []
    for one, (height, width) in zip(given, sizes, strict=True):
        try:
            maps.append(to_map(one, height, width) if height and width else one.new_empty(0).byte())
        except NotFinite:
            maps.append(None)
    return maps


def columns(maps: Iterable[object], labels: Sequence[str], palette: Sequence[Color] | None) -> Columns:
    """Column values from the maps that `label_maps` made, now on the CPU."""
    arrays = [np.asarray([] if one is None else one) for one in maps]
    return {
        "mask": [to_png(one, palette or default_palette(labels)) for one in arrays],
        "classes": [classes(one, labels) for one in arrays],
    }


def to_png(mask: np.ndarray, palette: Sequence[Color]) -> bytes:
    """Class ids as a PNG of this size, with a colour for every class there is; the same bytes for the same mask."""
    if not mask.size:
        return b""  # of an image that failed
    if len(palette) > PALETTE_CLASSES:
        image = Image.fromarray(mask.astype(np.uint16))
    else:
        image = Image.fromarray(mask.astype(np.uint8), "L")
        image.putpalette([part for color in palette for part in color])
    into = io.BytesIO()
    image.save(into, "PNG")
    return into.getvalue()


def read_mask(source: bytes | Mapping[str, object]) -> np.ndarray:
    """The class ids (height, width) of a row that has a `mask`, or of the mask's own bytes.

    Raises ValueError for a row without one, and for bytes that are no PNG of class ids. It takes the memory that the
    header says: of a file from elsewhere look at `size_of` first.
    """
    try:
        mask = np.asarray(_open(source))
    except (OSError, SyntaxError) as error:  # Pillow's, of damaged files
        raise ValueError(DAMAGED) from error
    if mask.ndim != 2:
        raise ValueError("it is a picture of colours, not of class ids")
    return mask


def size_of(source: bytes | Mapping[str, object]) -> tuple[int, int]:
    """Height and width as the header says, without a look at the pixels; raises ValueError as `read_mask`."""
    width, height = _open(source).size
    return height, width


def overlay(
    image: Image.Image | np.ndarray | bytes | str | Path,
    mask: np.ndarray | bytes | Mapping[str, object],
    palette: Sequence[Color] | None = None,
    alpha: float = 0.5,
) -> Image.Image:
    """The mask's colours over the upright image, `alpha` being the mask's part.

    Without `palette` the colours are the mask's own. Raises ValueError when image and mask differ in size.
    """
    picture = _picture(image)
    drawn = Image.fromarray(mask) if isinstance(mask, np.ndarray) else _open(mask)
    if drawn.size != picture.size:
        raise ValueError(f"the mask is {drawn.size} (width, height) and the image {picture.size}")
    colors = np.asarray(palette or _own_palette(drawn), np.uint8)
    return Image.blend(picture, Image.fromarray(colors[np.asarray(drawn)]), alpha)


def classes(mask: np.ndarray, labels: Sequence[str]) -> list[ClassShare]:
    """Id, label and fraction of the pixels, for every class that has any: largest first, ties by id."""
    flat = mask.reshape(-1)
    counts = np.zeros(len(labels), np.int64)
    for first in range(0, len(flat), STEP):  # counting takes eight bytes a pixel
        counts += np.bincount(flat[first : first + STEP], minlength=len(labels))
    order = [int(id_) for id_ in np.argsort(-counts, kind="stable") if counts[id_]]
    return [{"id": id_, "label": labels[id_], "fraction": float(counts[id_] / len(flat))} for id_ in order]


def default_palette(labels: Sequence[str]) -> list[Color]:
    """Colours by class id that do not depend on how many classes there are; black for what is called background."""
    return [(0, 0, 0) if label.lower() == "background" else _color(id_) for id_, label in enumerate(labels)]


def _color(id_: int) -> Color:
    """Hues at multiples of the golden angle; every six classes another brightness, every twelve another saturation."""
    value, saturation = (1.0, 0.7)[id_ // 6 % 2], (0.85, 0.55)[id_ // 12 % 2]
    red, green, blue = colorsys.hsv_to_rgb(id_ * GOLDEN % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _open(source: bytes | Mapping[str, object]) -> Image.Image:
    data = source if isinstance(source, bytes) else source["mask"]
    if not isinstance(data, bytes) or not data:
        raise ValueError("this row has no mask: its status says why")
    try:
        return PngImageFile(io.BytesIO(data))  # not Image.open, which refuses masks as large as --max-pixels may allow
    except (OSError, SyntaxError) as error:  # Pillow's, of other kinds of files and of damaged ones
        raise ValueError(DAMAGED) from error


def _picture(image: Image.Image | np.ndarray | bytes | str | Path) -> Image.Image:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    elif not isinstance(image, Image.Image):
        image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
    return to_rgb(upright(image))


def _own_palette(mask: Image.Image) -> list[Color]:
    flat = mask.getpalette("RGB")
    if flat:
        return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]
    return [_color(id_) for id_ in range(int(np.asarray(mask).max(initial=0)) + 1)]
