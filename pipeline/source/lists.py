"""Lists of images: a URI a line, or a table (.csv, .tsv) with a column of them.

Names are verbatim, with the spaces around them. In a list without columns a line that begins with `#` is a comment; an
image of such a name is listed as `./#1.png`, or by its whole URI.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.source.columns import URI_NAMES, known_column
from pipeline.source.item import Wanted
from pipeline.source.passed import PassedBy

LIST_ENDINGS = {".txt", ".csv", ".tsv"}
PLAIN = ".txt"  # a URI a line, no columns
LOOKED_AT = 20  # first lines, which decide on delimiter and column
LONGEST_ROW = 10_000  # lines that are looked at for the end of the last row among them
DELIMITERS = ",;\t|"
csv.field_size_limit(1 << 24)  # characters of a cell, of this process: captions are longer than csv's 128 KiB
Rows = list[list[str]]


@dataclass(frozen=True)
class ListLine:
    """One line of a list: an image as it is named there, and what is kept beside it, as JSON ("" for nothing)."""

    name: str
    kept: str = ""


@dataclass(frozen=True)
class Form:
    """How a table is read: the column of the images, and the names of all columns where a header says them."""

    column: int
    header: tuple[str, ...] | None


def read_list(
    lines: Iterator[str], ending: str, wanted: Wanted, extensions: Collection[str], passed: PassedBy
) -> Iterator[ListLine]:
    """The images of a list, in order. Raises ConfigError if the image column is ambiguous or a wanted one is missing.

    `extensions` are those of image files, with the dot. Comments, and rows that name no image, are counted in `passed`.
    """
    if ending == PLAIN:
        return map(ListLine, _uncommented(lines, passed))
    head, is_cut = _beginning(lines)
    delimiter = _delimiter(head, "\t" if ending == ".tsv" else ",", is_cut=is_cut)
    seen = list(_filled(csv.reader(head, delimiter=delimiter)))
    if not seen:
        return iter(())
    form = form_of(seen, wanted.image_column, lambda cell: _names_an_image(cell, extensions))
    kept = _places(form.header, wanted.keep)
    rows = _filled(_closed(itertools.chain(head, lines), delimiter))
    return _read(itertools.islice(rows, 1 if form.header else 0, None), form.column, kept, passed)


def _read(rows: Iterator[list[str]], column: int, kept: Mapping[str, int], passed: PassedBy) -> Iterator[ListLine]:
    for row in rows:
        if len(row) > column and row[column]:
            values = {name: row[place] for name, place in kept.items() if place < len(row)}
            yield ListLine(row[column], json.dumps(values) if values else "")
        else:
            passed.note("row without an image")


def _closed(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """The rows of a table. Raises csv.Error for a quote that nothing closes: all lines behind it would be one cell."""
    taken: list[str] = []  # lines of the row that is read

    def noted() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    for number, row in enumerate(csv.reader(noted(), delimiter=delimiter), 1):
        try:
            if len(taken) > 1:
                list(csv.reader(taken, delimiter=delimiter, strict=True))
        except csv.Error as error:
            said = f"row {number} has {len(taken):,} lines and a quote that nothing closes, or something behind one"
            raise csv.Error(said) from error
        taken.clear()
        yield row


def _filled(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    return filter(any, rows)


def _uncommented(lines: Iterable[str], passed: PassedBy) -> Iterator[str]:
    for line in lines:
        if line.startswith("#"):
            passed.note("comment")
        elif line.strip():
            yield line.rstrip("\r\n")


def _beginning(lines: Iterator[str]) -> tuple[list[str], bool]:
    """The first lines, up to the end of a row, and whether that row has none: a quoted cell has any number of lines."""
    head = list(itertools.islice(lines, LOOKED_AT))
    quotes = sum(line.count('"') for line in head)
    while quotes % 2 and len(head) < LONGEST_ROW and (line := next(lines, "")):
        head.append(line)
        quotes += line.count('"')
    return head, quotes % 2 == 1


def _delimiter(head: list[str], usual: str, *, is_cut: bool) -> str:
    """The delimiter that gives all first lines the same number of columns, above one; else the one that gives most."""
    widths: dict[str, int] = {}
    for delimiter in sorted(DELIMITERS, key=lambda one: one != usual):
        rows = [row for row in csv.reader(head, delimiter=delimiter) if row]
        if is_cut:
            rows = rows[:-1]
        lengths = {len(row) for row in rows}
        if len(lengths) == 1 and lengths != {1}:
            return delimiter
        widths[delimiter] = len(rows[0]) if rows else 0
    return max(widths, key=lambda one: widths[one])


def _names_an_image(cell: str, extensions: Collection[str]) -> bool:
    return "://" in cell or ("." in cell and "." + cell.rpartition(".")[2].lower() in extensions)


def form_of(rows: Rows, asked: str | None, is_image: Callable[[str], bool]) -> Form:
    """The form of a table by its first rows; `asked` is `--image-column`. Raises ConfigError if it is ambiguous."""
    names = tuple(cell.strip() for cell in rows[0])
    first = _columns(rows[:1], is_image)
    name = asked or (None if first else known_column(names, URI_NAMES))  # beside an image `photo` is a value
    if name in names:
        return Form(names.index(name), names)
    if asked:
        raise ConfigError(f"--image-column {asked}: no such column; its columns: {', '.join(names)}")
    likely = first or _columns(rows[1:], is_image)
    if len(likely) == 1:
        return Form(likely[0], None if first else names)
    if len(names) == 1:
        return Form(0, None)  # names without an ending
    advice = "a header and --image-column say which" if first else "--image-column says which"
    raise ConfigError(f"which column names the images is open, {advice}; its columns: {', '.join(names)}")


def _columns(rows: Rows, is_image: Callable[[str], bool]) -> list[int]:
    """The columns whose filled cells all name images."""
    width = max(map(len, rows), default=0)
    cells = [[row[place] for row in rows if place < len(row) and row[place]] for place in range(width)]
    return [place for place, column in enumerate(cells) if column and all(map(is_image, column))]


def _places(header: tuple[str, ...] | None, keep: tuple[str, ...]) -> dict[str, int]:
    for name in keep:
        if header is None:
            raise ConfigError(f"--keep {name}: the list has no header that would name its columns")
        if name not in header:
            raise ConfigError(f"--keep {name}: no such column; its columns: {', '.join(header)}")
    return {name: header.index(name) for name in keep} if header else {}
