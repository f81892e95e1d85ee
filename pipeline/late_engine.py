"""The engine of a run, started when it is first needed: a run that finds nothing to do starts no Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipeline.address import address_of
from pipeline.config import RunConfig
from pipeline.continued import warn_of_device
from pipeline.engine.engine import Engine, InProcess
from pipeline.log import phase, say
from pipeline.report import RunReport, fed
from pipeline.spec import Device, JobSpec, Trial


class LateEngine:
    """The engine, started when first needed; `started` is called then, before anything else is done with it."""

    def __init__(self, config: RunConfig, report: RunReport, started: Callable[[], None] = lambda: None) -> None:
        self.config, self.report, self.started = config, report, started
        self.running: Engine | None = None
        self.predicts_on: Device | None = None

    def start(self) -> Engine:
        """Start it, or return the running one."""
        if self.running is None:
            self.running = InProcess(self.config) if self.config.local else _on_ray(self.config)
            self.started()
            if self.running.sink is not None:
                self.report.metrics.also_to(self.running.sink)
            say(f"{self.report.task}: {self.running.description}")
        return self.running

    def device(self, trial: Trial) -> Device:
        """The device of a worker; raises ConfigError where it cannot do what is asked."""
        self.predicts_on = self.start().device(trial)
        return self.predicts_on

    def ready(self, spec: JobSpec) -> Engine:
        """The engine, once it is known that it can do what the output is bound to; raises ConfigError if it cannot."""
        if self.predicts_on is None:
            warn_of_device(spec.bound, self.device(spec.trial))
        return self.start()

    def spec_for_workers(self, spec: JobSpec) -> JobSpec:
        """What workers are to know: where one can predict on an accelerator, no other falls back on its CPU."""
        return replace(spec, device_kind=self.predicts_on.kind) if self.predicts_on else spec

    def about(self) -> dict[str, object]:
        """What a report says of it."""
        if self.running is None:
            return {"mode": "none", "workers": 0, "decoders": 0}
        return {"mode": self.running.mode, "workers": self.running.workers, "decoders": self.running.decoders}

    def busy(self) -> float | None:
        """The share of the time in which accelerators worked; None for CPUs, and where too little was done to tell."""
        return None if self.running is None else self.report.busy(self.running.workers)

    def verdict(self) -> str:
        """Whether accelerators were kept busy; empty where nobody can tell."""
        busy = self.busy()
        return "" if self.running is None or busy is None else fed(busy, self.running.decoders)

    def close(self) -> None:
        """Leave it if it was started and has not been left."""
        running, self.running = self.running, None
        if running is not None:
            running.close()


def _on_ray(config: RunConfig) -> Engine:
    address = address_of(config.ray_address)
    with phase(f"joining the Ray cluster at {address}" if address else "starting Ray on this machine"):
        from pipeline.engine.on_ray import OnRay  # here: with --local nobody waits for Ray's import

        return OnRay(config)
