"""Answers of a task that the page does not know: its images, with their columns of one number or word, to be sorted."""

from __future__ import annotations

from markupsafe import Markup

from pipeline.page.opened import shown, tile, value_of
from pipeline.page.parts import EMPTY, Row, figure, html, joined, key_line, name_of, plural, section
from pipeline.page.reader import even
from pipeline.page.sample import Sample

PICTURES = 64
NAMED = 4  # columns under a picture; all stand where it opens


def images(sample: Sample) -> Markup:
    """The sheet, with controls to sort it; nothing where there is no answer."""
    rows = even(sample.good(), PICTURES)
    if not rows:
        return EMPTY
    columns = [name for name in sample.extra if any(value_of(row, name) is not None for row in rows)]
    cards = [_card(row, place, columns, sample) for place, row in enumerate(rows)]
    lead = f"{plural(len(rows), 'image')} of the sample{', with what the task says of each' if columns else ''}."
    sheet = html('<div class="sheet" id="image-sheet">{}</div>', joined(cards))
    return section("images", "Images", lead, _sorting(columns) if columns and len(rows) > 1 else EMPTY, sheet)


def _sorting(columns: list[str]) -> Markup:
    """The control above the sheet; without the page's script it is not there."""
    options = [
        html('<option value="{} {}">{}, {}</option>', place, way, name, said)
        for place, name in enumerate(columns)
        for way, said in (("down", "highest first"), ("up", "lowest first"))
    ]
    return html(
        '<form class="tools" data-sheet="image-sheet" data-script hidden aria-label="Sort the images"><label>Sort by '
        '<select name="sort"><option value=" up">order of the input</option>{}</select></label></form>',
        joined(options),
    )


def _card(row: Row, place: int, columns: list[str], sample: Sample) -> Markup:
    values = [(number, name, value_of(row, name)) for number, name in enumerate(columns)]
    data = [html('data-place="{}"', place)]
    data += [html('data-v{}="{}"', number, _sortable(value)) for number, _, value in values if value is not None]
    told = [(name, shown(value)) for _, name, value in values[:NAMED] if value is not None]
    lines = joined(html("<span><i>{}</i> <b>{}</b></span>", name, value) for name, value in told)
    caption = html('<p class="others own">{}</p>{}', lines, key_line(row))
    return figure(tile(sample, row, name_of(row)), caption, data=Markup(" ").join(data))


def _sortable(value: object) -> object:
    return int(value) if isinstance(value, bool) else shown(value) if isinstance(value, str) else repr(value)
