"""Answers against the truth in a kept column: how many are right, and which are taken for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pipeline.classes import ClassNames, id_of, word_of
from pipeline.errors import ConfigError
from pipeline.page.parts import Row, share
from pipeline.page.survey import Survey

WRONG, FAILED = 24, 12  # rows whose pictures are fetched wherever they lie
NOTHING = "no label"  # of a row with no score above the threshold


@dataclass(frozen=True)
class Judged:
    """A row with its first label and its true class, by name, and the place that the truth has in its answers."""

    row: Row
    said: str
    true: str
    score: float
    rank: int | None  # from 0; None where the truth is not among the answers that were read

    @property
    def right(self) -> bool:
        """Whether the first label is the truth."""
        return self.rank == 0


@dataclass(frozen=True)
class Verdict:
    """All rows that could be judged; `column` holds the truth."""

    column: str
    rows: list[Judged]

    @property
    def right(self) -> int:
        """How many first labels are right."""
        return sum(one.right for one in self.rows)

    @property
    def accuracy(self) -> str:
        """As a percentage with two digits, which does not read 100 where anything is wrong."""
        part = self.right / len(self.rows)
        return "100 %" if part == 1 else f"{min(100 * part, 99.99):.2f} %"

    def wrong(self) -> list[Judged]:
        """The surest mistakes first."""
        return sorted((one for one in self.rows if not one.right), key=lambda one: (-one.score, one.row["uri"]))

    def confusions(self) -> list[tuple[str, str, int]]:
        """(true class, what was said, how often), the most frequent first."""
        counts = Counter((one.true, one.said) for one in self.rows if not one.right)
        return [(true, said, number) for (true, said), number in sorted(counts.items(), key=lambda c: (-c[1], c[0]))]


def verdict(survey: Survey) -> Verdict | None:
    """The rows against their truth; None without a truth, or where a column that nobody named holds something else.

    `pipeline/classes.py` says what is taken for a name and what for an id. Raises ConfigError where a column that was
    named may hold either.
    """
    if survey.truth is None:
        return None
    names = _names(survey)
    given = [(row, word) for row in survey.good() if (word := _word(row, survey.truth))]
    if not names.by_id or not given:
        return None
    try:
        are_ids = names.are_ids({word for _, word in given}, survey.truth)
    except ConfigError:
        if survey.named:
            raise
        return None
    classes = sum(names.has(word, are_ids=are_ids) for _, word in given)
    if 2 * classes < len(given) and not survey.named:
        return None
    return Verdict(survey.truth, [judge(row, word, names, are_ids=are_ids) for row, word in given])


def judge(row: Row, word: str, names: ClassNames, *, are_ids: bool) -> Judged:
    """A row against its true class; `are_ids`: a word that is a whole number is an id.

    Where names are the truth, of two classes of one name either is right, and they are told apart only where ids are.
    """
    labels, ids, scores = answers(row)
    wanted = id_of(word) if are_ids else None
    ranks = [label.strip() == word for label in labels] if wanted is None else [id_ == wanted for id_ in ids]
    rank = ranks.index(True) if True in ranks else None
    said, score = (labels[0].strip(), scores[0]) if labels and scores else (NOTHING, 0.0)
    if are_ids and said != NOTHING:
        said = names.title(ids[0])
    true = said if rank == 0 else word if wanted is None else names.title(wanted)
    return Judged(row, said, true, score, rank)


def answers(row: Row) -> tuple[list[str], list[int], list[float]]:
    """Names, ids and scores of a row's labels, best first."""
    values = cast("Mapping[str, Sequence[object] | None]", row)
    return (
        [str(one) for one in values.get("labels") or []],
        [cast("int", one) for one in values.get("label_ids") or []],
        [cast("float", one) for one in values.get("scores") or []],
    )


def why(one: Judged) -> str:
    """In a sentence, how near a mistake came to the truth."""
    if one.said == NOTHING:
        return f"No label above the threshold; it is {one.true}."
    if one.rank is None:
        return f"The truth, {one.true}, is not among its best labels."
    second = share(answers(one.row)[2][one.rank])
    order = {1: "second", 2: "third", 3: "fourth", 4: "fifth"}.get(one.rank, f"number {one.rank + 1}")
    return f"The truth, {one.true}, came {order} with {second}."


def telling(survey: Survey) -> list[Row]:
    """Rows worth a picture wherever they lie: the surest mistakes, and some of what failed."""
    judged = verdict(survey)
    wrong = [one.row for one in judged.wrong()[:WRONG]] if judged else []
    return [*wrong, *survey.failed()[:FAILED]]


def _word(row: Row, column: str) -> str:
    return word_of(cast("Mapping[str, object]", row).get(column))


def _names(survey: Survey) -> ClassNames:
    names = ClassNames(survey.labels)
    for row in survey.good():
        labels, ids, _ = answers(row)
        names.add(ids, labels)
    return names
