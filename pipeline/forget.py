"""Rows of images are removed for good: a part of the plan names them first, then files are written without them.

Wherever this is interrupted, the same command continues it, and so does the next run of the job.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, ObjectUnreadable, StorageError
from pipeline.gone import gone
from pipeline.log import answer, say
from pipeline.output.bound import bound_of
from pipeline.output.lease import IfRunning, lease
from pipeline.output.place import Place
from pipeline.plan.audit import Audit, audit
from pipeline.plan.drop import drop
from pipeline.plan.forgotten import MODE, Forgetting, write_part
from pipeline.plan.inventory import Inventory
from pipeline.report import ReportedModel, RunReport, run_id

EXAMPLES = 3  # of uris that are not in the output
ROUNDS = 3  # others may write files meanwhile
COPIES = "copies that jobs/compact.py has made hold these rows still: give its command again for each of them"


@dataclass(frozen=True)
class Wish:
    """What is to be forgotten: the images that a file names, a URI a line; without a file those that are gone.

    More than the share `max_gone` of all images, 0 to 1, is not taken for gone.
    """

    output: str
    uris: str | None
    max_gone: float = 0.1
    dry_run: bool = False
    if_running: IfRunning = "wait"


@dataclass(frozen=True)
class Found:
    """Images to forget, which are not forgotten yet, and what else a file names."""

    images: list[Forgetting]
    before: int = 0  # forgotten already
    unknown: tuple[str, ...] = ()  # no image of the output


def forget(wish: Wish) -> int:
    """Do it; returns the exit code. Raises ConfigError, with nothing forgotten, or StorageError."""
    place = Place.of(wish.output)
    with storage.checking(wish.output):
        named = _named(wish)
        bound_of(place)
    try:
        with storage.patient(RunConfig.patience, say):
            return _would_forget(wish, place, named) if wish.dry_run else _forget(wish, place, named)
    except KeyboardInterrupt:
        say("interrupted: the same command continues")
        return 1
    except (OSError, ObjectUnreadable) as error:
        raise StorageError(f"{place.root}: {storage.cause_and_file(error)}; the same command continues") from error


def _would_forget(wish: Wish, place: Place, named: frozenset[str] | None) -> int:
    found = _find(wish, Inventory.of(place), named)
    answer(f"images that would be forgotten: {len(found.images):,} (--dry-run)")
    _say_others(found)
    return 0


def _forget(wish: Wish, place: Place, named: frozenset[str] | None) -> int:
    run = run_id()
    with lease(place, run, wish.if_running) as held:
        if held is not None:
            return forget_under_lease(wish, place, named, run)
    answer(f"another run works on {place.root}: left to it (--if-running exit)")
    return 0


def _named(wish: Wish) -> frozenset[str] | None:
    """The uris of the file; None for those that are gone."""
    if not 0 <= wish.max_gone <= 1:
        raise ConfigError(f"--max-gone {wish.max_gone:g}: give a share from 0 to 1")
    if wish.uris is None:
        return None
    try:
        lines = storage.read(storage.absolute(wish.uris)).decode("utf-8-sig").split("\n")
    except (OSError, ObjectUnreadable) as error:
        raise ConfigError(f"--uris {wish.uris}: {storage.cause(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--uris {wish.uris}: it is no UTF-8 text with a URI a line") from error
    named = frozenset(line.removesuffix("\r") for line in lines) - {""}
    if not named:
        raise ConfigError(f"--uris {wish.uris} names no image: give a URI a line, as in the column `uri`")
    return named


def _find(wish: Wish, there: Inventory, named: frozenset[str] | None) -> Found:
    if named is None:
        found = Found(gone(there))
        _check_share(wish, there, len(found.images))
        return found
    images = [*there.loose(named), *there.in_shards(named)]
    left = [image for image in images if not there.is_forgotten(image)]
    names = {image.uri for image in images}
    before = {uri for uri in named if uri in there.planner.forgotten.versions} - {image.uri for image in left}
    return Found(left, len(before), tuple(sorted(named - names - before)))


def _check_share(wish: Wish, there: Inventory, count: int) -> None:
    """Raise ConfigError where too many images are gone for that to be meant."""
    images = audit(there.planner, there.ledger).remembered
    if count > wish.max_gone * images:
        raise ConfigError(
            f"{count:,} of {images:,} images are gone, more than --max-gone {wish.max_gone:g}: nothing is forgotten; "
            "raise it if that is meant"
        )


def forget_under_lease(wish: Wish, place: Place, named: frozenset[str] | None, run: str) -> int:
    """Forget the images of these uris (None: those that are gone) in a bound output, audit and report.

    Returns the exit code or raises as `forget` does.
    """
    storage.sweep(place.root)
    there = Inventory.of(place)
    bound, found = there.bound, _find(wish, there, named)
    report = RunReport(run, bound.task, model=ReportedModel(bound.model.name, bound.model.fingerprint))
    _plan(there, found.images)
    cleared: set[str] = set()
    for _ in range(ROUNDS):
        there.planner.learn()
        cleared.update(drop(there.planner, there.ledger, there.bound))
        audited = audit(there.planner, there.ledger)
        is_done = not any(there.planner.forgotten.uncleared(there.ledger))
        if is_done:
            break
    _save(there, report, found, audited, cleared, code=0 if is_done else 1)
    answer(f"images forgotten: {len(found.images):,}")
    _say_others(found)
    answer(f"audit: {audited.line}")
    if found.images:
        answer(COPIES)
    if not is_done:
        raise StorageError(f"{place.root}: others write to it meanwhile; the same command continues")
    return 0


def _plan(there: Inventory, images: list[Forgetting]) -> None:
    """Name the images in the next part of the plan. Where that number is taken, by us it may be, look what it says.

    No number comes twice, though somebody has removed parts: files are known to be cleared of those up to some number.
    """
    least = there.ledger.most_cleared
    while images and not write_part(there.place, max(least, there.planner.forgotten.next_number), images):
        there.planner.learn()
        images = [image for image in images if not there.is_forgotten(image)]


def _say_others(found: Found) -> None:
    if found.before:
        answer(f"  forgotten before: {found.before:,}")
    if found.unknown:
        answer(f"  not in this output: {len(found.unknown):,}, such as {', '.join(found.unknown[:EXAMPLES])}")


def _save(there: Inventory, report: RunReport, found: Found, audited: Audit, cleared: set[str], *, code: int) -> None:
    """Leave which files were seen, and the report."""
    report.finish()
    about = {"mode": MODE, "workers": 0, "decoders": 0, "forgotten": len(found.images)}
    body = report.as_dict(audited.planned, **about, audit=audited.to_json(), exit=code)
    with there.place.writing():
        there.ledger.save(report.run, [name for name in cleared if name in there.ledger.seen])
        storage.put(there.place.report_file(report.run), json.dumps(body, indent=1).encode())
