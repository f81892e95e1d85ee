"""One invocation from start to exit code: check, bind, plan, execute, audit, report."""

from __future__ import annotations

import itertools
import json
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from random import Random
from types import FrameType

from beit_core import CheckpointError
from pipeline import storage
from pipeline.address import address_of, check_answers
from pipeline.command import job
from pipeline.config import RunConfig
from pipeline.dry_run import dry_run
from pipeline.errors import ConfigError, ObjectUnreadable, PipelineError, StorageError, TooManyFailures
from pipeline.late_engine import LateEngine
from pipeline.log import answer, hush, hushable, say
from pipeline.output.bound import read_bound
from pipeline.output.lease import check_overwrite, lease
from pipeline.output.ledger import Ledger
from pipeline.output.place import Place
from pipeline.plan.audit import Audit, audit
from pipeline.plan.drop import drop
from pipeline.plan.planner import Planner, PlanSettings
from pipeline.plan.prune import prune
from pipeline.plan.rows import Row
from pipeline.progress import Progress
from pipeline.report import RunReport, run_id
from pipeline.request import Request, begin, checked
from pipeline.source.kinds import Source
from pipeline.source.naming import Listing
from pipeline.source.passed import told
from pipeline.spec import JobSpec
from pipeline.task import AnyTask

ENDING_S = 1.0  # Ray ends its workers within that, also in the middle of a write; `ray job stop` gives 3 s in all
SCATTER = 500  # rows; more than workers have under way
ROUNDS = 2  # passes over the plan; a second one does what was found missing or outdated at the end of the first


def run(config: RunConfig, task: AnyTask) -> int:
    """Do what the command asks; returns the exit code, raises PipelineError for what has one of its own."""
    with hushable(), _interruptible(), storage.patient(config.patience, say):
        if not config.local:
            check_answers(address_of(config.ray_address))  # before anything else
        request = checked(config, task)
        if config.dry_run:
            return dry_run(request)
        report = RunReport(run_id(), task.name, config.tags, request.model)
        engine = LateEngine(config, report, _take_signals)
        try:
            with _ended_by_storage(request.place):
                return _run(request, engine, report)
        except KeyboardInterrupt:
            say("interrupted: nothing finished is lost, the same command continues")
            with suppress(KeyboardInterrupt):  # who interrupts again does not wait for this
                _leave(request.place, report, engine, interrupted=True)
                engine.close()
                storage.sweep(request.place.root, wait_s=ENDING_S)
            return 1
        except Exception as error:
            if not isinstance(error, ConfigError | CheckpointError):  # what cannot work (exit 2) leaves nothing
                _leave(request.place, report, engine, error=_sentence(error))
            raise
        finally:
            engine.close()


@contextmanager
def _ended_by_storage(place: Place) -> Iterator[None]:
    """Errors of the storage that nobody has put into words."""
    try:
        yield
    except (OSError, ObjectUnreadable) as error:
        safe = f"finished spans of {place.root} are safe, the same command continues"
        raise StorageError(f"{storage.cause_and_file(error)}; {safe}") from error


def _sentence(error: Exception) -> str:
    """What a report says of the error that ended a run; Ray's have the whole traceback of a worker in their text."""
    if isinstance(error, PipelineError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}: {' '.join(str(error).splitlines()[-1:])}"


def _leave(place: Place, report: RunReport, engine: LateEngine, **how: object) -> None:
    """The report of a run that did not come to its end, unless it has saved one.

    A storage that does not take it within a moment is not waited for.
    """
    if report.is_saved:
        return
    report.finish()
    body = report.as_dict(None, **engine.about(), exit=1, **how)

    def put() -> None:
        with suppress(PipelineError, OSError):
            if read_bound(place) is not None:
                _put_report(place, report, body)

    putting = threading.Thread(target=put, name="leave", daemon=True)
    putting.start()
    putting.join(ENDING_S)


def _run(request: Request, engine: LateEngine, report: RunReport) -> int:
    config = request.config
    if config.overwrite:
        check_overwrite(request.place)
    spec = begin(request, lambda: engine.device(request.trial))
    with lease(spec.place, report.run, config.if_running) as held:
        if held is None:
            answer(f"{report.task}: another run works on {spec.place.root}: left to it (--if-running exit)")
            return 0
        return work_under_lease(request, spec, engine, report, joins=not held.held)


def work_under_lease(
    request: Request, spec: JobSpec, engine: LateEngine, report: RunReport, *, joins: bool = False
) -> int:
    """Plan, execute, audit and report on a bound output; returns the exit code or raises as `run` does.

    A run that `joins` another takes rows out of their order, so that the two seldom do the same ones at the same time.
    """
    config = request.config
    storage.sweep(spec.place.root)
    ledger, cleared = Ledger.load(spec.place), set[str]()
    for number in range(ROUNDS):
        listing = request.sources.listing(ahead=True)
        retry_failed = config.retry_failed and number == 0
        settings = PlanSettings(
            spec.bound.span_size, spec.wanted, config.limit, retry_failed, is_second_pass=number > 0
        )
        planner = Planner(spec.place, ledger, settings, before_writing=partial(engine.ready, spec))
        _work(spec, planner, listing, engine, report, joins=joins)
        report.passed = listing.passed
        prune(planner, ledger)
        cleared.update(drop(planner, ledger, spec.bound))
        found = audit(planner, ledger)
        if found.green and not found.incomplete:
            break
    fault = _fault(found, config)
    report.finish()
    body = report.as_dict(
        found.planned, **engine.about(), audit=found.to_json(), exit=0 if fault is None else fault.exit_code
    )
    _save(spec.place, report, ledger, body, cleared, success=fault is None)
    _say_result(spec.place, report, found)
    if verdict := engine.verdict():
        answer(verdict)
    if fault is not None:
        raise fault
    return 0


