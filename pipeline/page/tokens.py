"""Pictures of visual tokens: a mosaic per image, coloured by token; what was masked, predicted, and the loss."""

from __future__ import annotations

import colorsys
import functools
import math
from typing import Required, cast

import numpy as np
from markupsafe import Markup
from PIL import Image

from pipeline.page import pictures
from pipeline.page.opened import tile
from pipeline.page.parts import (
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
from pipeline.page.sample import Sample

CARDS = 18
CELL, RIM, DOT = 12, 3, 4  # pixels of a cell, of a hollow cell's rim, and around a dot
FADED = np.array([128, 132, 138], dtype=np.float64)
HOLLOW = 28.0
COLUMNS = ("tokens", "masked", "predicted", "loss")
NEEDED = 1


class Tokenised(Row, total=False):
    """A row with an answer of a tokens job; the last three columns are there for masked prediction only."""

    tokens: Required[list[int]]
    masked: list[bool]
    predicted: list[int]
    loss: float


def sections(sample: Sample) -> list[Markup]:
    """Mosaics; with masked prediction also the predictions, from the most surprising image to the least."""
    rows = [row for row in cast("list[Tokenised]", sample.good()) if row.get("tokens")]
    if not rows:
        return []
    shown = [row for row in rows if row["uri"] in sample.thumbnails] or rows
    surprising = sorted(
        (row for row in shown if row.get("loss") is not None), key=lambda row: (-row["loss"], row["uri"])
    )
    lead = _lead(rows)
    if surprising:
        lead += " The highest loss comes first, the lowest last."
    cards = _cards(even(surprising or shown, CARDS), sample)
    return [section("tokens", "Token mosaics", lead, cards)]


def _lead(rows: list[Tokenised]) -> str:
    tokens = np.array([row["tokens"] for row in rows])
    side = math.isqrt(tokens.shape[1])
    grid = f" as a grid of {side} x {side}" if side * side == tokens.shape[1] else ""
    said = (
        f"The {tokens.shape[1]:,} tokens of each image{grid}; equal colours are equal tokens. "
        f"The sample of {plural(len(rows), 'image')} uses {plural(len(np.unique(tokens)), 'different token')}."
    )
    masked = [row for row in rows if row.get("masked") and row.get("predicted")]
    if not masked:
        return said
    hidden, predicted = np.array([row["masked"] for row in masked]), np.array([row["predicted"] for row in masked])
    right = np.array([row["tokens"] for row in masked]) == predicted
    accuracy = right[hidden].mean() if hidden.any() else 0.0
    return said + (
        f" Hollow cells were hidden from the model ({share(hidden.mean())}); the last picture shows what it predicted "
        f"there, with a dot where it was right ({share(float(accuracy))})."
    )


def _cards(rows: list[Tokenised], sample: Sample) -> Markup:
    decoded: list[bytes | None] = [None] * len(rows)
    if sample.decoder is not None:
        pixels = sample.decoder(np.array([row["tokens"] for row in rows]))
        decoded = [pictures.encode(Image.fromarray(one)) for one in pixels]
    return sheet((_card(row, sample, back) for row, back in zip(rows, decoded, strict=True)), "pairs")


def _card(row: Tokenised, sample: Sample, decoded: bytes | None) -> Markup:
    name, hidden = name_of(row), row.get("masked")
    parts = [
        (tile(sample, row, name), "image"),
        (image(mosaic(row["tokens"], hidden), f"Tokens of {name}", "pixels"), "tokens"),
    ]
    if decoded:
        parts.append((image(decoded, f"{name} decoded from its tokens"), "decoded"))
    if hidden and row.get("predicted"):
        drawn = predictions(row["tokens"], hidden, row["predicted"])
        parts.append((image(drawn, f"Predicted tokens of {name}", "pixels"), "predicted"))
    loss = row.get("loss")
    said = f"loss {loss:.3f}" if loss is not None else f"{len(set(row['tokens'])):,} different tokens"
    return figure(
        html(
            '<div class="pair captions">{}</div>',
            joined(html('<div>{}<p class="under">{}</p></div>', part, said) for part, said in parts),
        ),
        html('<p class="answer"><b>{}</b></p>{}', said, key_line(row)),
        "wide",
    )


@functools.cache
def colour(token: int) -> tuple[int, int, int]:
    """A token's colour, the same in every report: its hash spread over hue, saturation and lightness."""
    mixed = (token * 2654435761 + 0x9E3779B9) & 0xFFFFFFFF
    mixed ^= mixed >> 15
    hue, light, strong = (mixed & 0xFFFF) / 0x10000, (mixed >> 16 & 0xFF) / 0xFF, (mixed >> 24) / 0xFF
    red, green, blue = colorsys.hls_to_rgb(hue, 0.42 + 0.32 * light, 0.35 + 0.35 * strong)
    return round(255 * red), round(255 * green), round(255 * blue)


def _cells(tokens: list[int]) -> np.ndarray:
    """Colours (R, C, CELL, CELL, 3) of the tokens, row by row; a last row that is not full stays grey."""
    columns = math.isqrt(len(tokens) - 1) + 1
    flat = np.full((-(-len(tokens) // columns) * columns, 3), FADED)
    flat[: len(tokens)] = [colour(token) for token in tokens]
    grid = flat.reshape(-1, columns, 1, 1, 3)
    return np.broadcast_to(grid, (*grid.shape[:2], CELL, CELL, 3)).copy()


def _png(cells: np.ndarray) -> bytes:
    rows, columns = cells.shape[:2]
    pixels = cells.transpose(0, 2, 1, 3, 4).reshape(rows * CELL, columns * CELL, 3)
    return pictures.png(Image.fromarray(np.rint(pixels).astype(np.uint8)))


def _inside(cells: np.ndarray, which: list[bool]) -> np.ndarray:
    """The mask (R, C) of the cells."""
    flags = np.zeros(cells.shape[0] * cells.shape[1], dtype=bool)
    flags[: len(which)] = which
    return flags.reshape(cells.shape[:2])


def mosaic(tokens: list[int], masked: list[bool] | None) -> bytes:
    """The tokens as a PNG of coloured cells; masked ones are hollow."""
    cells = _cells(tokens)
    if masked:
        cells[_inside(cells, masked)[:, :, None, None] & _middle(RIM)] = HOLLOW
    return _png(cells)


def _middle(rim: int) -> np.ndarray:
    """The part (CELL, CELL) of a cell that a rim of so many pixels leaves."""
    middle = np.zeros((CELL, CELL), dtype=bool)
    middle[rim : CELL - rim, rim : CELL - rim] = True
    return middle


def predictions(tokens: list[int], masked: list[bool], predicted: list[int]) -> bytes:
    """Visible cells faded, hidden ones as predicted, with a dot where the prediction was right."""
    cells = _cells([guess if hidden else token for token, hidden, guess in zip(tokens, masked, predicted, strict=True)])
    inside = _inside(cells, masked)
    cells[~inside] = 0.25 * cells[~inside] + 0.75 * FADED
    right = _inside(cells, [bool(m and t == p) for t, m, p in zip(tokens, masked, predicted, strict=True)])
    cells[right[:, :, None, None] & _middle(DOT)] = 255
    return _png(cells)
