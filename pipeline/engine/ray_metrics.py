"""A run's figures among Ray's own metrics: `ray_beit_images_total` and so on, for whoever scrapes the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.metrics import BOUNDS_S, METRICS, Metric


class RayMetrics:
    """See `pipeline.metrics.Sink`; `ray` is the module, connected to a cluster."""

    def __init__(self, ray: Any) -> None:
        made = ray.util.metrics
        kinds = {"counter": made.Counter, "gauge": made.Gauge, "histogram": made.Histogram}
        self.made: dict[Metric, Any] = {}
        for metric in METRICS:
            more = {"boundaries": list(BOUNDS_S)} if metric.kind == "histogram" else {}
            self.made[metric] = kinds[metric.kind](metric.name, metric.help, tag_keys=metric.labels, **more)

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """See `Sink`."""
        verb = {"counter": "inc", "gauge": "set", "histogram": "observe"}[metric.kind]
        getattr(self.made[metric], verb)(value, tags=dict(labels))
