"""The plan of loose images: listed in numbered parts, so that new objects never shift spans that exist.

An image that changed is listed again in a later part, and its span is written again. Memory: two digests of
16 bytes an image, of which a sorted array and what is merged into it take up to twice that, and the names of all spans.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import StorageError
from pipeline.output.bound import SpanSize
from pipeline.output.ledger import Ledger, Seen
from pipeline.output.place import Place
from pipeline.output.span_file import SpanFacts
from pipeline.plan import files, part_file
from pipeline.plan.digests import Digests
from pipeline.plan.forgotten import Forgotten
from pipeline.plan.names import LOOSE_SPAN, combined_version, images_name, pairs
from pipeline.plan.part_file import KEPT, PART_SCHEMA, PartSpan
from pipeline.plan.rows import LooseSpan, Redo
from pipeline.plan.span_size import loose_span_sizes
from pipeline.source.kinds import UNKNOWN_VERSION, LooseImage
from pipeline.storage import MISSING, Entry

# A part lists whole spans. The first parts are small, for work to begin early; later ones list a share of what is
# planned before them, as every part costs later runs a request, and at last so many images and spans.
FIRST, SHARE, PART_IMAGES, PART_SPANS = 1024, 4, 32_768, 64


class Change(NamedTuple):
    """What a part of changes says of a span: the version that it has since, and the images' own, by uri."""

    version: str
    images: dict[str, str]


@dataclass
class PlannedSpan:
    """A span as all parts together have it: its rows, and how it has changed since, in order."""

    part: str
    span: PartSpan
    changes: list[Change] = field(default_factory=list)

    @property
    def version(self) -> str:
        """The version that its file should have."""
        return self.changes[-1].version if self.changes else self.span.version

    @property
    def later(self) -> dict[str, str]:
        """The versions of those of its images that changed since they were planned, by uri."""
        return {uri: version for change in self.changes for uri, version in change.images.items()}

    def knows(self, version: str) -> bool:
        """Whether the file is of a version that these parts tell of: a later one follows from parts not read yet."""
        return version in (self.span.version, *(change.version for change in self.changes))

    def changed_since(self, version: str) -> tuple[str, ...]:
        """The images that changed after the span had this version; its others have their rows, and may be gone."""
        pending = list[Change]()
        for change in reversed(self.changes):
            if change.version == version:
                break
            pending.append(change)
        return tuple(sorted({uri for change in pending for uri in change.images}))


