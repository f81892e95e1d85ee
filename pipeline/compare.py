"""Two outputs over the same images, such as of an old model and a new one: where do their answers differ?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import masks
from pipeline.classes import ClassNames
from pipeline.errors import ConfigError
from pipeline.evaluate import PixelPairs, answer_columns
from pipeline.output.bound import labels_of, output_of
from pipeline.pairs import pairs
from pipeline.status import OK

FLIPS, PAIRS = 48, 10  # shown at most
PERCENTILES = (5, 50, 95)


class Flip(NamedTuple):
    """An image whose first label has changed; `source` is what its span is a part of."""

    uri: str
    source: str
    before: str
    after: str
    score_before: float
    score_after: float


class Difference(Protocol):
    """What the answers of one kind have in common; pairs of tables have the same uris in the same order, all ok."""

    columns: ClassVar[tuple[str, ...]]

    def add(self, new: pa.Table, old: pa.Table) -> None:
        """Count these rows."""

    def lines(self) -> Iterator[str]:
        """What was found, for people."""


class Labels:
    """Of labels: how often the first one stays the same, which ones change into which, and how scores have moved.

    They are told apart by their names: two models may number the same classes otherwise. Where two classes of either
    output have one name, their ids tell them apart; those without the names of all classes show that in their answers.
    """

    columns: ClassVar[tuple[str, ...]] = ("label_ids", "labels", "scores")

    def __init__(self, new: Sequence[str] = (), old: Sequence[str] = ()) -> None:
        self.known = ClassNames(new), ClassNames(old)
        self.images = self.same = 0
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.shifts: list[np.ndarray] = []  # float32, new first score less old one
        self.flips: list[Flip] = []

    def add(self, new: pa.Table, old: pa.Table) -> None:
        """See `Difference`."""
        _learn(self.known[0], new)
        _learn(self.known[1], old)
        shared = self.known[0].shared | self.known[1].shared
        after, score_after = _first(new, shared)
        before, score_before = _first(old, shared)
        self.images += len(after)
        self.shifts.append(score_after - score_before)
        changed = [i for i, (a, b) in enumerate(zip(after, before, strict=True)) if a != b]
        self.same += len(after) - len(changed)
        self.pairs.update((before[i], after[i]) for i in changed)
        uris, sources = new["uri"], new["source"]
        self.flips += [
            Flip(
                uris[i].as_py(), sources[i].as_py(), before[i], after[i], float(score_before[i]), float(score_after[i])
            )
            for i in changed
        ]
        self.flips = sorted(self.flips, key=lambda flip: (-flip.score_after, flip.uri))[:FLIPS]

    def lines(self) -> Iterator[str]:
        """See `Difference`."""
        yield f"first label: {self.same:,} of {self.images:,} agree ({self.same / max(self.images, 1):.2%})"
        yield f"score of the first label, new less old: {_spread(self.shifts)}"
        for (before, after), count in self.pairs.most_common(PAIRS):
            yield f"  {before} -> {after}: {count:,}"
        for flip in self.flips[:PAIRS]:
            scores = f"{flip.before} ({flip.score_before:.2f}) -> {flip.after} ({flip.score_after:.2f})"
            yield f"  {flip.uri}: {scores}"


class Masks:
    """Of masks: mean IoU between the two, and the share of equal pixels."""

    columns: ClassVar[tuple[str, ...]] = ("mask",)

    def __init__(self) -> None:
        self.pixels, self.resized = PixelPairs(), 0

    def add(self, new: pa.Table, old: pa.Table) -> None:
        """See `Difference`; raises ConfigError for what is no PNG of class ids, as a task of one's own may have it."""
        for uri, *both in zip(new["uri"], new["mask"], old["mask"], strict=True):
            try:
                found, wanted = (masks.read_mask(mask.as_py()) for mask in both)
            except ValueError as error:
                raise ConfigError(f"the masks of {uri} cannot be compared: {error}") from error
            if found.shape == wanted.shape:
                self.pixels.add(found, wanted)
            else:
                self.resized += 1

    def lines(self) -> Iterator[str]:
        """See `Difference`."""
        yield str(self.pixels.overlap()) if self.pixels.images else "no masks of the same size"
        if self.resized:
            yield f"  of another size, left out: {self.resized:,}"


