"""`_run.json`: what an output is bound to. Created once, exclusively; a later run must ask for the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields

from pipeline import storage
from pipeline.command import again
from pipeline.errors import ConfigError, ObjectUnreadable
from pipeline.output.place import Place

SCHEMA = 4  # of the output's layout; an output of another one is refused
UNBOUND = ("versions", "cpu_class", "image_endings", "labels")  # of which no other run has to have the same
OWN_SCHEMA = "columns"  # of which every file has a schema of its own
NEW_OUTPUT = "choose another --output, or --overwrite to start over"
# What the parts of `_run.json` are that are no words.
KINDS = {
    "settings": dict,
    "model": dict,
    "batch_size": int,
    "keep": list,
    "span_size": dict,
    "versions": dict,
    "image_endings": list,
    "labels": list,
    "columns": dict,
}


@dataclass(frozen=True)
class BoundModel:
    """The model that answers; `name` is for people, `fingerprint` is its content."""

    name: str
    head: str
    fingerprint: str
    semantics: str

    @property
    def label(self) -> str:
        """Name and content in a few characters, fit for a folder's name."""
        return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', self.name)}-{self.fingerprint[:8]}"


@dataclass(frozen=True)
class SpanSize:
    """Images of a span: `shard` in shards, from `least` to `most` of loose images, as `plan/span_size.py` says."""

    shard: int
    least: int
    most: int

    @staticmethod
    def fixed(images: int) -> SpanSize:
        """What `--span-size` says: the same for all spans."""
        return SpanSize(images, images, images)

    @staticmethod
    def from_json(raw: Mapping[str, object]) -> SpanSize:
        """As it stands in `_run.json`; raises ValueError for anything else."""
        match raw:
            case {"shard": int(shard), "least": int(least), "most": int(most)}:
                return SpanSize(shard, least, most)
        raise ValueError("its _run.json is damaged, in span_size")

    @property
    def flag(self) -> int | str:
        """What `--span-size` would have to say for it."""
        return self.shard if self == SpanSize.fixed(self.shard) else "auto"


@dataclass(frozen=True)
class Bound:
    """Everything that decides which rows an output holds and what they say.

    Other `versions` and another `cpu_class` (empty: answers are not a CPU's; None: not known) only lead to a warning.
    `settings` are the task's, as JSON values. `image_column` counts when it is None, too. `image_endings` are those of
    images in archives, as the run that began the output had them: positions there are counted in images. `labels` are
    the names of all classes by id where answers are classes: rows tell only of those that occur. Who reads the output
    needs them, and no worker; outputs that were begun before they were kept have none. `columns` are the task's, by
    name, in order, with their types as Arrow writes them; outputs that were begun before they were bound have none.
    """

    schema: int
    task: str
    settings: Mapping[str, object]
    model: BoundModel
    dtype: str
    compile: bool
    batch_size: int
    exact: bool
    keep: tuple[str, ...]
    image_column: str | None
    span_size: SpanSize
    versions: Mapping[str, str]
    image_endings: tuple[str, ...]
    cpu_class: str | None = None
    labels: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The content of `_run.json`."""
        lists = {"keep": self.keep, "image_endings": self.image_endings, "labels": self.labels}
        return {**asdict(self), **{name: list(values) for name, values in lists.items()}}

    @staticmethod
    def from_json(raw: object) -> Bound:
        """The inverse; raises ValueError that says what is wrong."""
        if not isinstance(raw, dict) or "task" not in raw:
            raise ValueError("its _run.json names no task")
        missing = [name for name in _needed() if name not in raw]
        if missing:
            raise ValueError(f"its _run.json lacks {', '.join(missing)}")
        damaged = [name for name, kind in KINDS.items() if not isinstance(raw.get(name, kind()), kind)]
        if damaged:
            raise ValueError(f"its _run.json is damaged, in {', '.join(damaged)}")
        known = {field.name: raw[field.name] for field in fields(Bound) if field.name in raw}
        lists = {"keep": tuple(raw["keep"]), "image_endings": tuple(raw["image_endings"])}
        lists["labels"] = tuple(raw.get("labels", ()))
        model = {field.name: raw["model"].get(field.name, "") for field in fields(BoundModel)}
        size = SpanSize.from_json(raw["span_size"])
        return Bound(**{**known, **lists, "model": BoundModel(**model), "span_size": size})

    def durable(self) -> dict[str, object]:
        """What the files of spans repeat: what decides answers, without the model's name and what is UNBOUND."""
        content = self.to_json()
        model = {name: value for name, value in asdict(self.model).items() if name != "name"}
        return {name: value for name, value in content.items() if name not in (*UNBOUND, OWN_SCHEMA)} | {"model": model}

    def check_same(self, existing: Bound, place: Place) -> None:
        """Raise ConfigError for the first difference to what an output is bound to already."""
        if self.model.fingerprint != existing.model.fingerprint and self.task == existing.task:
            raise ConfigError(self._another_model(existing, place))
        ours, theirs = self.compared(), existing.compared()
        for name in ours | theirs:
            if ours.get(name) != theirs.get(name):
                had, has = (_shortened(one[name]) if name in one else "nothing" for one in (theirs, ours))
                raise ConfigError(
                    f"--output {place.root} belongs to a run with {name} = {had}, this command has {has}: {NEW_OUTPUT}"
                )
        if list(self.columns) != list(existing.columns):
            had, has = (", ".join(columns) for columns in (existing.columns, self.columns))
            raise ConfigError(f"--output {place.root} has the columns {had}, this command {has}: {NEW_OUTPUT}")

    def _another_model(self, existing: Bound, place: Place) -> str:
        """Why this model cannot go on here, and the command that starts an output of its own."""
        ours, theirs = self.model.label, existing.model.label
        command = again("--output", place.beside(f"model={ours}"))
        return (
            f"--output {place.root} belongs to another model ({theirs}, this command has {ours}): give it an output of "
            f"its own, `{command}`, or --overwrite to start over"
        )

    def compared(self) -> dict[str, object]:
        """The settings that have to be the same, under the names that users know."""
        names = ("schema", "task", "dtype", "compile", "batch_size", "exact", "keep")
        content = self.to_json()
        found = {name: content[name] for name in names}
        found |= {"span_size": self.span_size.flag, "image_column": self.image_column or "auto"}
        settings: dict[str, object] = json.loads(json.dumps(dict(self.settings)))
        columns = {f"column {name}": type_ for name, type_ in self.columns.items()}
        return {**found, "model": self.model.fingerprint, **settings, **columns}