class LoosePlan:
    """The loose images of an output: planned ones, new ones that wait for their part, and changed ones."""

    def __init__(
        self,
        place: Place,
        ledger: Ledger,
        span_size: SpanSize,
        forgotten: Forgotten,
        before_writing: Callable[[], object],
    ) -> None:
        self.place, self.ledger, self.span_size, self.forgotten = place, ledger, span_size, forgotten
        self.before_writing = before_writing
        self.parts: list[Entry] = []
        self.spans: dict[str, PlannedSpan] = {}
        self.images = 0  # planned
        self.known, self.same = Digests(), Digests()  # planned images: uris, and uris with versions
        self.latest: dict[str, str] = {}  # uri -> version, as parts of changes have it
        self.fresh: dict[str, LooseImage] = {}  # listed and not planned
        self.changed: dict[str, str] = {}  # uri -> version as listed now, where the plan has another
        self.issued: set[str] = set()  # spans that this very run has planned

    @property
    def part_size(self) -> int:
        """Images of the next part, if it is full."""
        wanted, images = max(FIRST, self.images // SHARE), 0
        for spans, size in enumerate(loose_span_sizes(self.span_size, self.images)):
            if images >= wanted or (images >= PART_IMAGES and spans >= PART_SPANS):
                break
            images += size
        return images

    def row(self, planned: PlannedSpan, redo: Redo | None = None) -> LooseSpan:
        """A span as a row of the dataset."""
        span, forgotten = planned.span, self.forgotten.of(planned.span.name, self.latest)
        return LooseSpan(span.name, planned.version, planned.part, span.start, span.stop, redo, forgotten)

    def knows(self, facts: SpanFacts) -> bool:
        """Whether the plan as it was read has the version of a finished span."""
        return facts.name in self.spans and self.spans[facts.name].knows(facts.version)

    def learn(self, parts: list[Entry]) -> None:
        """Take in the parts that are new, our own or another run's; `parts` are all there are."""
        for part in parts[len(self.parts) :]:
            self._learn(part)
        self.parts = parts

    def check_whole(self) -> None:
        """Raise StorageError where a finished span is in no part, as its images would come twice.

        A part is there before the files of its spans, so the ledger has to be older than what was learnt.
        """
        for name in self.ledger.files:
            if name not in self.spans and LOOSE_SPAN.fullmatch(name):
                raise self._lost_part(name)

    def _lost_part(self, name: str) -> StorageError:
        file, plan = self.place.span_file(name), self.place.plan
        mend = (
            f"restore what was removed from {plan}, or remove the files of such spans, and their images are done again"
        )
        return StorageError(f"{file} is in no part of the plan: {mend}")

    def _learn(self, part: Entry) -> None:
        spans, changes = part_file.read_part(part)
        table = part_file.read_images(part, ["uri", "version"])
        uris, versions = table["uri"].to_pylist(), table["version"].to_pylist()
        self.known.add(uris)
        self.same.add(pairs(uris, versions))
        for span in spans:
            if not changes:
                self.spans[span.name] = PlannedSpan(part.uri, span)
                self.images += span.images
                continue
            if span.name not in self.spans:
                raise self._lost_part(span.name)
            later = dict(zip(uris[span.start : span.stop], versions[span.start : span.stop], strict=True))
            self.spans[span.name].changes.append(Change(span.version, later))
            self.latest.update(later)

    def meet(self, images: Sequence[LooseImage]) -> None:
        """Compare listed images with the plan: new ones wait for their part, changed ones are noted."""
        uris, versions = [i.entry.uri for i in images], [i.entry.version for i in images]
        known, same = self.known.hold(uris), self.same.hold(pairs(uris, versions))
        for image, is_known, is_same in zip(images, known, same, strict=True):
            uri, version = image.entry.uri, image.entry.version
            if not is_known:
                before = self.fresh.get(uri)
                self.fresh[uri] = image if before is None else _merged(before, image)
            elif version in (UNKNOWN_VERSION, MISSING):
                continue  # a list names it, which knows of no version, or that is gone and has its row
            elif not is_same or self.latest.get(uri, version) != version:
                self.changed[uri] = version

    def plan(self, most: int) -> Iterator[LooseSpan]:
        """Write the next part, with up to `most` of the new images if it is not full before, and give its spans.

        Where another run has written it meanwhile, its part is taken in and nothing is given: ask again.
        """
        taken = list(itertools.islice(self.fresh.values(), min(most, self.part_size)))
        spans = list(self._cut(taken))
        if not self._write(spans):
            self.learn(files.listing(self.place).parts)
            uris = list(self.fresh)
            for uri, is_known in zip(uris, self.known.hold(uris), strict=True):
                if is_known:
                    del self.fresh[uri]
            return
        for image in taken:
            del self.fresh[image.entry.uri]
        self.learn([*self.parts, part_file.find_part(self.place, part_file.next_number(self.parts))])
        for span, _ in spans:
            self.issued.add(span.name)
            yield self.row(self.spans[span.name])

    def _write(self, spans: list[tuple[PartSpan, pa.Table]], *, changes: bool = False) -> bool:
        """Whether the next part is written; False where another run has written it."""
        self.before_writing()
        return part_file.write_part(self.place, part_file.next_number(self.parts), spans, changes=changes)

    def _cut(self, images: list[LooseImage]) -> Iterator[tuple[PartSpan, pa.Table]]:
        """Spans of these images, with their rows in the part."""
        start = 0
        for size in loose_span_sizes(self.span_size, self.images):
            piece = images[start : start + size]
            if not piece:
                return
            uris, versions = [i.entry.uri for i in piece], [i.entry.version for i in piece]
            name = images_name(uris)
            columns = [uris, [image.key for image in piece], versions, [name] * len(piece)]
            table = pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], schema=PART_SCHEMA)
            if any(image.kept for image in piece):
                table = table.append_column(KEPT, pa.array([image.kept or None for image in piece], KEPT.type))
            yield PartSpan(name, start, start + len(piece), combined_version(uris, versions)), table
            start += size

    def plan_changes(self) -> None:
        """List the images that changed in a part of their own, by span, with the versions their spans now have."""
        while self.changed:
            spans: list[tuple[PartSpan, pa.Table]] = []
            row = 0
            for planned, rows in self._touched():
                span, rows = self._as_changed(planned, rows, row)
                spans.append((span, rows))
                row = span.stop
            mine = self._write(spans, changes=True)
            self.learn(files.listing(self.place).parts)
            self.changed = {} if mine else {u: v for u, v in self.changed.items() if self.latest.get(u) != v}

    def _touched(self) -> Iterator[tuple[PlannedSpan, pa.Table]]:
        """Spans that hold a changed image, with all their rows; every part is read once."""
        entries = {part.uri: part for part in self.parts}
        for uri, group in itertools.groupby(self.spans.values(), key=lambda planned: planned.part):
            table = part_file.read_images(entries[uri])
            changed = np.array([one in self.changed for one in table["uri"].to_pylist()])
            for planned in group:
                if changed[planned.span.start : planned.span.stop].any():
                    yield planned, table.slice(planned.span.start, planned.span.images)

    def _as_changed(self, planned: PlannedSpan, rows: pa.Table, first: int) -> tuple[PartSpan, pa.Table]:
        """The changed images of a span as rows of a part, the first of them being row `first`."""
        uris = rows["uri"].to_pylist()
        versions = {**dict(zip(uris, rows["version"].to_pylist(), strict=True)), **planned.later}
        now = [self.changed.get(uri, versions[uri]) for uri in uris]
        rows = rows.set_column(2, "version", pa.array(now, pa.string()))
        rows = rows.filter(pa.array([uri in self.changed for uri in uris]))
        return PartSpan(planned.span.name, first, first + len(rows), combined_version(uris, now)), rows

    def unfinished(self, *, retry_failed: bool) -> Iterator[LooseSpan]:
        """Spans of earlier runs that are missing, outdated, or (if wanted) hold failed rows."""
        finished = self.ledger.files
        looked_at = [name for name, p in self.spans.items() if name in finished and (p.changes or retry_failed)]
        seen = self.ledger.seen_of(looked_at)
        for name, planned in self.spans.items():
            if name in self.issued:
                continue
            if name not in finished:
                yield self.row(planned)
            elif name in seen and (redo := _redo(planned, seen[name], retry_failed=retry_failed)):
                yield self.row(planned, redo)


def _merged(one: LooseImage, other: LooseImage) -> LooseImage:
    """An image that two inputs name: a list may have values beside it, and knows no version of what is far away."""
    entry = one.entry if other.entry.version == UNKNOWN_VERSION else other.entry
    return replace(other, entry=entry, kept=other.kept or one.kept)


def _redo(planned: PlannedSpan, seen: Seen, *, retry_failed: bool) -> Redo | None:
    """What of a finished span is done again."""
    changed = planned.changed_since(seen.version)
    failed = retry_failed and seen.failed > 0
    return Redo(failed, changed, seen.version) if failed or changed else None
