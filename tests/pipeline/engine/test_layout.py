"""How nodes are used: the rule, and the sentence that says it."""

import pytest

from pipeline.engine.layout import Layout, Node, check_gpus, layout_of
from pipeline.errors import ConfigError


def said(layout: Layout) -> tuple[str, int, int]:
    return layout.kind, layout.workers, layout.children


@pytest.mark.parametrize(
    ("nodes", "expected", "text"),
    [
        ([Node(2, 0)], ("fused", 2, 1), "2 CPUs on 1 node: 2 fused"),
        ([Node(24, 2), Node(24, 2)], ("fused", 4, 11), "4 GPUs on 2 nodes, 12 CPUs each: fused"),
        ([Node(2, 1)], ("fused", 1, 2), "1 GPU on 1 node, 2 CPUs each: fused"),
        ([Node(2, 1), Node(16, 0)], ("split", 1, 1), "1 GPU on 1 node, 2 CPUs each, 16 CPUs on other nodes: split"),
        ([Node(8, 1), Node(64, 0)], ("fused", 1, 7), "1 GPU on 1 node, 8 CPUs each: fused"),
    ],
)
def test_workers_own_their_share_of_the_cpus(nodes: list[Node], expected: tuple[str, int, int], text: str) -> None:
    layout = layout_of(nodes, 1.0, None)
    assert said(layout) == expected
    assert layout.said == text


@pytest.mark.parametrize("cpus", [1, 2, 3, 16])
def test_ray_keeps_some_of_the_cpus(cpus: int) -> None:
    layout = layout_of([Node(cpus, 0)], 1.0, None)
    assert layout.workers * layout.cpus < cpus


@pytest.mark.parametrize(
    ("share", "gpus", "workers"), [(0.5, 1, 2), (0.2, 1, 5), (0.1, 8, 80), (0.4, 5, 10), (0.3334, 1, 2), (2, 7, 3)]
)
def test_there_is_a_worker_for_each_share_of_a_gpu_that_ray_gives(share: float, gpus: int, workers: int) -> None:
    assert layout_of([Node(64, gpus)], share, None).workers == workers


def test_a_number_of_workers_is_taken_as_given() -> None:
    assert layout_of([Node(4, 0)], 1.0, 2).workers == 2
    assert layout_of([Node(8, 2)], 0.5, 3).workers == 3


@pytest.mark.parametrize(
    ("cpus", "least", "most", "each"),
    [(2, 1, 8, 0.9), (2, 2, 8, 0.9), (2, 4, 8, 0.45), (2, 8, 8, 0.225), (16, 1, 2, 1), (16, 2, 2, 1), (1, 1, 100, 0.9)],
)
def test_workers_that_may_come_later_do_not_crowd_the_cpus_that_are_there(
    cpus: int, least: int, most: int, each: float
) -> None:
    """An autoscaler adds nodes for those that do not fit; no node would come if all fitted."""
    layout = layout_of([Node(cpus, 0)], 1.0, most, least)
    assert (layout.workers, layout.cpus) == (most, pytest.approx(each))


@pytest.mark.parametrize(("wanted", "most", "said"), [(2, 0, "there is no GPU"), (0.5, 0, "no GPU"), (2, 1, "has 1")])
def test_gpus_that_no_node_has_are_refused(wanted: float, most: float, said: str) -> None:
    with pytest.raises(ConfigError, match=f"--gpus-per-worker {wanted}: .*{said}"):
        check_gpus(wanted, most, bounded=False)


def test_the_default_asks_for_a_gpu_only_where_there_is_one() -> None:
    check_gpus(1, 0, bounded=False)
    check_gpus(0.5, 4, bounded=False)
    check_gpus(2, 1, bounded=True)  # as a larger node may still come
