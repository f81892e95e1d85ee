"""What holds at the end of every schedule, and at every deletion; each function gives sentences on what does not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.place import SPAN, Place
from pipeline.plan.files import PART, SHARD
from pipeline.plan.names import SHARD_SPAN
from pipeline.plan.verify import verify
from tests.simulation.source import INPUT, Row, Source
from tests.simulation.store import SimulatedStore


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


def lacking(store: SimulatedStore, output: str, source: Source) -> str | None:
    """Images of the source that have no row."""
    there = {uri for _, uri, _ in rows_of(store, output)}
    missing = sorted(source.rows().keys() - there)
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
    place, rows = Place(output), list(rows_of(store, output))
    counts, wanted = Counter(uri for _, uri, _ in rows), source.rows()
    for uri, count in counts.items():
        if count > 1:
            yield f"{uri} has {count} rows"
    for uri in wanted.keys() - counts.keys():
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
    ok = sum(row[0] == "ok" for _, _, row in rows)
    said = (audit["planned"], audit["ok"], audit["failed"], audit["missing"], audit["duplicates"])
    if said != (len(rows), ok, len(rows) - ok, 0, 0):
        yield f"the audit says {said}; there are {len(rows)} rows, {ok} of them ok"


def is_of_living_tar(uri: str, source: Source) -> bool:
    """Whether it is an image of a tar that is still there."""
    return uri.removeprefix(f"{INPUT}/").partition("#")[0] in source.tars


def parts(store: SimulatedStore, output: str) -> dict[str, bytes]:
    """The plan of the loose images."""
    return {name: data for name, data in store.below(f"{output}/plan").items() if PART.fullmatch(name)}


def different_bytes(store: SimulatedStore, output: str, calm: str, source: Source) -> Iterator[str]:
    """Files that are not those of a calm run, but for spans that hold rows of what is gone."""
    wanted, gone = source.rows(), set()
    for file, uri, _ in rows_of(store, output):
        if uri not in wanted:
            gone.add(file)
    mine = {file: data for file, data in store.below(f"{output}/data").items() if file not in gone}
    theirs = {file: data for file, data in store.below(f"{calm}/data").items() if file not in gone}
    for file in sorted(mine.keys() | theirs.keys()):
        if mine.get(file) != theirs.get(file):
            kind = "another content" if file in mine and file in theirs else "one of them only"
            yield f"data/{file} is not that of a calm run ({kind})"
