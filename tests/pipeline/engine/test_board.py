"""Rows go to workers in groups: none is lost, the first ones go alone, and no group is much work."""

import pytest

from pipeline.engine.board import GROUP_IMAGES, GROUP_ROWS, IMAGE_BYTES, LONE, grouped
from pipeline.plan.rows import LooseSpan, Row, ShardRef, UnreadShard, to_json

ROWS = 1000


def loose(images: int) -> Row:
    return LooseSpan("name", "version", "part", 0, images)


def shard(size: int) -> Row:
    return UnreadShard(ShardRef("s3://bucket/a.tar", size, "version", "tar", "name"))


@pytest.mark.parametrize(
    ("row", "together"),
    [
        (loose(1), GROUP_ROWS),
        (loose(100), -(-GROUP_IMAGES // 100)),
        (loose(GROUP_IMAGES), 1),
        (shard(0), GROUP_ROWS),
        (shard(128 * IMAGE_BYTES), GROUP_IMAGES // 128),
        (shard(1 << 30), 1),
    ],
)
@pytest.mark.parametrize("workers", [1, 10])
def test_small_rows_go_together_behind_the_first_ones(row: Row, together: int, workers: int) -> None:
    groups = list(grouped(iter([row] * ROWS), workers))
    assert [pair for group in groups for pair in group] == [(number, to_json(row)) for number in range(ROWS)]
    lone = LONE * workers
    assert {len(group) for group in groups[:lone]} == {1}
    assert {len(group) for group in groups[lone:-1]} == {together}
