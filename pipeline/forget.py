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
class Forget:
    """What a command asks for: the images that a file names, a URI a line; without a file those that are gone.

    More than the share `max_gone` of all images, 0 to 1, is not taken for gone.
    """

    output: str
    uris_file: str | None
    max_gone: float = 0.1
    dry_run: bool = False
    if_running: IfRunning = "wait"

    def selection(self) -> Selection:
        """Which images these are. Raises ConfigError where that cannot be told."""
        if not 0 <= self.max_gone <= 1:
            raise ConfigError(f"--max-gone {self.max_gone:g}: give a share from 0 to 1")
        return Gone(self.max_gone) if self.uris_file is None else Named(_read_uris(self.uris_file))


@dataclass(frozen=True)
class Found:
    """Images to forget, which are not forgotten yet, and what else a file names."""

    images: list[Forgetting]
    before: int = 0  # forgotten already
    unknown: tuple[str, ...] = ()  # no image of the output


@dataclass(frozen=True)
class Named:
    """The images of these uris."""

    uris: frozenset[str]

    def find(self, inventory: Inventory) -> Found:
        """Those in the output."""
        images = [*inventory.loose(self.uris), *inventory.in_shards(self.uris)]
        left = [image for image in images if not inventory.is_forgotten(image)]
        names = {image.uri for image in images}
        forgotten = {uri for uri in self.uris if uri in inventory.planner.forgotten.versions}
        before = forgotten - {image.uri for image in left}
        return Found(left, len(before), tuple(sorted(self.uris - names - before)))


@dataclass(frozen=True)
class Gone:
    """The images that are gone, if these are no more than the share `most` of all, 0 to 1."""

    most: float

    def find(self, inventory: Inventory) -> Found:
        """Those in the output. Raises ConfigError where too many are gone for that to be meant."""
        found = gone(inventory)
        images = audit(inventory.planner, inventory.ledger).remembered
        if len(found) > self.most * images:
            raise ConfigError(
                f"{len(found):,} of {images:,} images are gone, more than --max-gone {self.most:g}: nothing is "
                "forgotten; raise it if that is meant"
            )
        return Found(found)


Selection = Named | Gone


def forget(command: Forget) -> int:
    """Do it; returns the exit code. Raises ConfigError, with nothing forgotten, or StorageError."""
    place = Place.of(command.output)
    with storage.checking(command.output):
        selection = command.selection()
        bound_of(place)
    try:
        with storage.patient(RunConfig.patience, say):
            if command.dry_run:
                return _would_forget(selection, place)
            return _forget(selection, place, command.if_running)
    except KeyboardInterrupt:
        say("interrupted: the same command continues")
        return 1
    except (OSError, ObjectUnreadable) as error:
        raise StorageError(f"{place.root}: {storage.cause_and_file(error)}; the same command continues") from error


def _read_uris(file: str) -> frozenset[str]:
    try:
        lines = storage.read(storage.absolute(file)).decode("utf-8-sig").split("\n")
    except (OSError, ObjectUnreadable) as error:
        raise ConfigError(f"--uris {file}: {storage.cause(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--uris {file}: it is no UTF-8 text with a URI a line") from error
    uris = frozenset(line.removesuffix("\r") for line in lines) - {""}
    if not uris:
        raise ConfigError(f"--uris {file} names no image: give a URI a line, as in the column `uri`")
    return uris


def _would_forget(selection: Selection, place: Place) -> int:
    found = selection.find(Inventory.of(place))
    answer(f"images that would be forgotten: {len(found.images):,} (--dry-run)")
    _say_others(found)
    return 0


def _forget(selection: Selection, place: Place, if_running: IfRunning) -> int:
    run = run_id()
    with lease(place, run, if_running) as held:
        if held is not None:
            return forget_under_lease(selection, place, run)
    answer(f"another run works on {place.root}: left to it (--if-running exit)")
    return 0


def forget_under_lease(selection: Selection, place: Place, run: str) -> int:
    """Forget these images of a bound output, audit and report.

    Returns the exit code or raises as `forget` does.
    """
    storage.sweep(place.root)
    inventory = Inventory.of(place)
    bound, found = inventory.bound, selection.find(inventory)
    report = RunReport(run, bound.task, model=ReportedModel(bound.model.name, bound.model.fingerprint))
    _plan(inventory, found.images)
    cleared: set[str] = set()
    for _ in range(ROUNDS):
        inventory.planner.learn()
        cleared.update(drop(inventory.planner, inventory.ledger, inventory.bound))
        audited = audit(inventory.planner, inventory.ledger)
        is_done = not any(inventory.planner.forgotten.uncleared(inventory.ledger))
        if is_done:
            break
    _save(inventory, report, found, audited, cleared, code=0 if is_done else 1)
    answer(f"images forgotten: {len(found.images):,}")
    _say_others(found)
    answer(f"audit: {audited.line}")
    if found.images:
        answer(COPIES)
    if not is_done:
        raise StorageError(f"{place.root}: others write to it meanwhile; the same command continues")
    return 0


def _plan(inventory: Inventory, images: list[Forgetting]) -> None:
    """Name the images in the next part of the plan. Where that number is taken, by us it may be, look what it says.

    No number comes twice, though somebody has removed parts: files are known to be cleared of those up to some number.
    """
    least = inventory.ledger.most_cleared
    while images and not write_part(inventory.place, max(least, inventory.planner.forgotten.next_number), images):
        inventory.planner.learn()
        images = [image for image in images if not inventory.is_forgotten(image)]


def _say_others(found: Found) -> None:
    if found.before:
        answer(f"  forgotten before: {found.before:,}")
    if found.unknown:
        answer(f"  not in this output: {len(found.unknown):,}, such as {', '.join(found.unknown[:EXAMPLES])}")


def _save(
    inventory: Inventory, report: RunReport, found: Found, audited: Audit, cleared: set[str], *, code: int
) -> None:
    """Leave which files were seen, and the report."""
    report.finish()
    about = {"mode": MODE, "workers": 0, "decoders": 0, "forgotten": len(found.images)}
    body = report.as_dict(audited.planned, **about, audit=audited.to_json(), exit=code)
    with inventory.place.writing():
        inventory.ledger.save(report.run, [name for name in cleared if name in inventory.ledger.seen])
        storage.put(inventory.place.report_file(report.run), json.dumps(body, indent=1).encode())
