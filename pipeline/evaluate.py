"""Answers compared with ground truth in a kept column: top-k accuracy of labels, mean IoU of masks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import masks
from pipeline.classes import ClassNames, check_kind, id_of, word_of
from pipeline.errors import ConfigError
from pipeline.output.bound import kept_of, labels_of, output_of
from pipeline.output.columns import answers_in
from pipeline.output.place import Place
from pipeline.output.span_file import as_it_is, read_columns
from pipeline.status import OK

VOID = 255  # the usual class of pixels that nobody has judged
MOST_CLASSES = 1 << 12  # of masks; pairs of them are counted, in 8 bytes each
PNGS = "a column of PNG files whose pixels are class ids, such as --keep mask.png keeps"


@dataclass(frozen=True)
class Accuracy:
    """Of `images` with an answer and a ground truth: how often the first label, or one of the first five, was right."""

    images: int
    top1: int
    top5: int
    most: int = 5  # answers of an image; with fewer than five, `top5` is about these

    def __str__(self) -> str:
        share = max(self.images, 1)
        said = f"{self.top1:,} of {self.images:,} right: top-1 {self.top1 / share:.2%}"
        return said if self.most < 2 else f"{said}, top-{min(5, self.most)} {self.top5 / share:.2%}"


@dataclass(frozen=True)
class Overlap:
    """Segmentation quality over all pixels of `images`: mean IoU of the classes that occur, and pixel accuracy."""

    images: int
    mean_iou: float
    pixel_accuracy: float

    def __str__(self) -> str:
        return f"{self.images:,} masks: mean IoU {self.mean_iou:.4f}, pixel accuracy {self.pixel_accuracy:.4f}"


def evaluate(output: str, truth: str, ignore: int | None = None) -> Accuracy | Overlap:
    """Compare an output with its kept column `truth`: class names or ids for labels, mask files for masks.

    Of labels `classes.py` says what is a name and what an id. Pixels of masks whose true class is `ignore` (None: VOID)
    do not count, and that class has no part in the mean.
    Raises ConfigError when there is nothing to compare.
    """
    place = output_of(output)
    schema = _schema_of(place, output)
    answers = answers_in(schema, kept_of(place))
    has_labels = {"labels", "label_ids"} <= answers
    if not has_labels and "mask" not in answers:
        raise ConfigError(f"{output} holds neither labels nor masks: evaluate takes outputs of label.py and segment.py")
    if truth not in schema.names:
        has = ", ".join(schema.names)
        raise ConfigError(f"{output} has no column {truth}: run the job with --keep {truth}; it has {has}")
    kind = schema.field(truth).type
    if has_labels:
        if ignore is not None:
            raise ConfigError(f"--ignore {ignore} is for masks, and {output} holds labels: leave it out")
        check_kind(truth, kind)
        return _accuracy(_tables(place, "label_ids", "labels", truth), truth, ClassNames(labels_of(place)))
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ConfigError(f"--truth {truth}: a column of {kind}; of masks the truth is {PNGS}")
    return _overlap(_tables(place, "uri", "mask", truth), truth, VOID if ignore is None else ignore)


def answer_columns(place: Place, output: str) -> frozenset[str]:
    """The columns of an output that are answers of the known kinds; raises ConfigError where it has no rows."""
    return answers_in(_schema_of(place, output), kept_of(place))


def _schema_of(place: Place, output: str) -> pa.Schema:
    _, entry = next(place.spans(), (None, None))
    if entry is None:
        raise ConfigError(f"{output}: no rows there; give the --output of a job")
    return as_it_is(entry, pq.read_schema)


def _tables(place: Place, *columns: str) -> Iterator[pa.Table]:
    files = (entry for _, entry in place.spans())
    return (table for _, table in read_columns(files, ("status", *columns)))


def _rows(tables: Iterable[pa.Table], columns: list[str]) -> Iterator[tuple[Any, ...]]:
    for table in tables:
        values = zip(*(table[name].to_pylist() for name in ["status", *columns]), strict=True)
        yield from (row[1:] for row in values if row[0] == OK and row[-1] is not None)


def _accuracy(tables: Iterable[pa.Table], truth: str, names: ClassNames) -> Accuracy:
    found: dict[str, _Tally] = defaultdict(_Tally)
    most = 0
    for ids, labels, true in _rows(tables, ["label_ids", "labels", truth]):
        names.add(ids, labels)
        most = max(most, len(labels))
        if wanted := word_of(true):
            found[wanted].add(ids, labels, wanted)
    if not found:
        raise ConfigError(f"--truth {truth}: no image has both an answer and a truth, so there is nothing to compare")
    are_ids = names.are_ids(found, truth)
    right = [tally.by_id if are_ids and id_of(word) is not None else tally.by_name for word, tally in found.items()]
    return Accuracy(sum(t.images for t in found.values()), sum(r[0] for r in right), sum(r[1] for r in right), most)


class _Tally:
    """Images of one truth, and how often it was the first label, and one of the first five: as a name, or as an id."""

    def __init__(self) -> None:
        self.images = 0
        self.by_name, self.by_id = [0, 0], [0, 0]

    def add(self, ids: Sequence[int], labels: Sequence[str], wanted: str) -> None:
        """Count one image."""
        self.images += 1
        places = [label.strip() == wanted for label in labels[:5]], [id_ == id_of(wanted) for id_ in ids[:5]]
        for tally, right in zip((self.by_name, self.by_id), places, strict=True):
            tally[0] += any(right[:1])
            tally[1] += any(right)


def _overlap(tables: Iterable[pa.Table], truth: str, ignore: int) -> Overlap:
    pixels = PixelPairs(ignore)
    for uri, mask, true in _rows(tables, ["uri", "mask", truth]):
        try:
            both = masks.size_of(mask), masks.size_of(true)
            if len(set(both)) > 1:  # before a truth of any size is decoded
                sizes = " and ".join(f"{width} x {height}" for height, width in both)
                raise ConfigError(f"--truth {truth} of {uri}: mask and truth are {sizes}, and must have the same size")
            found, wanted = masks.read_mask(mask), masks.read_mask(true)
        except ValueError as error:
            raise ConfigError(f"--truth {truth} of {uri}: {error}; of masks the truth is {PNGS}") from error
        if (largest := int(wanted[wanted != ignore].max(initial=0))) >= MOST_CLASSES:
            raise ConfigError(f"--truth {truth} of {uri}: class {largest:,} is no class; is it --ignore {largest}?")
        pixels.add(found, wanted)
    if not pixels.counts.any():
        raise ConfigError(f"--truth {truth}: no image has an answer and a true class other than --ignore {ignore}")
    return pixels.overlap()


class PixelPairs:
    """Pairs of class maps, counted pixel by pixel; those that should be of the class `ignore` do not count."""

    def __init__(self, ignore: int | None = None) -> None:
        self.ignore = ignore
        self.images, self.counts = 0, np.zeros((0, 0), np.int64)  # counts[wanted, found]

    def add(self, found: np.ndarray, wanted: np.ndarray) -> None:
        """Count two maps of class ids of one shape."""
        seen = np.ones(wanted.shape, bool) if self.ignore is None else wanted != self.ignore
        size = max(len(self.counts), int(found.max(initial=0)) + 1, int(wanted[seen].max(initial=0)) + 1)
        self.counts = np.pad(self.counts, ((0, size - len(self.counts)),) * 2)
        pairs = wanted[seen].astype(np.int64) * size + found[seen]
        self.counts += np.bincount(pairs, minlength=size * size).reshape(size, size)
        self.images += 1

    def overlap(self) -> Overlap:
        """Over all that were added."""
        right = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - right
        occurs = (union > 0) & (np.arange(len(union)) != self.ignore)
        iou = right[occurs] / union[occurs]
        return Overlap(self.images, float(iou.mean()), float(right.sum() / self.counts.sum()))
