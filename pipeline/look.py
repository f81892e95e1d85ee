"""A first look at what `--input` names, before anything is written: is there anything, and what is taken of it?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.decode.decode import extensions
from pipeline.errors import ConfigError, CredentialsLost, ObjectUnreadable
from pipeline.log import warn
from pipeline.output.place import Place
from pipeline.output.span_file import types_there
from pipeline.source.format import FORMATS, format_within
from pipeline.source.item import NoImage, Wanted
from pipeline.source.kinds import UNKNOWN_VERSION, LooseImage, Shard, Source
from pipeline.source.naming import Listing, Sources, check_listed_types
from pipeline.source.passed import HOW_TO_READ, PHOTOS, counted

LOOK = 1000  # sources looked at; one more shows whether there are more
LOOK_INTO = 8  # shards looked into until one has an image


@dataclass(frozen=True)
class FirstLook:
    """The sources, the first of them, and the listing that gave these."""

    sources: Sources
    first: list[Source]
    listing: Listing


def look(config: RunConfig, place: Place) -> FirstLook:
    """The beginning of the listing. Raises ConfigError if there is nothing, or the output lies in an input."""
    for given in config.input:
        if storage.is_below(place.root, storage.absolute(given)):
            raise ConfigError(
                f"--output {place.root} lies below --input {given}: the next run would read its own result"
            )
    images = extensions() | (PHOTOS if config.unreadable == "row" else frozenset())
    wanted = Wanted(frozenset(extension.removeprefix(".") for extension in images), config.image_column, config.keep)
    sources = Sources(config.input, config.input_format, images, wanted, place.root)
    listing = sources.listing()
    first = list(itertools.islice(listing, LOOK + 1))
    if not first:
        passed = counted(listing.passed.photos + listing.passed.others)
        only = f", only other files ({passed})" if passed else ""
        photos = f"; {HOW_TO_READ}" if listing.passed.photos else ""
        raise ConfigError(f"--input: {'; '.join(listing.empty)}{only}{photos}")
    _check_no_output(config, first)
    for why in listing.empty:
        warn(f"--input: {why}")
    _check_listed(first)
    return FirstLook(sources, first, listing)


def wanted_of(config: RunConfig, seen: FirstLook, place: Place, *, fresh: bool) -> Wanted:
    """What is taken from every source, with its types: those that the output has, else those of the first that decides.

    Raises ConfigError where the shard or list that decides the types lacks a column that is wanted. For an output that
    is not `fresh`, shards are read only where they have to say a type.
    """
    wanted = seen.sources.wanted
    if not fresh and not wanted.keep:
        return wanted
    shards = [source for source in seen.first if isinstance(source, Shard)]
    if shards and fresh:
        _check_kind(shards[0])
    wanted = replace(wanted, types={} if fresh else types_there(place, wanted.keep))
    wanted = replace(wanted, types=_types(config, seen, wanted, shards))
    if any(isinstance(source, LooseImage) and source.kept for source in seen.first):
        check_listed_types(wanted)
    return wanted


def _types(config: RunConfig, seen: FirstLook, wanted: Wanted, shards: list[Shard]) -> Mapping[str, pa.DataType]:
    """The types that `wanted` has, if it has any, held against the first shard's; else those of what decides."""
    kept_before = wanted.types
    if shards:
        types = _kept_types(shards, wanted, alone=len(shards) == len(seen.first) and not kept_before)
        return kept_before or types
    if seen.listing.tables:
        return kept_before or dict.fromkeys(wanted.keep, pa.string())
    if not kept_before:
        _check_no_columns(config, all_seen=len(seen.first) <= LOOK)
    return kept_before


def _check_kind(shard: Shard) -> None:
    """A first shard of another kind than its name or a flag says is a mistake; one that cannot be read gets a row."""
    found = None
    with suppress(OSError, ObjectUnreadable):
        found = format_within(shard.entry)
    if found not in (None, shard.format):
        raise ConfigError(
            f"--input {shard.entry.uri} is taken for a {shard.format}, and its content is a {found}'s: rename it, "
            f"or name it with --input-format {found}"
        )


def _kept_types(shards: list[Shard], wanted: Wanted, *, alone: bool) -> Mapping[str, pa.DataType]:
    """The types of the kept columns in the first shard that has images; NoImage where none has and they are `alone`."""
    refused: list[NoImage] = []
    for shard in shards[:LOOK_INTO]:
        try:
            return FORMATS[shard.format].check(shard.entry, wanted)
        except NoImage as error:
            refused.append(error)
    others = [error for error in refused if not error.empty]
    if alone and (others or len(refused) == len(shards)):  # behind so many empty ones others may follow
        raise (others or refused)[0]
    return refused[0].types


def _check_no_columns(config: RunConfig, *, all_seen: bool) -> None:
    if config.keep or config.image_column:
        flag = f"--keep {' '.join(config.keep)}" if config.keep else f"--image-column {config.image_column}"
        if not all_seen:
            which = f"the first {LOOK:,} images are loose ones, which carry no columns"
            raise ConfigError(f"{flag}: {which}: name tars, Parquet files and .csv lists before them, if there are any")
        raise ConfigError(f"{flag}: loose images carry no columns; tars, Parquet and .csv lists do")


def _check_no_output(config: RunConfig, first: list[Source]) -> None:
    """Refuse an output: its plan names the same images as its rows, and those that were forgotten."""
    uris = [source.entry.uri for source in first]
    look_so = {place.root for uri in uris for place in Place(uri).above() if place.keeps(uri)}
    for given in config.input:  # which may be many files
        named = Place.of(given)
        if named.root in look_so and storage.stat(named.bound_file) is not None:
            raise ConfigError(f"--input {given} is an output of these jobs: name what it was made from, or its data/")


def _check_listed(first: list[Source]) -> None:
    """Remote images of a list have not been requested so far: check the credentials on the first one."""
    for entry in [source.entry for source in first if source.entry.version == UNKNOWN_VERSION][:1]:
        try:
            storage.check_access(entry.uri)
        except CredentialsLost as error:
            raise ConfigError(f"--input: {entry.uri}, which a list names, cannot be read: {error}") from error
