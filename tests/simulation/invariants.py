"""What holds at the end of every schedule, and at every deletion; each function gives sentences on what does not."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.place import SPAN, Place
from pipeline.plan.entry_file import SHARD
from pipeline.plan.forgotten import FORGOTTEN
from pipeline.plan.names import SHARD_SPAN, shard_name
from pipeline.plan.part_file import PART
from pipeline.plan.verify import verify
from tests.simulation.shards import bytes_of
from tests.simulation.source import INPUT, PHOTO, Row, Source
from tests.simulation.store import SimulatedStore, etag


def rows_of(store: SimulatedStore, output: str) -> Iterator[tuple[str, str, Row]]:
    """File, uri, and status and answer of every row of an output."""
    for file, data in store.below(f"{output}/data").items():
        table = pq.read_table(pa.BufferReader(data), columns=["uri", "status", "answer"])
        columns = [column.to_pylist() for column in table.columns]
        for uri, status, said in zip(*columns, strict=True):
            yield file, uri, (status, said)


def needless_deletion(store: SimulatedStore, output: str, uri: str) -> str | None:
    """Whether the file about to be deleted is a span that the plan as it is needs."""
    match = SHARD_SPAN.fullmatch(uri.removeprefix(f"{output}/data/").removesuffix(SPAN))
    if match is None:
        return f"{uri} is deleted, which is no surplus span" if uri.startswith(f"{output}/data/") else None
    entries = filter(None, map(SHARD.fullmatch, store.below(f"{output}/plan")))
    images = {int(number): int(images) for name, number, _, images in (e.groups() for e in entries) if name == match[1]}
    if not images or int(match[2]) < images[max(images)]:
        return f"{uri} is deleted, which the plan needs"
    return None


class Forgotten:
    """What the plan of an output wants forgotten: by its own reading of the parts, uris with their versions."""

    def __init__(self, store: SimulatedStore, output: str, source: Source) -> None:
        self.source, self.versions = source, dict[str, set[str | None]]()
        for data in parts(store, output, FORGOTTEN).values():
            for row in pq.read_table(pa.BufferReader(data)).to_pylist():
                self.versions.setdefault(row["uri"], set()).add(row["version"])

    def __contains__(self, uri: str) -> bool:
        """Whether an image is to have no row: a member of a tar for ever, a loose one in its last version."""
        versions, last = self.versions.get(uri, set()), self.source.last(uri.removeprefix(f"{INPUT}/"))
        return None in versions or (last is not None and etag(last) in versions)

    def may_lack(self, uri: str) -> bool:
        """Whether an image may have no row: also one of a tar whose own row, for that it was away, is forgotten."""
        shard = self.source.shards.get(name := uri.removeprefix(f"{INPUT}/").partition("#")[0])
        as_whole = self.versions.get(uri.partition("#")[0], set())
        return uri in self or (shard is not None and etag(bytes_of(name, shard)) in as_whole)


def wanted_rows(store: SimulatedStore, output: str, source: Source) -> dict[str, Row]:
    """What an output should hold: photos where they were images to the run that began it."""
    bound = json.loads(store.objects[Place(output).bound_file])
    with_photos = PHOTO.removeprefix(".") in bound["image_endings"]
    return {uri: row for uri, row in source.rows().items() if with_photos or PHOTO not in uri}


def lacking(store: SimulatedStore, output: str, source: Source) -> str | None:
    """Images of the source that have no row and are not forgotten."""
    there, forgotten = {uri for _, uri, _ in rows_of(store, output)}, Forgotten(store, output, source)
    wanted = wanted_rows(store, output, source).keys()
    missing = sorted(uri for uri in wanted - there if not forgotten.may_lack(uri))
    return f"{len(missing)} images have no row, such as {missing[0]}" if missing else None


def success_is_honest(store: SimulatedStore, output: str) -> str | None:
    """`_SUCCESS`, where there is one, names a run whose report says exit 0."""
    place = Place(output)
    if (success := store.objects.get(place.success_file)) is None:
        return None
    run = json.loads(success)["run"]
    report = store.objects.get(place.report_file(run))
    ended = json.loads(report)["exit"] if report else "no report"
    return None if ended == 0 else f"_SUCCESS names {run}, which ended with {ended}"


def at_the_end(store: SimulatedStore, output: str, source: Source) -> Iterator[str]:
    """What has to hold after a calm run that has returned 0."""
    place, rows, forgotten = Place(output), list(rows_of(store, output)), Forgotten(store, output, source)
    counts, wanted = Counter(uri for _, uri, _ in rows), wanted_rows(store, output, source)
    for uri, count in counts.items():
        if count > 1:
            yield f"{uri} has {count} rows"
        if uri in forgotten:
            yield f"{uri} is forgotten and has a row"
    away = {uri for _, uri, row in rows if row[0] == "fetch_error"}
    for uri in wanted.keys() - counts.keys():
        # A tar that was away has a row of its own, which stands for all until it is tried again.
        if uri.partition("#")[0] not in away and not forgotten.may_lack(uri):
            yield f"{uri} has no row"
    for file, uri, row in rows:
        met = source.met.get(uri, set())
        if uri in wanted and row[0] != "fetch_error" and row != wanted[uri]:
            yield f"{uri} has {row} in {file}, and should have {wanted[uri]}"
        elif uri not in wanted and row[0] != "fetch_error" and (row not in met or is_of_living_tar(uri, source)):
            yield f"{uri} has {row} in {file}, and was never in the source or is beyond the end of its tar"
    if (found := verify(place)) and not found.green:
        yield f"verify: {found}"
    if place.success_file not in store.objects:
        yield "there is no _SUCCESS"
        return
    run = json.loads(store.objects[place.success_file])["run"]
    audit = json.loads(store.objects[place.report_file(run)])["audit"]
    ok, cut = sum(row[0] == "ok" for _, _, row in rows), sum(map(len, forgotten_in(store, output).values()))
    said = tuple(audit[name] for name in ("planned", "ok", "failed", "forgotten", "missing", "duplicates"))
    if said != (len(rows) + cut, ok, len(rows) - ok, cut, 0, 0):
        yield f"the audit says {said}; there are {len(rows)} rows, {ok} of them ok, and {cut} are forgotten"


def is_of_living_tar(uri: str, source: Source) -> bool:
    """Whether it is an image of a tar that is still there."""
    return uri.removeprefix(f"{INPUT}/").partition("#")[0] in source.shards


def forgotten_in(store: SimulatedStore, output: str) -> dict[str, list[str]]:
    """By file the uris that its metadata call forgotten."""
    found = {}
    for file, data in store.below(f"{output}/data").items():
        about = json.loads(pq.read_metadata(pa.BufferReader(data)).metadata[b"beit"])
        found[file] = about.get("forgotten", [])
    return found


def forgets_only_its_own(
    store: SimulatedStore, output: str, source: Source, wishes: Iterable[frozenset[str] | None]
) -> Iterator[str]:
    """The plan wants nobody forgotten but whom a wish names, or (None) who was away at some time."""
    wishes, named = list(wishes), set[str]()
    for wish in wishes:
        named.update(wish or ())
    for uri in Forgotten(store, output, source).versions:
        was_away = uri.removeprefix(f"{INPUT}/").partition("#")[0] in source.ever_away
        if uri not in named and not (was_away and None in wishes):
            yield f"{uri} is forgotten, which nobody wanted"


def forgotten_at_once(store: SimulatedStore, output: str, source: Source, wish: frozenset[str] | None) -> Iterator[str]:
    """After forgetting alone that has returned 0: no row of whom the wish names, or (None) who is away."""
    there = {*source.loose, *source.shards}
    for _, uri, _ in rows_of(store, output):
        is_away = uri.removeprefix(f"{INPUT}/").partition("#")[0] not in there
        if is_away if wish is None else uri in wish:
            yield f"{uri} was to be forgotten and has a row"


def parts(store: SimulatedStore, output: str, kind: re.Pattern[str] = PART) -> dict[str, bytes]:
    """The plan of the loose images, or with FORGOTTEN of what is forgotten."""
    return {name: data for name, data in store.below(f"{output}/plan").items() if kind.fullmatch(name)}


def different_bytes(store: SimulatedStore, output: str, calm: str, source: Source, cut_off: set[str]) -> Iterator[str]:
    """Files that are not those of a calm run, but for spans of images, or of tars, that are gone."""
    wanted = wanted_rows(store, output, source)
    gone = {file for file, uri, _ in rows_of(store, output) if uri not in wanted}
    gone |= {file for file, uris in forgotten_in(store, output).items() if not wanted.keys() >= set(uris)}
    # Tars forgotten as a whole, and those that were away while they were read: positions are told from before that.
    away = {shard_name(uri) for uri in cut_off.union(Forgotten(store, output, source).versions)}
    gone |= {file for out in (output, calm) for file in store.below(f"{out}/data") if file.rpartition("-")[0] in away}
    mine = {file: data for file, data in store.below(f"{output}/data").items() if file not in gone}
    theirs = {file: data for file, data in store.below(f"{calm}/data").items() if file not in gone}
    for file in sorted(mine.keys() | theirs.keys()):
        if mine.get(file) != theirs.get(file):
            kind = "another content" if file in mine and file in theirs else "one of them only"
            yield f"data/{file} is not that of a calm run ({kind})"
