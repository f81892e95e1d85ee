"""Pictures of masks: overlays in the mask's own palette, a legend, and how much of the pictures each class takes."""

from __future__ import annotations

import io
from collections import defaultdict
from typing import Required, cast

from markupsafe import Markup
from PIL import Image

from pipeline.masks import ClassShare
from pipeline.page import pictures
from pipeline.page.charts import bars, legend
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
CARDS, CHIPS, CLASSES = 24, 5, 24
OPACITY = 0.6  # of the mask over the image
Palette = dict[int, str]


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
    colours = palette(rows[0]["mask"])
    lead = f"{plural(len(shown), 'image')} of the sample beside the same under its mask, and the share of each class."
    cards = [_card(row, sample, colours) for row in shown]
    drawn = section("masks", "Masks", lead, _legend(rows, colours), sheet(cards, "pairs"))
    return [drawn, _areas(rows, colours)]


def palette(mask: bytes) -> Palette:
    """The colour of each class id as the PNG has it."""
    try:
        flat = Image.open(io.BytesIO(mask)).getpalette("RGB") or []
    except (OSError, ValueError):
        return {}
    return {i // 3: "#{:02x}{:02x}{:02x}".format(*flat[i : i + 3]) for i in range(0, len(flat), 3)}


def overlay(picture: bytes | None, mask: bytes, size: int) -> bytes | None:
    """The mask's colours over a thumbnail; the mask alone when there is none, None when it cannot be read."""
    try:
        classes = Image.open(io.BytesIO(mask))
        below = Image.open(io.BytesIO(picture)).convert("RGB") if picture else None
        scale = min(1.0, size / max(classes.size))
        fit = below.size if below else (max(1, round(classes.width * scale)), max(1, round(classes.height * scale)))
        colours = classes.resize(fit, Image.Resampling.NEAREST).convert("RGB")
        return pictures.encode(Image.blend(below, colours, OPACITY) if below else colours)
    except (OSError, ValueError):
        return None


def _fractions(row: Segmented) -> list[tuple[int, str, float]]:
    return [(c["id"], c["label"], c["fraction"]) for c in row.get("classes") or []]


def _card(row: Segmented, sample: Sample, colours: Palette) -> Markup:
    picture = sample.thumbnails.get(row["uri"])
    found = _fractions(row)
    said = ", ".join(f"{label} {share(part)}" for _, label, part in found[:CHIPS])
    pair = html(
        '<div class="pair">{}{}</div>',
        image(picture, name_of(row), "whole"),
        image(overlay(picture, row["mask"], THUMBNAIL), f"{name_of(row)} under its mask: {said}", "whole"),
    )
    chips = joined(
        html('<li><i style="background:{}"></i>{} <b>{}</b></li>', colours.get(id_, "#888"), label, share(part))
        for id_, label, part in found[:CHIPS]
    )
    more = html("<li>and {} more</li>", len(found) - CHIPS) if len(found) > CHIPS else EMPTY
    return figure(pair, html('<ul class="chips">{}{}</ul>{}', chips, more, key_line(row)), "wide")


def _totals(rows: list[Segmented]) -> list[tuple[int, str, float]]:
    """Class id, label and mean fraction, largest first."""
    sums: dict[tuple[int, str], float] = defaultdict(float)
    for row in rows:
        for id_, label, part in _fractions(row):
            sums[id_, label] += part / len(rows)
    return sorted(((id_, label, part) for (id_, label), part in sums.items()), key=lambda c: (-c[2], c[0]))


def _legend(rows: list[Segmented], colours: Palette) -> Markup:
    entries = [(colours.get(id_, "#888888"), label, "") for id_, label, _ in sorted(_totals(rows)[:CLASSES])]
    return legend(entries) if entries else EMPTY


def _areas(rows: list[Segmented], colours: Palette) -> Markup:
    totals = _totals(rows)
    if not totals:
        return EMPTY
    entries = [(label, part, share(part)) for _, label, part in totals[:CLASSES]]
    fills = [colours.get(id_, "#888888") for id_, _, _ in totals[:CLASSES]]
    lead = f"Mean share of the pixels over {plural(len(rows), 'image')} of the sample."
    return section("areas", "Classes by area", lead, bars("Mean share of pixels by class", entries, fills))