def _needed() -> list[str]:
    """What every `_run.json` of this layout has."""
    return [one.name for one in fields(Bound) if one.default is one.default_factory is MISSING]


def read_bound(place: Place) -> Bound | None:
    """What an output is bound to, None where there is no output; raises ConfigError for one that is none of ours."""
    raw = _content(place)
    if raw is None:
        return None
    schema = raw["schema"] if isinstance(raw, dict) and _is_ours(raw) else SCHEMA
    if schema != SCHEMA:
        raise ConfigError(f"{place.root} has layout {schema}, this version writes layout {SCHEMA}: {NEW_OUTPUT}")
    try:
        return Bound.from_json(raw)
    except ValueError as error:
        raise place.not_ours(str(error)) from error


def is_ours(place: Place) -> bool:
    """Whether a `_run.json` of these jobs is there, of whatever layout; raises ConfigError as `read_bound` does."""
    raw = _content(place)
    return isinstance(raw, dict) and _is_ours(raw)


def _is_ours(raw: Mapping[str, object]) -> bool:
    """Whether it has what all layouts have in common and no other tool's file has: --overwrite deletes what is ours."""
    model = raw.get("model")
    has_model = isinstance(model, dict) and {"fingerprint", "semantics"} <= model.keys()
    return has_model and isinstance(raw.get("schema"), int) and isinstance(raw.get("task"), str)


def output_of(name: str) -> Place:
    """The output that a user names, of whatever layout; raises ConfigError for what is none of ours."""
    place = Place.of(name)
    with storage.checking(name):
        if not is_ours(place):
            raise place.not_ours("it has no _run.json of theirs")
    return place


def output_above(place: Place) -> Place | None:
    """The nearest output in which a place lies, of whatever layout; None for none that this user may look into."""
    for folder in place.above():
        with suppress(ConfigError):
            if is_ours(folder):
                return folder
    return None


def kept_of(place: Place) -> frozenset[str]:
    """The columns that an output of ours, of whatever layout, keeps from its source; all others are the task's."""
    return frozenset(_list_of(place, "keep"))


def labels_of(place: Place) -> tuple[str, ...]:
    """The names of all classes by id; () where an output, of whatever layout, has none or was begun before."""
    return tuple(_list_of(place, "labels"))


def _list_of(place: Place, name: str) -> list[str]:
    raw = _content(place)
    found = raw.get(name) if isinstance(raw, dict) else None
    return found if isinstance(found, list) else []


def _content(place: Place) -> object:
    """`_run.json` as it stands, None where there is none."""
    try:
        return json.loads(storage.read(place.bound_file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise ConfigError(
            f"--output {place.root}: access to its _run.json is denied; an output is read, "
            "listed and written: give another, or yourself these rights"
        ) from error
    except (OSError, ObjectUnreadable) as error:
        raise ConfigError(f"--output {place.root}: cannot be read ({storage.cause(error)})") from error
    except ValueError as error:
        raise place.not_ours("its _run.json is not JSON") from error


def bound_of(place: Place) -> Bound:
    """What a finished or begun output is bound to; raises ConfigError where there is none."""
    found = read_bound(place)
    if found is None:
        raise place.not_ours("it has no _run.json")
    return found


def bind(place: Place, resolve: Callable[[Bound | None], Bound]) -> Bound:
    """Create `_run.json`, or check that the one there wants the same; returns what the output is bound to.

    `resolve` gives what this command wants, taking from an existing Bound what the command leaves open. Raises
    ConfigError that names the first setting that differs, or says why the output cannot be written.
    """
    while (existing := read_bound(place)) is None:
        wanted = resolve(None)
        data = json.dumps(wanted.to_json(), indent=1, ensure_ascii=False).encode()
        try:
            if storage.create(place.bound_file, data):
                _take_back_unless_exclusive(place, data)
                return wanted
        except (OSError, ObjectUnreadable) as error:
            raise ConfigError(f"--output {place.root}: cannot be written ({storage.cause(error)})") from error
    resolve(existing).check_same(existing, place)
    return existing


def _take_back_unless_exclusive(place: Place, data: bytes) -> None:
    """Delete the new file, and raise ConfigError, where the storage creates what is there.

    Two runs at once would lose each other's images.
    """
    if storage.create(place.bound_file, data):
        storage.delete(place.bound_file)
        why = "its storage ignores `If-None-Match: *`, without which two runs can overwrite each other's plan"
        raise ConfigError(f"--output {place.root}: {why}: choose storage that honours it (AWS S3 and most others do)")


def _shortened(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 32 else text[:12] + "..."
