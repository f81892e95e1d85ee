"""The columns of an output: fixed before the first image is read, whatever the images are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError

BASE = [
    pa.field("uri", pa.string(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
    pa.field("status", pa.string(), nullable=False),
    pa.field("error", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
]


def _list_of(fits: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda type_: pa.types.is_list(type_) and fits(type_.value_type)


def _each_of(fits: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda type_: pa.types.is_fixed_size_list(type_) and fits(type_.value_type)


def _is_share(type_: pa.DataType) -> bool:
    return pa.types.is_struct(type_) and {"id", "label", "fraction"} <= {field.name for field in type_}


# The answers that the page and comparisons know, by name and type. A task of one's own may call others so.
ANSWERS: Mapping[str, Callable[[pa.DataType], bool]] = {
    "labels": _list_of(pa.types.is_string),
    "label_ids": _list_of(pa.types.is_integer),
    "scores": _list_of(pa.types.is_floating),
    "embedding": _each_of(pa.types.is_floating),
    "mask": pa.types.is_binary,
    "classes": _list_of(_is_share),
    "tokens": _each_of(pa.types.is_integer),
    "masked": _each_of(pa.types.is_boolean),
    "predicted": _each_of(pa.types.is_integer),
    "loss": pa.types.is_floating,
}
OF_TOKENS = {"masked", "predicted", "loss"}  # which tell nothing where there are none


def answers_in(schema: pa.Schema, kept: Collection[str]) -> frozenset[str]:
    """Which columns of an output, of which these are `kept` from its source, are answers of the known kinds."""
    of_task = [field for field in schema if field.name not in kept]
    found = {field.name for field in of_task if field.name in ANSWERS and ANSWERS[field.name](field.type)}
    return frozenset(found if "tokens" in found else found - OF_TOKENS)


def schema_of(task_columns: dict[str, pa.DataType], kept: dict[str, pa.DataType]) -> pa.Schema:
    """Base columns, then the task's, then the kept ones; a name that is taken raises ConfigError."""
    if twice := [field.name for field in BASE if field.name in task_columns]:
        raise ConfigError(f"the task has a column {twice[0]}, which every output has: call it otherwise in `columns`")
    taken = {field.name for field in BASE} | set(task_columns)
    if clash := sorted(taken & set(kept)):
        raise ConfigError(f"--keep {clash[0]}: the output has a column of that name already; rename it in the source")
    extra = [pa.field(name, type_) for name, type_ in {**task_columns, **kept}.items()]
    return pa.schema([*BASE, *extra])


def to_array(values: Sequence[object] | np.ndarray, valid: np.ndarray, type_: pa.DataType) -> pa.Array:
    """One column: `values` hold an entry per row, rows outside `valid` (bool per row) become null.

    A fixed-size-list column takes a 2-D array and keeps it as one flat buffer, with no Python object per number.
    """
    if pa.types.is_fixed_size_list(type_) and isinstance(values, np.ndarray):
        flat = np.ascontiguousarray(values).reshape(-1)
        items = pa.array(flat.astype(type_.value_type.to_pandas_dtype(), copy=False), type_.value_type)
        mask = None if valid.all() else pa.array(~valid)
        return pa.FixedSizeListArray.from_arrays(items, type=type_, mask=mask)
    rows = values.tolist() if isinstance(values, np.ndarray) else values
    return pa.array([row if good else None for row, good in zip(rows, valid, strict=True)], type_)


def kept_array(values: Sequence[object], type_: pa.DataType) -> pa.Array:
    """One column of kept values: an entry per row, either Python's or an array of one value, which stays as it is.

    Arrays for a dictionary hold its values. The words of a whole shard have no place in every span.
    """
    if not any(isinstance(value, pa.Array) for value in values):
        return pa.array(values, type_)
    encoded = pa.types.is_dictionary(type_)
    plain = type_.value_type if encoded else type_
    cells = [value if isinstance(value, pa.Array) else pa.array([value], plain) for value in values]
    column = pa.concat_arrays(cells)
    if not encoded:
        return column
    words = column.dictionary_encode()
    indices = words.indices.cast(type_.index_type)
    return pa.DictionaryArray.from_arrays(indices, words.dictionary, ordered=type_.ordered)