class Vectors:
    """Of embeddings: the cosine between the two vectors of an image."""

    columns: ClassVar[tuple[str, ...]] = ("embedding",)

    def __init__(self) -> None:
        self.cosines: list[np.ndarray] = []

    def add(self, new: pa.Table, old: pa.Table) -> None:
        """See `Difference`; raises ConfigError for vectors of different lengths."""
        mine, theirs = _vectors(new), _vectors(old)
        if mine.shape != theirs.shape:
            raise ConfigError(f"vectors of {mine.shape[1]} and of {theirs.shape[1]} numbers cannot be compared")
        norms = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
        self.cosines.append((mine * theirs).sum(1) / np.maximum(norms, 1e-12))

    def lines(self) -> Iterator[str]:
        """See `Difference`."""
        yield f"cosine of an image's vectors: {_spread(self.cosines)}"


KINDS: tuple[type[Labels] | type[Masks] | type[Vectors], ...] = (Labels, Masks, Vectors)


@dataclass
class Comparison:
    """How the rows of two outputs meet, and how the answers of those that are ok in both differ."""

    difference: Difference
    counts: Counter[str] = field(default_factory=Counter)

    def lines(self) -> Iterator[str]:
        """What was found, for people."""
        counts = self.counts
        both, new, old = (f"{counts[name]:,}" for name in ("both", "new", "old"))
        yield f"images: {both} in both, {new} only in the new output, {old} only in the old one"
        ok, gained, lost = (f"{counts[name]:,}" for name in ("ok", "gained", "lost"))
        yield f"answered: {ok} by both, {gained} only by the new model, {lost} only by the old one"
        yield from self.difference.lines()


def compare(new: str, old: str) -> Comparison:
    """Join the rows of two outputs by uri and compare their answers.

    Raises ConfigError where the outputs have no comparable column in common.
    """
    places = output_of(new), output_of(old)
    shared = answer_columns(places[0], new) & answer_columns(places[1], old)
    kind = next((kind for kind in KINDS if shared.issuperset(kind.columns)), None)
    if kind is None:
        raise ConfigError(f"{new} and {old} have neither labels, masks nor embeddings in common")
    found = Comparison(Labels(*map(labels_of, places)) if kind is Labels else kind())
    for mine, theirs in pairs(*places, ["uri", "status", *kind.columns], found.counts):
        now, before = (pc.equal(table["status"], OK) for table in (mine, theirs))
        both = pc.and_(now, before)
        found.counts["ok"] += pc.sum(both).as_py() or 0
        found.counts["gained"] += pc.sum(pc.and_not(now, before)).as_py() or 0
        found.counts["lost"] += pc.sum(pc.and_not(before, now)).as_py() or 0
        found.difference.add(mine.filter(both), theirs.filter(both))
    return found


def _learn(names: ClassNames, table: pa.Table) -> None:
    if not names.is_whole:
        for ids, labels in zip(table["label_ids"].to_pylist(), table["labels"].to_pylist(), strict=True):
            names.add(ids, labels)


def _first(table: pa.Table, shared: Collection[str]) -> tuple[list[str], np.ndarray]:
    """Each row's first label, "(none)" where no score reached the threshold, and its score, then 0.

    Names that classes have in common come with the id.
    """
    rows = zip(table["label_ids"].to_pylist(), table["labels"].to_pylist(), strict=True)
    names = [(ids[0], labels[0].strip()) if labels else (None, "(none)") for ids, labels in rows]
    labels = [f"{name} ({id_})" if name in shared else name for id_, name in names]
    scores = [found[0] if found else 0.0 for found in table["scores"].to_pylist()]
    return labels, np.array(scores, np.float32)


def _vectors(table: pa.Table) -> np.ndarray:
    """(rows, D) float32."""
    width = table.schema.field("embedding").type.list_size
    return np.asarray(table["embedding"].combine_chunks().flatten(), np.float32).reshape(len(table), width)


def _spread(values: list[np.ndarray]) -> str:
    """Mean and percentiles."""
    every = np.concatenate([*values, np.zeros(0, np.float32)])
    if not len(every):
        return "no image to compare"
    at = ", ".join(f"{p} %: {v:.4f}" for p, v in zip(PERCENTILES, np.percentile(every, PERCENTILES), strict=True))
    return f"mean {every.mean():.4f} ({at})"
