"""One invocation from start to exit code: check, bind, plan, execute, audit, report."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from pipeline import prepare, settings, storage
from pipeline.audit import Audit, audit
from pipeline.cluster import address_of
from pipeline.dry_run import dry_run
from pipeline.errors import ConfigError, ObjectUnreadable, PipelineError, StorageError, TooManyFailures
from pipeline.ledger import Ledger
from pipeline.output import writing
from pipeline.plan import Planner
from pipeline.prepare import Request
from pipeline.progress import Progress, answer, hush, say
from pipeline.report import Receipt, RunReport, run_id
from pipeline.settings import JobSpec, RunConfig
from pipeline.spans import Span
from pipeline.task import Task
from pipeline.worker import SpanWorker

ENDING_S = 1.0  # Ray ends its workers within that, also in the middle of a write; `ray job stop` gives 3 s in all
ROUNDS = 2  # passes over the plan; a second one does what was found missing or outdated at the end of the first


class Engine(Protocol):
    """Where spans are worked on."""

    mode: str

    @property
    def workers(self) -> int: ...

    def resolve_dtype(self) -> str: ...

    def execute(self, spec: JobSpec, rows: Iterator[Span]) -> Iterator[Receipt]: ...

    def close(self) -> None: ...


class InProcess:
    """No Ray: the same functions, one after another, for tests and debuggers."""

    mode = "local"
    workers = 1

    def resolve_dtype(self) -> str:
        """What `--dtype auto` means here."""
        from pipeline.predictor import auto_dtype

        return auto_dtype()

    def execute(self, spec: JobSpec, rows: Iterator[Span]) -> Iterator[Receipt]:
        """Receipts in the order of the rows."""
        worker = SpanWorker(spec)
        try:
            for row in rows:
                yield from worker(row)
        finally:
            worker.close()

    def close(self) -> None:
        """Nothing to leave."""


def run(config: RunConfig, task: Task) -> int:
    """Do what the command asks; returns the exit code, raises PipelineError for what has one of its own."""
    with _interruptible():
        if not config.local:
            address_of(config.ray_address)
        request = prepare.check(config, task)
        if config.dry_run:
            return dry_run(request)
        engine = _Later(config)
        try:
            return _run(config, request, engine)
        except KeyboardInterrupt:
            say("interrupted: nothing finished is lost, the same command continues")
            engine.close()
            storage.sweep(request.output, wait_s=ENDING_S)
            return 1
        except (OSError, ObjectUnreadable) as error:
            why = getattr(error, "strerror", None) or error
            raise StorageError(
                f"{why}; finished spans of {request.output} are safe, the same command continues"
            ) from error
        finally:
            engine.close()


class _Later:
    """The engine, started when first needed: a run that finds nothing to do starts no Ray."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.engine: Engine | None = None

    def start(self) -> Engine:
        """Start it, or return the running one."""
        if self.engine is None:
            self.engine = InProcess() if self.config.local else _on_ray(self.config)
            signal.signal(signal.SIGTERM, _stop)  # Ray has put its own handler there, which aborts
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the shell has it ignored
                signal.signal(signal.SIGINT, _stop)
        return self.engine

    def close(self) -> None:
        """Leave it if it was started."""
        if self.engine is not None:
            self.engine.close()


def _on_ray(config: RunConfig) -> Engine:
    from pipeline.run import OnRay

    return OnRay(config)


def _run(config: RunConfig, request: Request, engine: _Later) -> int:
    spec = prepare.bind(request, lambda: engine.start().resolve_dtype())
    storage.sweep(spec.output)
    report = RunReport(run_id(), request.task.name)
    for number in range(ROUNDS):
        ledger = Ledger(spec.output)
        retry = config.retry_failed and number == 0
        listing = request.sources.listing()
        planner = Planner(listing, spec, ledger, limit=config.limit, retry_failed=retry)
        _work(spec, planner, engine, report)
        for facts in report.facts.values():
            ledger.note(facts)
        report.skipped = listing.skipped
        found = audit(planner, ledger)
        if found.green and not found.incomplete:
            break
    return _conclude(config, spec, engine, report, ledger, found)


