"""How a cluster's nodes are used: a rule decides from their resources; the first line of a run states the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ConfigError

FEW_CPUS = 4  # a GPU with fewer beside it is fed from other nodes, if there are any
SHARE = 0.9  # of the CPUs go to workers; Ray keeps the rest, without which it hangs
ROUNDING = 1e-6  # of a number of workers: Ray counts GPUs in ten thousandths, and 1 // 0.1 is 9


@dataclass(frozen=True)
class Node:
    """What a node of the cluster offers."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Layout:
    """`fused`: a worker does all steps of its spans. `split`: reading, predicting and writing are steps of their own.

    `workers` is how many predictors fit, `cpus` what each asks for (in a fused layout), `children` how many processes
    decode for it.
    """

    kind: Literal["fused", "split"]
    on_gpus: bool
    workers: int
    cpus: float
    children: int
    said: str
    readers: int = 0  # CPUs on which the split layout reads


def check_gpus(wanted: float, most: float, *, bounded: bool) -> None:
    """Raise ConfigError where no node offers the GPUs of one worker; `most` is what a node has at most.

    Where `--workers` bounds their number, larger nodes may still come.
    """
    if most == 0 and wanted != 1:
        raise ConfigError(f"--gpus-per-worker {wanted:g}: there is no GPU; leave it out, or wait with --device gpu")
    if 0 < most < wanted and not bounded:
        raise ConfigError(f"--gpus-per-worker {wanted:g}: a node has {most:g} GPUs at most")


def layout_of(nodes: Sequence[Node], gpus_per_worker: float, workers: int | None, least: int | None = None) -> Layout:
    """The layout for these nodes; `workers` is the flag's upper bound (None: as many as fit), `least` its lower one.

    With GPUs: one fused worker per accelerator, which owns its share of the node's CPUs. Split only where GPU nodes
    have fewer than `FEW_CPUS` CPUs for each GPU and nodes without GPUs have more CPUs than they. Without: a fused
    worker per CPU. Where the flag asks for more, they share the CPUs; those above `least` are to have nodes that come.
    """
    with_gpus = [node for node in nodes if node.gpus >= gpus_per_worker]
    if with_gpus:
        elsewhere = sum(node.cpus for node in nodes if node.gpus < gpus_per_worker)
        return _on_gpus(with_gpus, elsewhere, gpus_per_worker, workers)
    cpus = sum(node.cpus for node in nodes)
    count = workers or max(1, int(cpus))
    said = f"{_counted(cpus, 'CPU')} on {_nodes(nodes)}: {count} fused"
    sharing = max(min(count, int(cpus)), least or count)
    return Layout("fused", False, count, min(1.0, SHARE * cpus / sharing), 1, said)


def _on_gpus(nodes: Sequence[Node], elsewhere: float, gpus_per_worker: float, workers: int | None) -> Layout:
    """For nodes with GPUs, and so many CPUs on other nodes."""
    count = workers or max(1, sum(_fitting(node, gpus_per_worker) for node in nodes))
    beside = min(node.cpus / node.gpus for node in nodes)
    said = f"{_counted(sum(node.gpus for node in nodes), 'GPU')} on {_nodes(nodes)}, {_counted(beside, 'CPU')} each"
    if beside < FEW_CPUS and elsewhere > sum(node.cpus for node in nodes):
        said = f"{said}, {_counted(elsewhere, 'CPU')} on other nodes: split"
        return Layout("split", True, count, 0.0, 1, said, readers=int(elsewhere))
    share = beside * gpus_per_worker
    children = int(share) - 1 if share >= FEW_CPUS else int(share)
    return Layout("fused", True, count, SHARE * share, max(1, children), f"{said}: fused")


def _fitting(node: Node, gpus_per_worker: float) -> int:
    """Workers for which a node has GPUs; each that has a part of one has it of one alone."""
    if gpus_per_worker >= 1:
        return int(node.gpus // gpus_per_worker)
    return int(node.gpus) * int(1 / gpus_per_worker + ROUNDING)


def _nodes(nodes: Sequence[Node]) -> str:
    return _counted(len(nodes), "node")


def _counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
