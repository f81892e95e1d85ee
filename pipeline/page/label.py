"""Pictures of labels: a sheet to filter, the least certain answers, classes with pictures, and how sure answers are."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from typing import cast

from markupsafe import Markup

from pipeline.page.charts import bars
from pipeline.page.opened import tile
from pipeline.page.parts import (
    EMPTY,
    Row,
    figure,
    html,
    joined,
    key_line,
    name_of,
    plural,
    section,
    share,
    sheet,
    subsection,
)
from pipeline.page.reader import even, grouped
from pipeline.page.sample import Sample
from pipeline.page.truth import verdict

COLUMNS = ("labels", "label_ids", "scores")
NEEDED = 3
SHEET, UNSURE, CLASSES, NEXT, FEW = 56, 8, 24, 2, 4
THRESHOLDS = [place / 10 for place in range(9, -1, -1)]


class Labelled(Row, total=False):
    """A row with an answer of a labelling job; both lists have the same length."""

    labels: list[str]
    scores: list[float]


def sections(sample: Sample) -> list[Markup]:
    """The sheet, the least certain answers, the classes and the scores."""
    rows = cast("list[Labelled]", sample.good())
    if not rows:
        return []
    shown = [row for row in rows if row["uri"] in sample.thumbnails] or rows
    first = of_each_class(shown, SHEET)
    wrong = _wrong(sample)
    body = [_filters(first, wrong is not None), _sheet(first, wrong or set(), sample)]
    unsure = sorted((row for row in shown if row.get("scores")), key=lambda row: (row["scores"][0], row["uri"]))
    if len(rows) > 2 * UNSURE and len(unsure) >= UNSURE:
        lead = "The lowest scores of the sample, worth checking first."
        body.append(subsection("Least sure", lead, sheet(_card(row, sample) for row in unsure[:UNSURE])))
    lead = f"{plural(len(first), 'image')} of the sample, each with its first label and the score."
    return [section("labels", "Labels", lead, *body), _classes(shown, sample), _scores(sample)]


def of_each_class(rows: list[Labelled], keep: int) -> list[Labelled]:
    """At most `keep` rows in their order, of each first label as many as there is place for."""
    if len(rows) <= keep:
        return rows
    classes = [even(some, keep) for some in grouped(rows, lambda row: top_label(row) or "").values()]
    turns = (row for turn in zip_longest(*even(classes, keep)) for row in turn if row is not None)
    chosen = {row["uri"] for row, _ in zip(turns, range(keep), strict=False)}
    return [row for row in rows if row["uri"] in chosen]


def _pairs(row: Labelled) -> list[tuple[str, float]]:
    return [
        (str(name), float(score)) for name, score in zip(row.get("labels") or [], row.get("scores") or [], strict=False)
    ]


def top_label(row: Row) -> str | None:
    """The row's first label, if it has any."""
    pairs = _pairs(cast("Labelled", row))
    return pairs[0][0] if pairs else None


def _wrong(sample: Sample) -> set[str] | None:
    """The uris of wrong answers; None where no truth is known."""
    judged = verdict(sample.survey)
    return {one.row["uri"] for one in judged.wrong()} if judged else None


def _filters(rows: list[Labelled], judged: bool) -> Markup:
    """The controls above the sheet; without the page's script they are not there."""
    if len(rows) < 2:
        return EMPTY
    names = sorted({name for row in rows if (name := top_label(row)) is not None})
    options = joined(html('<option value="{}">{}</option>', name, name) for name in names)
    wrong = Markup('<label><input type="checkbox" name="wrong"> Wrong only</label>') if judged else EMPTY
    return html(
        '<form class="tools" data-sheet="label-sheet" data-script hidden aria-label="Filter the images">'
        '<label>Class <select name="class"><option value="">all</option>{}</select></label>'
        '<label>Score from <input type="range" name="least" min="0" max="100" step="5" value="0">'
        '<output data-for="least"></output></label>{}<output data-for="count" aria-live="polite"></output>'
        '<button type="reset">All</button></form>',
        *(options, wrong),
    )


def _sheet(rows: list[Labelled], wrong: set[str], sample: Sample) -> Markup:
    cards = []
    for place, row in enumerate(rows):
        pairs = _pairs(row)
        about = (place, pairs[0][0] if pairs else "", pairs[0][1] if pairs else 0.0, int(row["uri"] in wrong))
        data = html('data-place="{}" data-class="{}" data-score="{:.6f}" data-wrong="{}"', *about)
        cards.append(_card(row, sample, data))
    return html('<div class="sheet" id="label-sheet">{}</div>', joined(cards))


def _card(row: Labelled, sample: Sample, data: Markup = EMPTY) -> Markup:
    pairs = _pairs(row)
    if not pairs:
        caption = html('<p class="answer none">no label above the threshold</p>{}', key_line(row))
        return figure(tile(sample, row, name_of(row)), caption, data=data)
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
    return figure(tile(sample, row, f"{name_of(row)}: {name}, {share(score)}"), caption, data=data)


def _classes(shown: list[Labelled], sample: Sample) -> Markup:
    rows = sample.survey.good() or cast("list[Row]", shown)
    counts = Counter(name for row in rows if (name := top_label(row)) is not None)
    if not counts:
        return EMPTY
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    entries = [(name, float(number), f"{number:,}") for name, number in ordered[:CLASSES]]
    rest = sum(number for _, number in ordered[CLASSES:])
    if rest:
        entries.append((f"{len(ordered) - CLASSES:,} other classes", float(rest), f"{rest:,}"))
    pictured = grouped((row for row in shown if row["uri"] in sample.thumbnails), lambda row: top_label(row) or "")
    few = [_few(pictured.get(name, []), sample) for name, _ in ordered[:CLASSES]]
    lead = f"How often each class came first among {sample.survey.of(len(rows))}, and the surest pictures of it."
    return section("classes", "Classes", lead, bars("Images by first label", entries, beside=few))


def _few(rows: list[Labelled], sample: Sample) -> Markup:
    """The surest pictures of a class."""
    best = sorted(rows, key=lambda row: (-_pairs(row)[0][1], row["uri"]))[:FEW]
    return joined(tile(sample, row, f"{name_of(row)}: {top_label(row)}", small=True) for row in best)


def _scores(sample: Sample) -> Markup:
    """How many first scores lie in each tenth, and which share reaches its lower end."""
    scores = [pairs[0][1] for row in sample.survey.good() if (pairs := _pairs(cast("Labelled", row)))]
    if not scores:
        return EMPTY
    entries = []
    for least in THRESHOLDS:
        inside = sum(least <= score < least + 0.1 or (least == THRESHOLDS[0] and score >= 1) for score in scores)
        above = sum(score >= least for score in scores) / len(scores)
        entries.append((f"from {least:.1f}", float(inside), f"{inside:,} · {share(above)}"))
    lead = (
        f"The first scores of {sample.survey.of(len(scores))} in steps of a tenth: how many lie in each, and which "
        "share of all has this score or a higher one, as --threshold would leave."
    )
    return section("scores", "Scores", lead, bars("Images by first score", entries, kind="wide-value"))