def _work(spec: JobSpec, planner: Planner, engine: _Later, report: RunReport) -> None:
    """Execute what the planner yields; the first row starts the engine and unfinishes the output."""
    with Progress(report.task) as progress:
        rows = _watched(planner, progress)
        first = next(rows, None)
        if first is None:
            return
        with writing(spec.output):
            storage.delete(storage.join(spec.output, "_SUCCESS"))
        for receipt in engine.start().execute(spec, _again(first, rows)):
            report.add(receipt)
            progress.advance(receipt.facts)
    storage.sweep(spec.output)  # workers may have been killed while they wrote


def _watched(planner: Planner, progress: Progress) -> Iterator[Span]:
    try:
        for row in planner:
            progress.expect(row)
            yield row
        progress.planning = False
    except ConfigError as error:  # the source could be listed when the run was checked
        raise StorageError(f"{error}; nothing finished is lost, the same command continues") from error


def _again(first: Span, rest: Iterator[Span]) -> Iterator[Span]:
    yield first
    yield from rest


def _conclude(config: RunConfig, spec: JobSpec, engine: _Later, report: RunReport, ledger: Ledger, found: Audit) -> int:
    """Save what was seen, the report and `_SUCCESS`; say it; return the exit code."""
    share = found.failed / max(found.planned, 1)
    code = 1 if not found.green or not found.planned else 3 if share > config.max_failed else 0
    running = engine.engine
    body = report.as_dict(
        mode=running.mode if running else "none",
        workers=running.workers if running else 0,
        skipped=dict(report.skipped),
        audit={**{name: getattr(found, name) for name in ("planned", "ok", "failed", "missing", "duplicates")},
               "line": found.line, "unfinished": list(found.unfinished)},
        exit=code,
    )  # fmt: skip
    body["images"] |= {"planned": found.planned}
    _save(spec.output, report, ledger, body, success=code == 0)
    _tell(spec, report, found, body)
    if code == 3:
        raise TooManyFailures(
            f"{found.failed:,} of {found.planned:,} images failed ({share:.2%}), more than --max-failed "
            f"{config.max_failed:g}; their rows say why, --retry-failed does them again"
        )
    if not found.planned:
        raise PipelineError(f"no image was found in {found.empty_shards:,} shards: is --image-column right?")
    if code == 1:
        raise PipelineError(f"the audit is not green ({found.line}): the same command continues")
    return 0


def _save(output: str, report: RunReport, ledger: Ledger, body: dict[str, Any], *, success: bool) -> None:
    with writing(output):
        ledger.save(report.run, [name for name in report.facts if name in ledger.seen])
        storage.put(storage.join(output, "runs", f"{report.run}.json"), json.dumps(body, indent=1).encode())
        if success:
            storage.put(storage.join(output, "_SUCCESS"), json.dumps({"run": report.run}).encode())
    if settings.read_bound(output) is None:
        raise StorageError(f"{output}/_run.json is gone: somebody deleted the output while it was written")


def _tell(spec: JobSpec, report: RunReport, found: Audit, body: dict[str, Any]) -> None:
    if report.images:
        rate = f"{body['seconds']:.1f} s ({body['images_per_second']:,.1f}/s)"
        answer(f"{report.task}: {report.images:,} images in {rate}")
    else:
        answer(f"{report.task}: nothing to do, all {found.planned:,} images are finished")
    for status, count in body["errors"].items():
        example = next((e for e in body["examples"] if e["status"] == status), None)
        answer(f"  {status}: {count:,}" + (f", such as {example['uri']}: {example['error']}" if example else ""))
    if report.skipped:
        listed = ", ".join(f"{count:,} {ending}" for ending, count in report.skipped.most_common(5))
        answer(f"  not images, passed by: {listed}")
    if found.empty_shards:
        answer(f"  shards without an image: {found.empty_shards:,}")
    answer(f"audit: {found.line}")
    answer(f"output: {storage.join(spec.output, 'data')}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM (`ray job stop` sends it, and 3 s later SIGKILL) ends like Ctrl-C."""

    before = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _stop(_: int, __: FrameType | None) -> None:
    hush()
    raise KeyboardInterrupt
