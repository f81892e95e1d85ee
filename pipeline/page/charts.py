"""Plain inline SVG. Lengths along the page are percentages, so nothing is squeezed on a phone; words stay HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from pipeline.page.parts import EMPTY, data_uri, duration, html, joined, share

POINTS = 48  # of a line
WIDEST = 8.0  # per cent of the width that a column has at most
TOLD = 12  # columns that are told to those who cannot see them


class Swatch(NamedTuple):
    """An entry of a legend, with a colour of its own, or one that the style sheet gives to this class."""

    name: str
    value: str = ""
    colour: str = ""
    style: str = ""


class Event(NamedTuple):
    """A column of a chart: when it was, its height, the part of it that failed, and all of it in words."""

    moment: str
    height: float
    failed: float
    said: str


class Spot(NamedTuple):
    """A picture, or a dot without one, at a place in the unit square; its colour, if it has one, is that of a frame."""

    x: float
    y: float
    name: str
    picture: bytes | None
    colour: str


def stacked_bar(title: str, parts: Sequence[tuple[str, float]]) -> Markup:
    """One bar of named parts; the style sheet colours them `s1`, `s2`, ..."""
    total = sum(value for _, value in parts) or 1.0
    at, bars = 0.0, []
    for place, (name, value) in enumerate(parts, 1):
        wide = 100 * value / total
        bars.append(
            html(
                '<rect class="s{}" x="{:.3f}%" width="{:.3f}%" height="100%"><title>{}: {}</title></rect>',
                place,
                at,
                wide,
                name,
                duration(value),
            )
        )
        at += wide
    said = ", ".join(f"{name} {share(value / total)}" for name, value in parts)
    return html('<svg class="stack" role="img" aria-label="{}: {}">{}</svg>', title, said, joined(bars))


def legend(swatches: Sequence[Swatch]) -> Markup:
    """Names and values, written out for readers who cannot see the colours."""
    items = []
    for name, value, colour, style in swatches:
        mark = html('<i style="background:{}"></i>', colour) if colour else html('<i class="{}"></i>', style)
        items.append(html("<li>{}<span>{}</span> <b>{}</b></li>", mark, name, value))
    return html('<ul class="legend">{}</ul>', joined(items))


def bars(
    title: str,
    entries: Sequence[tuple[str, float, str]],
    colours: Sequence[str] = (),
    kind: str = "",
    beside: Sequence[Markup] = (),
) -> Markup:
    """Horizontal bars: name, length, and the value as text; `beside` are pictures for the first of them."""
    longest = max((value for _, value, _ in entries), default=0) or 1.0
    rows = []
    for place, (name, value, text) in enumerate(entries):
        fill = html(' style="fill:{}"', colours[place]) if colours else EMPTY
        few = html('<div class="few">{}</div>', beside[place] if place < len(beside) else EMPTY) if beside else EMPTY
        rows.append(
            html(
                '<li><span class="name" title="{}">{}</span><svg class="bar" aria-hidden="true">'
                '<rect class="track" width="100%" height="100%" rx="3"/>'
                '<rect class="fill"{} width="{:.2f}%" height="100%" rx="3"/></svg><b>{}</b>{}</li>',
                *(name, name, fill, 100 * value / longest, text, few),
            )
        )
    return html(
        '<ul class="bars {}{}" aria-label="{}">{}</ul>', kind, " pictured" if beside else "", title, joined(rows)
    )


def rates(progress: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """(seconds, images per second) over equal times, from (seconds, images so far); images come in whole spans."""
    clean = sorted((float(t), float(n)) for t, n in progress if math.isfinite(t) and math.isfinite(n) and t > 0)
    if not clean:
        return []
    times, images = np.array([(0.0, 0.0), *clean]).T
    marks = np.linspace(0, times[-1], min(max(len(clean) // 3, 4), POINTS) + 1)
    speeds = np.diff(np.interp(marks, times, images)) / np.diff(marks)
    return [(float(t), max(0.0, float(speed))) for t, speed in zip(marks[1:], speeds, strict=True)]


def line(title: str, points: Sequence[tuple[float, float]], mean: float) -> Markup:
    """Images per second over time, with the mean as a dashed line."""
    last = points[-1][0] or 1.0
    top = _round_up(max(max(value for _, value in points), mean))
    starts = [0.0, *(t for t, _ in points)]
    steps = [
        place for start, (end, value) in zip(starts, points, strict=False) for place in ((start, value), (end, value))
    ]
    path = " ".join(f"{100 * t / last:.2f},{100 - 100 * value / top:.2f}" for t, value in steps)
    level = 100 - 100 * mean / top
    drawing = html(
        '<svg class="plot" viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<path class="grid" d="M0 0H100M0 50H100M0 100H100"/><polygon class="area" points="0,100 {} 100,100"/>'
        '<polyline class="line" points="{}"/><path class="mean" d="M0 {:.2f}H100"/></svg>',
        *(f"{title}: {mean:,.0f} on average over {duration(last)}", path, path, level),
    )
    below = html(
        '<div class="x" aria-hidden="true"><span>0</span><span>{}</span><span>{}</span></div>',
        duration(last / 2),
        duration(last),
    )
    return html('<div class="chart">{}{}{}</div>', _axis(top), drawing, below)


def columns(title: str, events: Sequence[Event]) -> Markup:
    """A column per event, in their order."""
    top = _round_up(max(event.height for event in events))
    slot = 100 / len(events)
    wide = min(0.75 * slot, WIDEST)
    drawn = []
    for place, (_, height, failed, said) in enumerate(events):
        at, good, bad = (place + 0.5) * slot - wide / 2, 100 * (height - failed) / top, 100 * failed / top
        drawn.append(
            html(
                '<g><title>{}</title><rect class="fill" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>'
                '<rect class="failed" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/></g>',
                *(said, at, 100 - good, wide, good, at, 100 - good - bad, wide, bad),
            )
        )
    frame = html(
        '<svg class="plot low" viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{}: {}">'
        '<path class="grid" d="M0 0H100M0 50H100M0 100H100"/>{}</svg>',
        *(title, "; ".join(event.said for event in events[-TOLD:]), joined(drawn)),
    )
    ends = html(
        '<div class="x" aria-hidden="true"><span>{}</span><span>{}</span></div>', events[0].moment, events[-1].moment
    )
    return html('<div class="chart">{}{}{}</div>', _axis(top), frame, ends)


def scatter(title: str, spots: Sequence[Spot], side: float) -> Markup:
    """A map of spots, 3:2, whose pictures have this side."""
    drawn = []
    for x, y, name, picture, colour in spots:
        across, down = side / 2 + x * (1200 - side), side / 2 + y * (800 - side)
        if picture is None:
            shape = html('<circle cx="{:.1f}" cy="{:.1f}" r="6"{}/>', across, down, _fill(colour))
        else:
            place = (across - side / 2, down - side / 2, side, side)
            shape = html(
                '<image x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" href="{}"/>', *place, data_uri(picture)
            )
            if colour:
                shape += html(
                    '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" stroke="{}"/>', *place, colour
                )
        drawn.append(html("<g><title>{}</title>{}</g>", name, shape))
    frame = html('<svg class="map" viewBox="0 0 1200 800" role="img" aria-label="{}">{}</svg>', title, joined(drawn))
    return html('<div class="scroll wide" role="region" aria-label="{}" tabindex="0">{}</div>', title, frame)


def _axis(top: float) -> Markup:
    """What the height of a chart stands for."""
    return html(
        '<div class="y" aria-hidden="true"><span>{}</span><span>{}</span><span>0</span></div>',
        _shortened(top),
        _shortened(top / 2),
    )


def _fill(colour: str) -> Markup:
    return html(' style="fill:{}"', colour) if colour else EMPTY


def _round_up(value: float) -> float:
    """The next 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * 0.999)


def _shortened(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:g}"
