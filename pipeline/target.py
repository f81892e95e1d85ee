"""A file that a flag names and that is written when the work is done: looked at before it, put whole after it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import storage
from pipeline.errors import ObjectUnreadable, StorageError


@dataclass(frozen=True)
class Target:
    """A file that can be written, as far as that shows beforehand."""

    uri: str

    @staticmethod
    def of(file: str, flag: str = "", advice: str = "name a file elsewhere") -> Target:
        """The file that a user names by a flag; raises ConfigError where it cannot be written."""
        uri = storage.absolute(file)
        with storage.checking(f"{flag} {file} cannot be written, {advice}".lstrip()):
            storage.check_put(uri)
        return Target(uri)

    def put(self, text: str) -> str:
        """Write it, and say where it is; raises StorageError."""
        try:
            storage.put(self.uri, text.encode("utf-8", "replace"))
        except (OSError, ObjectUnreadable) as error:
            raise StorageError(f"{self.uri} cannot be written: {storage.cause(error)}") from error
        return self.uri
