"""Pictures of embeddings: near-duplicates, nearest neighbours, and a map of the sample."""

from __future__ import annotations

from collections import Counter

import numpy as np
from markupsafe import Markup

from pipeline.classes import word_of
from pipeline.page import pictures
from pipeline.page.charts import Spot, Swatch, legend, scatter
from pipeline.page.label import top_label
from pipeline.page.layout import spread_out
from pipeline.page.opened import tile, value_of
from pipeline.page.palette import GREY, distinct
from pipeline.page.parts import EMPTY, Row, figure, html, joined, key_line, name_of, plural, section
from pipeline.page.reader import even
from pipeline.page.sample import Sample

COLUMNS = ("embedding",)
NEEDED = 1
QUERIES, NEAREST = 8, 5
ALIKE, GROUPS, IN_GROUP = 0.98, 8, 6  # the cosine from which images are near-duplicates; groups shown; of each
CLASSES = 12  # with a colour on the map
DOT = 40  # pixels of a picture on the map


def sections(sample: Sample) -> list[Markup]:
    """Near-duplicates, nearest neighbours and the map; nothing for fewer than three vectors, which have neither."""
    if sample.vectors is None or len(sample.vectors) < 3:
        return []
    unit = sample.vectors / np.maximum(np.linalg.norm(sample.vectors, axis=1, keepdims=True), 1e-12)
    unit = np.nan_to_num(unit)
    return [_duplicates(sample, unit), _neighbours(sample, unit), _map(sample, unit)]


def nearest(unit: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of (N, D) unit vectors the `count` most similar others and their cosines, best first."""
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(count, len(unit) - 1)]
    return order, np.take_along_axis(cosine, order, axis=1)


def duplicates(unit: np.ndarray, least: float = ALIKE) -> list[list[tuple[int, float]]]:
    """Groups of (N, D) unit vectors with at least this cosine to the first of their group: places and cosines.

    The most similar come first; nothing is in two groups.
    """
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    free, found = np.ones(len(unit), dtype=bool), []
    for first in np.argsort(-cosine.max(axis=1), kind="stable"):
        others = np.flatnonzero(free & (cosine[first] >= least))
        if not free[first] or not len(others):
            continue
        others = others[np.argsort(-cosine[first, others], kind="stable")]
        free[others] = free[first] = False
        found.append([(int(first), 1.0), *((int(i), float(cosine[first, i])) for i in others)])
    return found


def _duplicates(sample: Sample, unit: np.ndarray) -> Markup:
    found = duplicates(unit)
    of = f"Among the {plural(len(unit), 'image')} of the sample"
    if not found:
        return section("duplicates", "Near-duplicates", f"{of}, no two have a cosine of {ALIKE} or more.")
    lead = (
        f"{of}, {plural(len(found), 'group')} of images whose vectors have a cosine of {ALIKE} or more with the first "
        f"of the group, the most similar first. The other images of the output are not compared."
    )
    rows = []
    for members in found[:GROUPS]:
        cards = [
            _card(sample, at, f"{cosine:.3f}" if at != members[0][0] else "first") for at, cosine in members[:IN_GROUP]
        ]
        more = html('<p class="under">and {:,} more</p>', len(members) - IN_GROUP) if members[IN_GROUP:] else EMPTY
        rows.append(html('<div class="near group">{}{}</div>', joined(cards), more))
    return section("duplicates", "Near-duplicates", lead, joined(rows))


def _neighbours(sample: Sample, unit: np.ndarray) -> Markup:
    order, cosines = nearest(unit, NEAREST)
    shown = [place for place, row in enumerate(sample.vector_rows) if row["uri"] in sample.thumbnails]
    queries = even(shown or list(range(len(unit))), QUERIES)
    lead = (
        f"An image, and the {order.shape[1]} of the other {len(unit) - 1:,} in the sample whose vectors are "
        f"most similar (cosine). Vectors have {sample.vectors.shape[1]:,} numbers."
        if sample.vectors is not None
        else ""
    )
    rows = []
    for query in queries:
        near = [_card(sample, int(i), f"{c:.3f}") for i, c in zip(order[query], cosines[query], strict=True)]
        rows.append(html('<div class="near">{}{}</div>', _card(sample, query, "query"), joined(near)))
    return section("neighbours", "Nearest neighbours", lead, joined(rows))


def _card(sample: Sample, place: int, said: str) -> Markup:
    row = sample.vector_rows[place]
    caption = html('<p class="answer"><b>{}</b></p>{}', said, key_line(row))
    picture = tile(sample, row, f"{_name(row)} ({said})" if said else _name(row))
    return figure(picture, caption, "query" if said == "query" else "")


def _name(row: Row) -> str:
    label = top_label(row)
    return f"{name_of(row)}: {label}" if label else name_of(row)


def _map(sample: Sample, unit: np.ndarray) -> Markup:
    side = float(np.clip(0.56 * np.sqrt(1200 * 800 / len(unit)), 30, 72))
    colours = _colours(sample)
    spots = []
    for (x, y), row in zip(spread_out(unit), sample.vector_rows, strict=True):
        picture = sample.thumbnails.get(row["uri"])
        colour = colours.get(_class(row, sample), GREY if colours else "")
        spots.append(Spot(float(x), float(y), _name(row), pictures.dot(picture, DOT) if picture else None, colour))
    lead = (
        f"{plural(len(unit), 'image')} of the sample, near those with similar vectors (t-SNE). What is close here is "
        "probably similar; distances between groups mean little."
    )
    told = legend([Swatch(name, colour=colour) for name, colour in colours.items()]) if colours else EMPTY
    drawn = scatter(f"Map of {plural(len(unit), 'image')} by their embeddings", spots, side)
    return section("map", "Map", lead, told, drawn)


def _class(row: Row, sample: Sample) -> str:
    """The class that an image is coloured by: the truth where it was kept, else its first label."""
    truth = word_of(value_of(row, sample.truth)) if sample.truth else ""
    return truth or top_label(row) or ""


def _colours(sample: Sample) -> dict[str, str]:
    """A colour for each of the most frequent classes; none where all have the same class, or nearly each its own."""
    counts = Counter(name for row in sample.vector_rows if (name := _class(row, sample)))
    if not 2 <= len(counts) <= max(CLASSES, len(sample.vector_rows) // 4):
        return {}
    names = sorted(name for name, _ in counts.most_common(CLASSES))
    return dict(zip(names, distinct(len(names)), strict=True))
