"""The small parts all sections are made of. Text is escaped by MarkupSafe wherever it enters a template."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from typing import Required, TypedDict

from markupsafe import Markup

from pipeline.page import pictures

PIXELATED = 64  # pictures of at most this many pixels a side are enlarged without blur
EMPTY = Markup()
DASH = "\N{EN DASH}"  # for what is not known


class Row(TypedDict, total=False):
    """A row of an output as the page reads it; each section extends it by the columns that it shows."""

    uri: Required[str]
    key: str
    status: str
    error: str | None
    source: str  # the shard, or the part of the plan, that the row's span belongs to


def html(template: str, *args: object, **values: object) -> Markup:
    """A template filled with escaped values; values that are Markup already go in as they are."""
    return Markup(template).format(*args, **values)  # templates are literals of this package


def joined(parts: Iterable[Markup]) -> Markup:
    """The parts one after the other, a line each."""
    return Markup("\n").join(parts)


def section(anchor: str, title: str, lead: object, *body: Markup) -> Markup:
    """A titled part of the page with one introductory sentence."""
    return html(
        '<section id="{}" aria-labelledby="{}-title"><h2 id="{}-title">{}</h2>{}{}</section>',
        *(anchor, anchor, anchor, title),
        html('<p class="lead">{}</p>', lead) if lead else EMPTY,
        joined(body),
    )


def subsection(title: str, lead: object, *body: Markup) -> Markup:
    """A smaller heading inside a section."""
    return html(
        '<div class="part"><h3>{}</h3>{}{}</div>',
        title,
        html('<p class="lead">{}</p>', lead) if lead else EMPTY,
        joined(body),
    )


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]], numeric: Sequence[int] = ()) -> Markup:
    """A table that scrolls by itself on a narrow screen; the columns in `numeric` are set right."""

    def cell(place: int, value: object) -> Markup:
        return html('<td class="n">{}</td>' if place in numeric else "<td>{}</td>", value)

    head = [
        html('<th scope="col"{}>{}</th>', Markup(' class="n"' if i in numeric else ""), h) for i, h in enumerate(heads)
    ]
    body = [html("<tr>{}</tr>", EMPTY.join(cell(i, value) for i, value in enumerate(row))) for row in rows]
    return html(
        '<div class="scroll" role="region" aria-label="{}" tabindex="0"><table><caption class="hidden">{}</caption>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>",
        *(caption, caption, EMPTY.join(head), joined(body)),
    )


def data_uri(picture: bytes) -> str:
    """One of our PNGs, JPEGs or WebPs as an address that needs no network."""
    kind = {b"\x89PN": "png", b"RIF": "webp"}.get(picture[:3], "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def image(picture: bytes | None, alt: str, kind: str = "") -> Markup:
    """An <img>, or a neutral tile that says so when there is no picture."""
    if picture is None:
        return html('<span class="tile {}" role="img" aria-label="{} (picture not available)"></span>', kind, alt)
    width, height = pictures.dimensions(picture)
    style = f"{kind} pixels" if max(width, height) <= PIXELATED else kind
    return html(
        '<img class="{}" src="{}" width="{}" height="{}" alt="{}">',
        style.strip(),
        data_uri(picture),
        width,
        height,
        alt,
    )


def figure(pictured: Markup, caption: Markup, kind: str = "", data: Markup = EMPTY) -> Markup:
    """A picture with its caption: one card of a sheet. By the attributes in `data` a sheet is filtered and sorted."""
    return html('<figure class="card {}" {}>{}<figcaption>{}</figcaption></figure>', kind, data, pictured, caption)


def sheet(cards: Iterable[Markup], kind: str = "") -> Markup:
    """Cards in as many columns as fit."""
    return html('<div class="sheet {}">{}</div>', kind, joined(cards))


def copy_button(text: str, said: str) -> Markup:
    """A button that copies a text; without the page's script it is not there."""
    return html('<button type="button" class="copy" data-copy="{}" data-script hidden>{}</button>', text, said)


def name_of(row: Row) -> str:
    """The name of a row: its key, else its uri."""
    return str(row.get("key") or row.get("uri") or "?")


def key_line(row: Row) -> Markup:
    """The last part of the row's key; the tooltip has the uri."""
    name = name_of(row)
    return html(
        '<span class="key" title="{}">{}</span>', row.get("uri", ""), name.rstrip("/").rpartition("/")[2] or name
    )


def count(value: object) -> str:
    """1234567 as 1,234,567; a dash for what is not known."""
    return f"{int(value):,}" if isinstance(value, int | float) and math.isfinite(value) else DASH


def plural(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def share(value: float) -> str:
    """A fraction as a percentage; only 1 reads 100 and only 0 reads 0."""
    if value in (0, 1):
        return f"{100 * value:.0f} %"
    return "< 0.1 %" if value < 0.0005 else f"{min(100 * value, 99.9):.1f} %"


def duration(seconds: object) -> str:
    """Seconds, minutes or hours, as fits."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return DASH
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def rate(images: object, seconds: object) -> str:
    """Images per second; a dash when there is nothing to divide."""
    if not isinstance(images, int | float) or not isinstance(seconds, int | float) or not images or seconds <= 0:
        return DASH
    value = images / seconds
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def moment(text: object) -> Markup:
    """An ISO time for people, to the minute."""
    if not isinstance(text, str):
        return Markup(DASH)
    return html('<time datetime="{}">{}</time>', text, text[:16].replace("T", " "))
