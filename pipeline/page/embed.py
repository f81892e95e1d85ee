"""Pictures of embeddings: nearest neighbours, and a map of the sample."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from pipeline.page import pictures
from pipeline.page.charts import scatter
from pipeline.page.label import top_label
from pipeline.page.parts import Row, figure, html, image, joined, key_line, name_of, plural, section, share
from pipeline.page.reader import even
from pipeline.page.sample import Sample

COLUMNS = ("embedding",)
QUERIES, NEAREST = 8, 5
DOT = 48  # pixels of a picture on the map


def sections(sample: Sample) -> list[Markup]:
    """Nearest neighbours and the map; nothing for fewer than three vectors, which have neither."""
    if sample.vectors is None or len(sample.vectors) < 3:
        return []
    unit = sample.vectors / np.maximum(np.linalg.norm(sample.vectors, axis=1, keepdims=True), 1e-12)
    unit = np.nan_to_num(unit)
    return [_neighbours(sample, unit), _map(sample, unit)]


def nearest(unit: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of (N, D) unit vectors the `count` most similar others and their cosines, best first."""
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(count, len(unit) - 1)]
    return order, np.take_along_axis(cosine, order, axis=1)


def plane(unit: np.ndarray) -> tuple[np.ndarray, float]:
    """(N, D) on its two principal axes, scaled to the unit square, and the share of variance they carry."""
    centred = unit - unit.mean(axis=0)
    left, strength, axes = np.linalg.svd(centred, full_matrices=False)
    width = min(2, len(strength))
    turn = np.sign(axes[np.arange(width), np.abs(axes[:width]).argmax(axis=1)])  # the signs of an SVD are arbitrary
    places = np.zeros((len(unit), 2))
    places[:, :width] = left[:, :width] * strength[:width] * turn
    low, high = places.min(axis=0), places.max(axis=0)
    explained = float((strength[:width] ** 2).sum() / max((strength**2).sum(), 1e-12))
    return (places - low) / np.maximum(high - low, 1e-12), explained


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
    picture = image(sample.thumbnails.get(row["uri"]), f"{_name(row)} ({said})")
    return figure(picture, caption, "query" if said == "query" else "")


def _name(row: Row) -> str:
    label = top_label(row)
    return f"{name_of(row)}: {label}" if label else name_of(row)


def _map(sample: Sample, unit: np.ndarray) -> Markup:
    places, explained = plane(unit)
    side = float(np.clip(0.56 * np.sqrt(1200 * 800 / len(unit)), 30, 72))
    spots = []
    for (x, y), row in zip(places, sample.vector_rows, strict=True):
        picture = sample.thumbnails.get(row["uri"])
        spots.append((float(x), float(y), _name(row), pictures.shrink(picture, DOT) if picture else None))
    lead = (
        f"{plural(len(unit), 'image')} of the sample on the two directions in which their vectors differ most "
        f"(principal components, {share(explained)} of the variance). "
        "Images that are close here are probably, but not certainly, similar."
    )
    return section("map", "Map", lead, scatter(f"Map of {plural(len(unit), 'image')} by their embeddings", spots, side))
