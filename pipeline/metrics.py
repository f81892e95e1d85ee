"""A run's figures for monitoring, recorded by the driver on each receipt: for a text file, and for Ray's own export."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from pipeline.output.receipts import Receipt


@dataclass(frozen=True)
class Metric:
    """What is measured; `labels` are the names of its labels, in order."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


IMAGES = Metric("beit_images", "counter", "Images whose span this run has finished, by status.", ("task", "status"))
STEP = Metric("beit_step_seconds", "histogram", "Seconds that a finished span has spent in a step.", ("step",))
PLANNED = Metric("beit_images_planned", "gauge", "Images for this run to do, as far as they are planned.")
BUSY = Metric("beit_accelerator_busy", "gauge", "Share of the time in which the accelerators of this run worked.")
SUCCESS = Metric("beit_last_success_timestamp_seconds", "gauge", "When a run last ended with exit code 0.")
# The same moment. Ray's nodes forget a gauge some 20 s after its process has ended, and a scrape a minute may never see
# it; what is counted they keep.
SUCCEEDED = Metric(
    "beit_success_timestamp_seconds", "counter", "When this run ended with exit code 0, kept as a count."
)
METRICS = (IMAGES, STEP, PLANNED, BUSY, SUCCESS, SUCCEEDED)
BOUNDS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)  # upper ends of a histogram's buckets


class Sink(Protocol):
    """Where figures go."""

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """Add to a counter, set a gauge, observe a value for a histogram."""


class Metrics:
    """The figures of one run, from its receipts."""

    def __init__(self, task: str) -> None:
        self.task = task
        self._text = Text()
        self._sinks: list[Sink] = [self._text]
        self.planned(0)

    def also_to(self, sink: Sink) -> None:
        """Record what follows there too."""
        self._sinks.append(sink)

    def receipt(self, receipt: Receipt) -> None:
        """A span is finished."""
        for status, count in receipt.facts.statuses.items():
            if count:
                self._record(IMAGES, count, task=self.task, status=status)
        for step, seconds in receipt.seconds.items():
            self._record(STEP, seconds, step=step)

    def planned(self, images: int) -> None:
        """So many images are for this run to do, those done included."""
        self._record(PLANNED, images)

    def busy(self, share: float | None) -> None:
        """How busy accelerators were so far; None where that means nothing."""
        if share is not None:
            self._record(BUSY, share)

    def succeeded(self) -> None:
        """The run ends with exit code 0."""
        now = time.time()
        self._record(SUCCESS, now)
        self._record(SUCCEEDED, now)

    def text(self) -> str:
        """All of it in Prometheus' text format."""
        return self._text.text()

    def _record(self, metric: Metric, value: float, **labels: str) -> None:
        for sink in self._sinks:
            sink.record(metric, value, labels)


class Text:
    """Figures kept for Prometheus' text format, version 0.0.4."""

    def __init__(self) -> None:
        self.values: dict[Metric, dict[str, float]] = {metric: {} for metric in METRICS}  # by the sample's name

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """See `Sink`."""
        values = self.values[metric]
        if metric.kind == "gauge":
            values[_sample(metric.name, labels)] = value
            return
        for name, more in _samples(metric, value, labels):
            values[name] = values.get(name, 0) + more

    def text(self) -> str:
        """Every metric that has a value, with its help and type."""
        lines = []
        for metric, values in self.values.items():
            name = f"{metric.name}_total" if metric.kind == "counter" else metric.name
            if values:
                lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
                lines += [f"{sample} {value!r}" for sample, value in values.items()]
        return "\n".join(lines) + "\n"


def _samples(metric: Metric, value: float, labels: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """What a counter's or histogram's new value adds to which of its samples."""
    if metric.kind == "counter":
        yield _sample(f"{metric.name}_total", labels), value
        return
    for bound in (*BOUNDS_S, float("inf")):
        end = "+Inf" if bound == float("inf") else f"{bound:g}"
        yield _sample(f"{metric.name}_bucket", {**labels, "le": end}), int(value <= bound)
    yield _sample(f"{metric.name}_sum", labels), value
    yield _sample(f"{metric.name}_count", labels), 1


def _sample(name: str, labels: Mapping[str, str]) -> str:
    """A sample's name with its labels, which are words of ours or names of tasks."""
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    pairs = ",".join(f'{label}="{text.translate(escapes)}"' for label, text in labels.items())
    return f"{name}{{{pairs}}}" if pairs else name
