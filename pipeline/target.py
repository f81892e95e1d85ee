"""A file that a flag names and that is written when the work is done: looked at before it, put whole after it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from pipeline import storage
from pipeline.errors import ConfigError, ObjectUnreadable, StorageError
from pipeline.output.place import Place


@dataclass(frozen=True)
class Target:
    """A file that can be written, as far as that shows beforehand."""

    uri: str

    @staticmethod
    def of(file: str, flag: str = "", advice: str = "name a file elsewhere") -> Target:
        """The file that a user names by a flag; raises ConfigError where it cannot be, or must not be, written."""
        uri = storage.followed(storage.absolute(file))
        cannot = f"{flag} {file} cannot be written, {advice}".lstrip()
        mistaken = storage.mistaken(uri) if storage.is_local(uri) else None
        if mistaken:
            raise ConfigError(f"{cannot}: {mistaken}")
        with storage.checking(cannot):
            storage.check_put(uri)
            places = itertools.islice(Place(uri).above(), 2)
            if any(place.keeps(uri) and storage.stat(place.bound_file) is not None for place in places):
                raise ConfigError(f"{cannot}: it is a file of an output's own")
        return Target(uri)

    def put(self, text: str) -> str:
        """Write it, and say where it is; raises StorageError."""
        try:
            storage.put(self.uri, text.encode("utf-8", "replace"))
        except (OSError, ObjectUnreadable) as error:
            raise StorageError(f"{self.uri} cannot be written: {storage.cause(error)}") from error
        return self.uri