def _work(
    spec: JobSpec, planner: Planner, listing: Listing, engine: LateEngine, report: RunReport, *, joins: bool
) -> None:
    """Execute what the planner yields; the first row starts the engine, and removes `_SUCCESS`."""
    before = report.images
    with Progress(report.task) as progress:
        rows = _watched(planner.rows(progress.listing(_listed(listing))), progress)
        rows = scattered(rows, report.run) if joins else rows
        first = next(rows, None)
        if first is None:
            return
        ready = engine.ready(spec)  # what cannot work is said before anything is written
        with spec.place.writing():
            storage.delete(spec.place.success_file)
        for receipt in ready.execute(engine.spec_for_workers(spec), itertools.chain([first], rows)):
            report.add(receipt)
            progress.advance(receipt)
            report.metrics.planned(before + progress.total)
            report.metrics.busy(engine.busy())
    storage.sweep(spec.place.root)  # workers may have been killed while they wrote


def _listed(listing: Listing) -> Iterator[Source]:
    try:
        yield from listing
    except ConfigError as error:  # the source could be listed when the run was checked
        again = "nothing finished is lost: once that is mended the same command continues"
        raise StorageError(f"{error}; {again}") from error


def scattered(rows: Iterator[Row], seed: str) -> Iterator[Row]:
    """All rows, each at random among the SCATTER that follow those given before it."""
    chance, waiting = Random(seed), list[Row]()
    for row in rows:
        waiting.append(row)
        if len(waiting) == SCATTER:
            yield waiting.pop(chance.randrange(SCATTER))
    chance.shuffle(waiting)
    yield from waiting


def _watched(rows: Iterator[Row], progress: Progress) -> Iterator[Row]:
    for row in rows:
        progress.expect(row)
        yield row
    progress.planning = False


def _fault(found: Audit, config: RunConfig) -> PipelineError | None:
    """Why the output is not as it should be, as an error that has the exit code; None where it is."""
    if not found.planned:
        where = f"{found.empty_shards:,} shards" if found.empty_shards > 1 else "the shard"
        return PipelineError(f"no image was found in {where}: is --image-column right?")
    if not found.green:
        lacks = f"; images of {found.lacking_shard} are missing: can it be read?" if found.lacking_shard else ""
        return PipelineError(f"the audit is not green ({found.line}): the same command continues{lacks}")
    if found.failed_share > config.max_failed:
        return TooManyFailures(
            f"{found.failed:,} of {found.remembered:,} images failed ({found.failed_share:.2%}), more than "
            f"--max-failed {config.max_failed:g}; their rows say why, --retry-failed does them again"
        )
    return None


def _save(
    place: Place, report: RunReport, ledger: Ledger, body: dict[str, object], cleared: set[str], *, success: bool
) -> None:
    """Leave what was seen and cleared, the report, the metrics, and `_SUCCESS`."""
    if success:
        report.metrics.succeeded()
    with place.writing():
        ledger.save(report.run, [name for name in cleared.union(report.facts) if name in ledger.seen])
        _put_report(place, report, body)
        if success:
            storage.put(place.success_file, json.dumps({"run": report.run}).encode())
    report.is_saved = True
    if read_bound(place) is None:
        raise StorageError(f"{place.bound_file} is gone: somebody deleted the output while it was written")


def _put_report(place: Place, report: RunReport, body: dict[str, object]) -> None:
    storage.put(place.report_file(report.run), json.dumps(body, indent=1).encode())
    storage.put(place.metrics_file(report.run), report.metrics.text().encode())


def _say_result(place: Place, report: RunReport, found: Audit) -> None:
    if report.images:
        counted = f"{report.images:,} image{'s' if report.images > 1 else ''}"
        answer(f"{report.task}: {counted} in {report.seconds:.1f} s ({report.rate:,.1f}/s)")
    elif found.planned and found.green:
        answer(f"{report.task}: nothing to do, all {found.planned:,} images are finished")
    else:
        answer(f"{report.task}: no image was done")
    for status, count in report.errors.items():
        first = report.examples[status][0]
        answer(f"  {status}: {count:,}, such as {first.uri}: {first.error}")
    for line in told(report.passed.photos + report.unreadable, report.passed.others):
        answer(f"  {line}")
    if found.empty_shards:
        answer(f"  shards without an image: {found.empty_shards:,}")
    if found.gone:
        answer(f"  shards that are gone and were not finished before: {len(found.gone):,}, such as {found.gone[0]}")
    answer(f"audit: {found.line}")
    answer(f"output: {place.data}")
    drawn = f"{place.page_file}, drawn again by " if storage.stat(place.page_file) is not None else ""
    answer(f"report: {drawn}{job('report')} {shlex.quote(place.root)}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM (`ray job stop` sends it, and 3 s later SIGKILL) ends like Ctrl-C."""

    before = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _take_signals() -> None:
    """Handle them here again: Ray puts its own handler there, which aborts."""
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the shell has it ignored
        signal.signal(signal.SIGINT, _stop)


def _stop(_: int, __: FrameType | None) -> None:
    hush()
    raise KeyboardInterrupt
