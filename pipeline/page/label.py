"""Pictures of labels: a contact sheet with scores, the least certain answers, how often each class came first."""

from __future__ import annotations

from collections import Counter
from typing import cast

from markupsafe import Markup

from pipeline.page.charts import bars
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
    subsection,
)
from pipeline.page.reader import even
from pipeline.page.sample import Sample

COLUMNS = ("labels", "label_ids", "scores")
SHEET, UNSURE, CLASSES, NEXT = 40, 8, 24, 2


class Labelled(Row, total=False):
    """A row with an answer of a labelling job; both lists have the same length."""

    labels: list[str]
    scores: list[float]


def sections(sample: Sample) -> list[Markup]:
    """The sheet, the least certain answers and the histogram."""
    rows = cast("list[Labelled]", sample.good())
    if not rows:
        return []
    shown = [row for row in rows if row["uri"] in sample.thumbnails] or rows
    first = even(shown, SHEET)
    unsure = sorted((row for row in shown if row.get("scores")), key=lambda row: (row["scores"][0], row["uri"]))[
        :UNSURE
    ]
    body = [sheet(_card(row, sample) for row in first)]
    if len(unsure) == UNSURE and len(rows) > 2 * UNSURE:
        lead = "The lowest scores of the sample, worth checking first."
        body.append(subsection("Least sure", lead, sheet(_card(row, sample) for row in unsure)))
    lead = f"{plural(len(first), 'image')} of the sample, each with its first label and the score."
    return [section("labels", "Labels", lead, *body), _histogram(rows)]


def _pairs(row: Labelled) -> list[tuple[str, float]]:
    return [
        (str(name), float(score)) for name, score in zip(row.get("labels") or [], row.get("scores") or [], strict=False)
    ]


def top_label(row: Row) -> str | None:
    """The row's first label, if it has any."""
    pairs = _pairs(cast("Labelled", row))
    return pairs[0][0] if pairs else None


def _card(row: Labelled, sample: Sample) -> Markup:
    pairs = _pairs(row)
    if not pairs:
        caption = html('<p class="answer none">no label above the threshold</p>{}', key_line(row))
        return figure(image(sample.thumbnails.get(row["uri"]), name_of(row)), caption)
    (name, score), rest = pairs[0], pairs[1 : 1 + NEXT]
    bar = html(
        '<svg class="bar" aria-hidden="true"><rect class="track" width="100%" height="100%" rx="2"/>'
        '<rect class="fill" width="{:.1f}%" height="100%" rx="2"/></svg>',
        100 * min(max(score, 0.0), 1.0),
    )
    others = joined(html("<span><i>{}</i> <b>{}</b></span>", other, share(value)) for other, value in rest)
    caption = html(
        '<p class="answer"><strong title="{}">{}</strong></p><p class="score">{}<b>{}</b></p>'
        '<p class="others">{}</p>{}',
        *(name, name, bar, share(score), others, key_line(row)),
    )
    return figure(image(sample.thumbnails.get(row["uri"]), f"{name_of(row)}: {name}, {share(score)}"), caption)


def _histogram(rows: list[Labelled]) -> Markup:
    counts = Counter(name for row in rows if (name := top_label(row)) is not None)
    if not counts:
        return EMPTY
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    entries = [(name, float(number), f"{number:,}") for name, number in ordered[:CLASSES]]
    rest = sum(number for _, number in ordered[CLASSES:])
    if rest:
        entries.append((f"{len(ordered) - CLASSES:,} other classes", float(rest), f"{rest:,}"))
    lead = f"How often each class came first among {plural(len(rows), 'image')} of the sample."
    return section("classes", "Classes", lead, bars("Images by first label", entries))
