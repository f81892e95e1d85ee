"""Tiles that open: a larger picture, all that the row says, and its uri to copy; one part per image."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from markupsafe import Markup
from PIL import Image

from pipeline.masks import ClassShare
from pipeline.output.columns import BASE
from pipeline.page.charts import bars
from pipeline.page.files import SOURCE, TASKS
from pipeline.page.parts import EMPTY, Row, copy_button, html, image, joined, name_of, share
from pipeline.page.pictures import dimensions, shrink, thumbnail
from pipeline.page.truth import answers

if TYPE_CHECKING:
    from pipeline.page.sample import Sample

WEBP = 62  # quality
HIDDEN = {SOURCE, *TASKS, *(field.name for field in BASE)} - {"loss"}  # of which a row has more than one number
SMALL, LARGE = 96, 512  # pixels a side
LONG = 300  # characters of a value that are shown


def tile(sample: Sample, row: Row, alt: str, kind: str = "", *, small: bool = False) -> Markup:
    """The row's thumbnail as a button that opens it; a `small` one has a quarter of the pixels."""
    number, _ = sample.opened.setdefault(row["uri"], (len(sample.opened), row))
    picture = sample.thumbnails.get(row["uri"])
    drawn = image(shrink(picture, SMALL) if small and picture else picture, alt, kind)
    return html('<button type="button" class="open" data-open="{}">{}</button>', number, drawn)


def details(sample: Sample, left: int) -> Markup:
    """What tiles open, in the order of the tiles, and the dialog that shows it; browsers load none of it before.

    All of it takes about `left` characters; tiles beyond that open with their small pictures.
    """
    if not sample.opened:
        return EMPTY
    told = [_told(row, sample.truth) for _, row in sample.opened.values()]
    left -= sum(map(len, told))
    parts: list[Markup] = []
    for (number, row), said in zip(sample.opened.values(), told, strict=True):
        picture = _large(sample, row) if left > 0 else EMPTY
        left -= len(picture)
        parts.append(html('<template id="opened-{}"><div class="picture">{}</div>{}</template>', number, picture, said))
    dialog = Markup(
        '<dialog id="opened" aria-label="Image"><form method="dialog"><button class="turn" type="button" data-by="-1" '
        'aria-label="Previous image">&larr;</button><button class="turn" type="button" data-by="1" '
        'aria-label="Next image">&rarr;</button><button class="close" type="button">Close</button></form>'
        '<div class="body"></div></dialog>'
    )
    return joined([*parts, dialog])


def value_of(row: Row, name: str) -> object:
    """What a row has in a column that only the output knows."""
    return cast("Mapping[str, object]", row).get(name)


def shown(value: object) -> str:
    """A scalar for people."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= LONG else f"{text[:LONG]}..."


def _large(sample: Sample, row: Row) -> Markup:
    """The picture for an opened tile; nothing where the tile's own has all the pixels there are."""
    original = sample.originals.get(row["uri"])
    large = thumbnail(original, LARGE) if original is not None else None
    return image(_compact(large), name_of(row)) if large and max(dimensions(large)) > SMALL else EMPTY


def _told(row: Row, truth: str | None) -> Markup:
    found, facts = _answers(row), _facts(row, truth)
    listed = joined(html("<div><dt>{}</dt><dd>{}</dd></div>", name, value) for name, value in facts)
    return html(
        '<div class="told"><h3>{}</h3>{}{}<p class="uri">{}</p>{}</div>',
        *(name_of(row), bars("Answers", found) if found else EMPTY),
        *(html('<dl class="facts">{}</dl>', listed) if facts else EMPTY, row["uri"]),
        copy_button(row["uri"], "Copy uri"),
    )


def _answers(row: Row) -> list[tuple[str, float, str]]:
    """All labels with their scores, or all classes of a mask with their shares: name, size, and the size in words."""
    names, _, scores = answers(row)
    pairs = list(zip(names, scores, strict=False))
    pairs += [(one["label"], one["fraction"]) for one in cast("list[ClassShare]", value_of(row, "classes") or [])]
    return [(name, max(float(part), 0.0), share(float(part))) for name, part in pairs]


def _facts(row: Row, truth: str | None) -> list[tuple[str, str]]:
    """The row's columns of one number or word, and why it failed."""
    facts = [
        (f"{name} (truth)" if name == truth else name, shown(value))
        for name, value in row.items()
        if name not in HIDDEN and isinstance(value, str | int | float)
    ]
    return [*facts, (str(row.get("status")), str(row["error"]))] if row.get("error") else facts


def _compact(picture: bytes) -> bytes:
    """A large JPEG as a smaller file; what is kept without loss stays so."""
    if picture.startswith(b"\x89PNG"):
        return picture
    into = io.BytesIO()
    Image.open(io.BytesIO(picture)).save(into, "WEBP", quality=WEBP, method=2)
    return into.getvalue()
