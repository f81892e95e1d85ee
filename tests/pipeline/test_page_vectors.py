"""Embeddings on the page: near-duplicates, neighbours, the map and its colours."""

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.page import page
from pipeline.page.embed import duplicates, nearest
from pipeline.page.layout import plane, spread_out
from tests.flow import DIGITS, make_tar, run_here
from tests.outputs import Examples, beginning


def unit(vectors: np.ndarray) -> np.ndarray:
    found: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def crowded() -> np.ndarray:
    """Four dense groups of 40 and one far outlier, which a linear map lets fill the picture."""
    random = np.random.default_rng(0)
    centres = np.eye(16)[:4] * 0.2 + np.eye(16)[10]
    groups = [centre + 0.01 * random.normal(size=(40, 16)) for centre in centres]
    return unit(np.concatenate([*groups, np.eye(16)[[15]] - np.eye(16)[[10]]]))


def test_nearest_are_the_most_similar_others() -> None:
    order, cosines = nearest(np.array([[1, 0], [0, 1], [0.8, 0.6], [0.6, 0.8]], dtype=np.float32), 5)
    assert order.tolist() == [[2, 3, 1], [3, 2, 0], [3, 0, 1], [2, 1, 0]]
    np.testing.assert_allclose(cosines[0], [0.8, 0.6, 0], atol=1e-6)


def test_near_duplicates_are_groups_the_most_similar_first() -> None:
    vectors = unit(np.array([[1, 0, 0], [0, 1, 0], [1, 0.1, 0], [0, 1, 0.01], [0, 0, 1.0], [1, 0.05, 0]]))
    found = duplicates(vectors, 0.99)
    assert [{place for place, _ in members} for members in found] == [{1, 3}, {0, 2, 5}]
    assert all(cosine >= 0.99 for members in found for _, cosine in members)
    assert duplicates(np.eye(4)) == []
    assert duplicates(np.zeros((3, 8))) == []


@pytest.mark.parametrize("vectors", [np.eye(3), np.zeros((3, 8)), np.ones((40, 1)), np.arange(12.0).reshape(6, 2)])
def test_map_lies_in_the_unit_square(vectors: np.ndarray) -> None:
    for places in (plane(vectors), spread_out(vectors)):
        assert places.shape == (len(vectors), 2)
        assert places.min() >= 0
        assert places.max() <= 1


def test_map_gives_room_to_crowds_and_keeps_neighbours() -> None:
    vectors = crowded()
    places = spread_out(vectors)
    cells = [len({tuple(cell) for cell in (found * 7.999).astype(int).tolist()}) for found in (plane(vectors), places)]
    assert cells[1] > 2 * cells[0]
    away = np.linalg.norm(places[:, None] - places[None], axis=2) + 9 * np.eye(len(places))
    groups = np.arange(160) // 40
    assert (groups[away[:160, :160].argmin(axis=1)] == groups).mean() > 0.97
    assert (spread_out(vectors) == places).all()


def test_duplicates_come_first_with_pictures_and_classes_have_colours(tmp_path: Path) -> None:
    members = beginning(min((DIGITS / "shards").glob("*.tar")))
    twice = [(f"copy-{name}", data) for name, data in members[:2]]
    make_tar(tmp_path / "in/a.tar", [*members, *twice])
    assert run_here(tmp_path / "in", tmp_path / "out", "embed", keep=("cls",)) == 0
    text = Path(page.write(str(tmp_path / "out"))).read_text()
    order = [text.index(f'<section id="{name}"') for name in ("duplicates", "neighbours", "map")]
    assert order == sorted(order)
    first = re.search(r'<div class="near group">(.*?)</div>', text, re.DOTALL)
    assert first is not None
    assert first[1].count("<img") >= 2
    assert re.findall(r'class="answer"><b>(.*?)</b>', first[1])[:2] == ["first", "1.000"]
    assert "Among the 31 images of the sample" in text
    assert len(set(re.findall(r'stroke="(#\w+)"', text))) > 3


def test_without_classes_the_map_has_no_colours(examples: Examples, tmp_path: Path) -> None:
    assert "stroke=" not in Path(page.write(str(examples.copy("embed", tmp_path)))).read_text()
