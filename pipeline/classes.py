"""What a kept column says of the true classes: their names, or their ids. Numbers may be either.

All whole numbers of a column are read in one way, whatever single rows have, and against the names of all classes:

- A word is a name. Spaces around names do not count.
- Whole numbers (7, 7.0, "7") are ids where one of them can only be that, being an id and no name, and none can only be
  a name. Else they are names: what some class is called is a name, though it be another one's id, as where folders "0"
  to "10" are sorted as text.
- What is neither is wrong: a word that is no class, 3.5, a number beyond the ids.
- Null, NaN and empty text are no truth.

An output has the names in `_run.json`. One that was begun before they were kept there knows those of its answers, and
takes numbers for ids unless all of them are such names. Where some class is called by a number that is not its id, that
is refused: so may be a class that never was an answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError

WHOLE = re.compile(r"([0-9]{1,18})(\.0+)?")  # no more digits than ids can have
KINDS = "a column of names or ids of classes, as text or whole numbers"


def check_kind(truth: str, kind: pa.DataType) -> None:
    """Raise ConfigError where a column of this type cannot hold classes."""
    if not holds_classes(kind):
        raise ConfigError(f"--truth {truth}: a column of {kind}; of labels the truth is {KINDS}")


def holds_classes(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold names or ids: text or numbers, or nothing at all."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(fits(plain) for fits in (*text, *numbers, pa.types.is_null))


def word_of(value: object) -> str:
    """A value of a column of truth as text: a whole number without a point, empty for what is no truth."""
    if isinstance(value, float | np.floating | Decimal):
        if math.isnan(value):
            return ""
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
    return "" if value is None else str(value).strip()


def id_of(word: str) -> int | None:
    """The id that a word may be, None for one that is no whole number."""
    found = WHOLE.fullmatch(word)
    return int(found[1]) if found else None


class ClassNames:
    """The names of classes by id: all of them, where they are `given`, or else those that have occurred in answers.

    Two classes may have one name, as the crane that flies and the one that lifts: `shared` are such names.
    """

    def __init__(self, given: Sequence[str] = ()) -> None:
        self.is_whole = bool(given)
        self.by_id: dict[int, str] = {}
        self.names: set[str] = set()
        self.shared: set[str] = set()
        self._learn(range(len(given)), given)

    def add(self, ids: Sequence[int], labels: Sequence[str]) -> None:
        """What answers of a row tell."""
        if not self.is_whole:
            self._learn(ids, labels)

    def are_ids(self, words: Iterable[str], truth: str) -> bool:
        """Whether the whole numbers among the words of the column `truth` are ids; the module says how it is told.

        Raises ConfigError where that cannot be told.
        """
        numbers = {word: id_ for word in words if (id_ := id_of(word)) is not None}
        nameless = [word for word in numbers if word not in self.names]
        if self.is_whole:
            only_names = any(numbers[word] not in self.by_id for word in numbers if word in self.names)
            return not only_names and any(numbers[word] in self.by_id for word in nameless)
        self._check_told(nameless, truth)
        return bool(nameless)

    def has(self, word: str, *, are_ids: bool) -> bool:
        """Whether it is some class, as `are_ids` has told."""
        id_ = id_of(word) if are_ids else None
        return word in self.names if id_ is None else id_ in self.by_id

    def title(self, id_: int) -> str:
        """What tells a class from all others: its name, with the id where another class has the same."""
        name = self.by_id.get(id_, str(id_))
        return f"{name} ({id_})" if name in self.shared else name

    def _learn(self, ids: Iterable[int], labels: Sequence[str]) -> None:
        for id_, label in zip(ids, labels, strict=False):
            name = label.strip()
            if id_ not in self.by_id and name in self.names:
                self.shared.add(name)
            self.by_id[id_] = name
            self.names.add(name)

    def _check_told(self, nameless: list[str], truth: str) -> None:
        odd = ((id_, name) for id_, name in sorted(self.by_id.items()) if id_of(name) not in (None, id_))
        if nameless and (found := next(odd, None)):
            raise ConfigError(
                f"--truth {truth}: class {found[0]} is called {found[1]}, and {min(nameless)}, as no answer is called, "
                "may be a name or an id: this output was begun before _run.json had all names, label into a new one"
            )
