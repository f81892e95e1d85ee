"""Pictures of masks: overlays in colours that differ, a legend, and how much of the pictures each class takes."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from typing import Required, cast

import numpy as np
from markupsafe import Markup
from PIL import Image

from pipeline.decode.decode import MAX_PIXELS
from pipeline.masks import PALETTE_CLASSES, ClassShare, read_mask, size_of
from pipeline.page import pictures
from pipeline.page.charts import Swatch, bars, legend
from pipeline.page.opened import tile
from pipeline.page.palette import GREY, distinct
from pipeline.page.parts import (
    EMPTY,
    Row,
    figure,
    html,
    image,
    joined,
    key_line,
    name_of,
    plural,
    section,
    share,
    sheet,
)
from pipeline.page.reader import even
from pipeline.page.sample import THUMBNAIL, Sample

COLUMNS = ("mask", "classes")
NEEDED = 1
CARDS, CHIPS, CLASSES = 24, 5, 24
OPACITY = 0.6  # of the mask over the image
BACKGROUND, UNNAMED = {"background", "__background__", "bg"}, {"", "0", "label_0", "class_0", "none"}
NONE = "transparent"
Palette = dict[int, str]  # class id to "#rrggbb"


class Segmented(Row, total=False):
    """A row with an answer of a segmentation job."""

    mask: Required[bytes]
    classes: list[ClassShare]


def sections(sample: Sample) -> list[Markup]:
    """Overlays with legend, and the classes by area."""
    rows = [row for row in cast("list[Segmented]", sample.good()) if row.get("mask")]
    if not rows:
        return []
    shown = even([row for row in rows if row["uri"] in sample.thumbnails] or rows, CARDS)
    totals = _totals(rows)
    colours, clear = palette(totals), {id_ for id_, label, _ in totals if background(id_, label)}
    lead = f"{plural(len(shown), 'image')} of the sample beside the same under its mask, and the share of each class."
    if clear:
        lead += " The background has no colour."
    cards = [_card(row, sample, colours, clear) for row in shown]
    only = Markup('<label class="masks-only"><input type="checkbox"> Masks only</label>')
    drawn = section("masks", "Masks", lead, _legend(rows, colours), only, sheet(cards, "pairs"))
    return [drawn, _areas(rows, colours)]


def palette(totals: list[tuple[int, str, float]]) -> Palette:
    """A colour for each class that the page lists, in the order of its lists; the background has none."""
    listed = [id_ for id_, label, _ in totals if not background(id_, label)][:CLASSES]
    return dict(zip(listed, distinct(len(listed)), strict=True)) if listed else {}


def background(id_: int, label: str) -> bool:
    """Whether a class is what lies behind everything: class 0 where it has no name, or one of that name."""
    return label.strip().lower() in BACKGROUND or (id_ == 0 and label.strip().lower() in UNNAMED)


def coloured(mask: bytes, colours: Palette, clear: set[int]) -> Image.Image | None:
    """The mask in the page's colours, transparent where the class is in `clear`; None for what cannot be drawn.

    That is what cannot be read, and what has more pixels than pictures that the page draws.
    """
    try:
        if math.prod(size_of(mask)) > MAX_PIXELS:
            return None
        classes = read_mask(mask)
    except ValueError:
        return None
    table = np.full((int(classes.max(initial=0)) + 1, 4), (*_parts(GREY), 255), dtype=np.uint8)
    for id_, colour in colours.items():
        if id_ < len(table):
            table[id_] = (*_parts(colour), 255)
    table[[id_ for id_ in clear if id_ < len(table)]] = 0
    return Image.fromarray(table[classes], "RGBA")


def overlay(picture: bytes | None, mask: Image.Image, size: int) -> tuple[bytes, bytes]:
    """The mask over a thumbnail, which shows through, all of it where the mask is clear; and the mask alone."""
    below = Image.open(io.BytesIO(picture)).convert("RGB") if picture else None
    scale = min(1.0, size / max(mask.size))
    fit = below.size if below else (max(1, round(mask.width * scale)), max(1, round(mask.height * scale)))
    small = mask.resize(fit, Image.Resampling.NEAREST)
    alone = pictures.png(small.quantize(PALETTE_CLASSES, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
    if below is None:
        return alone, alone
    cover = small.getchannel("A").point(lambda level: round(OPACITY * level))
    return pictures.encode(Image.composite(small.convert("RGB"), below, cover)), alone


def _parts(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _fractions(row: Segmented) -> list[tuple[int, str, float]]:
    return [(c["id"], c["label"], c["fraction"]) for c in row.get("classes") or []]


def _card(row: Segmented, sample: Sample, colours: Palette, clear: set[int]) -> Markup:
    picture = sample.thumbnails.get(row["uri"])
    found = _fractions(row)
    said = ", ".join(f"{label} {share(part)}" for _, label, part in found[:CHIPS])
    pair = html(
        '<div class="pair">{}{}</div>',
        tile(sample, row, name_of(row), "whole"),
        _layers(picture, coloured(row["mask"], colours, clear), f"{name_of(row)} under its mask: {said}"),
    )
    chips = joined(
        html(
            '<li><i style="background:{}"></i>{} <b>{}</b></li>',
            colours.get(id_, NONE if background(id_, label) else GREY),
            label,
            share(part),
        )
        for id_, label, part in found[:CHIPS]
    )
    more = html("<li>and {} more</li>", len(found) - CHIPS) if len(found) > CHIPS else EMPTY
    return figure(pair, html('<ul class="chips">{}{}</ul>{}', chips, more, key_line(row)), "wide")


def _layers(picture: bytes | None, mask: Image.Image | None, said: str) -> Markup:
    """The picture under its mask, and the mask that a tick shows in its place."""
    over, alone = overlay(picture, mask, THUMBNAIL) if mask else (None, None)
    drawn = (image(over, said, "whole over"), image(alone, f"Mask: {said}", "whole alone"))
    return html('<div class="layers">{}{}</div>', *drawn)


def _totals(rows: list[Segmented]) -> list[tuple[int, str, float]]:
    """Class id, label and mean fraction, largest first."""
    sums: dict[tuple[int, str], float] = defaultdict(float)
    for row in rows:
        for id_, label, part in _fractions(row):
            sums[id_, label] += part / len(rows)
    return sorted(((id_, label, part) for (id_, label), part in sums.items()), key=lambda c: (-c[2], c[0]))


def _legend(rows: list[Segmented], colours: Palette) -> Markup:
    entries = [Swatch(label, colour=colours[id_]) for id_, label, _ in _totals(rows) if id_ in colours]
    return legend(entries) if entries else EMPTY


def _areas(rows: list[Segmented], colours: Palette) -> Markup:
    totals = _totals(rows)
    if not totals:
        return EMPTY
    entries = [(label, part, share(part)) for _, label, part in totals[:CLASSES]]
    fills = [colours.get(id_, GREY) for id_, _, _ in totals[:CLASSES]]
    lead = f"Mean share of the pixels over {plural(len(rows), 'image')} of the sample."
    return section("areas", "Classes by area", lead, bars("Mean share of pixels by class", entries, fills))
