"""Which images of an output are gone from where they were: only what answers "not found" below a root that still lists.

The root of a loose image is the folder or prefix that was the input, that of a shard the folder it is in. An unmounted
disk leaves no folder or an empty one, a bucket that is away cannot be listed: both are refused, not taken for gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import pyarrow as pa

from pipeline import storage
from pipeline.errors import ConfigError, ObjectUnreadable
from pipeline.plan import part_file
from pipeline.plan.digests import Digests
from pipeline.plan.forgotten import Forgetting
from pipeline.plan.inventory import Inventory

CHUNK = 10_000  # listed objects taken in at a time
WAY_OUT = "nothing is forgotten; --uris FILE names images without a look at where they were"


def gone(inventory: Inventory) -> list[Forgetting]:
    """The images that are gone and not forgotten yet; raises ConfigError where that cannot be told.

    Memory: 16 bytes for every object below the roots, and the images that are gone.
    """
    shards = {uri: name for name, uri in inventory.sources()}
    roots = set(map(_folder, shards))
    for table in _parts(inventory, ["uri", "key"]):
        roots.update(map(_root, table["uri"].to_pylist(), table["key"].to_pylist()))
    try:
        found = _absent(inventory, shards, _present(sorted(roots)))
        for root in roots if found else ():
            _first(root)  # it might have been unmounted meanwhile
    except (OSError, ObjectUnreadable) as error:
        raise ConfigError(f"what is gone cannot be told ({storage.cause(error)}): {WAY_OUT}") from error
    return found


def _parts(inventory: Inventory, columns: list[str]) -> Iterator[pa.Table]:
    """The loose images of the plan, part by part."""
    for part in inventory.planner.loose.parts:
        if not part_file.read_part(part)[1]:
            yield part_file.read_images(part, columns)


def _folder(uri: str) -> str:
    return uri.rpartition("/")[0] or "/"


def _root(uri: str, key: str) -> str:
    """The input below which an image has this key."""
    return (uri.removesuffix(f"/{key}") or "/") if uri.endswith(f"/{key}") else _folder(uri)


def _present(roots: list[str]) -> Digests:
    """All objects below the roots, each of which must have one."""
    found = Digests()
    above = ""
    for root in roots:
        first, rest = _first(root)
        if above and root.startswith(above.rstrip("/") + "/"):
            continue
        above = root
        listed = (entry.uri for entry in itertools.chain([first], rest) if entry.version != storage.MISSING)
        while chunk := list(itertools.islice(listed, CHUNK)):
            found.add(chunk)
    return found


def _first(root: str) -> tuple[storage.Entry, Iterator[storage.Entry]]:
    """The first object below a root, and the others; raises ConfigError where there is none, at once."""
    try:
        entries = iter(storage.listing(root))
        with storage.quick():
            first = next(entries, None)
        if first is not None:
            return first, entries
    except (OSError, ObjectUnreadable) as error:
        raise ConfigError(f"{root} cannot be listed ({storage.cause(error)}): {WAY_OUT}") from error
    raise ConfigError(f"{root} is not there or empty, as a disk that is not mounted: {WAY_OUT}")


def _absent(inventory: Inventory, shards: dict[str, str], present: Digests) -> list[Forgetting]:
    """Images that were not listed and are not found either; `shards` are names by uri."""
    uris = list(shards)
    lost = _not_found([uri for uri, is_there in zip(uris, present.hold(uris), strict=True) if not is_there])
    found = [image for image in inventory.rows({shards[uri] for uri in lost}) if not inventory.is_forgotten(image)]
    for table in _parts(inventory, ["uri", "version", "span"]):
        absent = table.filter(pa.array(~present.hold(table["uri"].to_pylist()))).to_pylist()
        images = [inventory.as_planned(row["uri"], row["version"], row["span"]) for row in absent]
        images = [image for image in images if not inventory.is_forgotten(image)]
        lost = _not_found([image.uri for image in images])
        found += [image for image in images if image.uri in lost]
    return found


def _not_found(uris: list[str]) -> Collection[str]:
    entries = storage.in_parallel(storage.stat, uris)
    lost = {uri for uri, entry in zip(uris, entries, strict=True) if entry is None}
    for folder in {_folder(uri) for uri in lost if storage.is_local(uri)}:
        while not storage.is_folder(folder):
            folder = _folder(folder)
        _first(folder)
    return lost
