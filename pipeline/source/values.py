"""Values of Arrow columns, as writers of all kinds leave them, in forms that every reader knows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

BEYOND_PYTHON = (OverflowError, ValueError, pa.ArrowException)


def without_views(type_: pa.DataType) -> pa.DataType:
    """The same type of values that every reader knows: pyarrow can neither take nor filter texts and bytes in views."""
    is_large = pa.types.is_large_list(type_) or pa.types.is_large_list_view(type_)
    if pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_binary_view(type_):
        return pa.binary()
    if is_large or pa.types.is_list(type_) or pa.types.is_list_view(type_):
        return (pa.large_list if is_large else pa.list_)(_without_views(type_.value_field))
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(_without_views(type_.value_field), type_.list_size)
    if pa.types.is_struct(type_):
        return pa.struct([_without_views(type_.field(number)) for number in range(type_.num_fields)])
    if pa.types.is_map(type_):
        return pa.map_(_without_views(type_.key_field), _without_views(type_.item_field), type_.keys_sorted)
    return type_


def _without_views(field: pa.Field) -> pa.Field:
    """Of a categorical its values: the numbers of one in a list cannot be made wide enough for other shards' words."""
    type_ = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return field.with_type(without_views(type_))


def as_keys(column: pa.Array) -> list[Any]:
    """`as_values`; numbers in the place of dates that Python cannot tell, or that lie in an unknown zone."""
    try:
        return as_values(column)
    except BEYOND_PYTHON:
        return [_as_key(cell) for cell in column]  # one by one: a key must not depend on its neighbours


def _as_key(cell: pa.Scalar) -> object:
    try:
        return cell.as_py()
    except BEYOND_PYTHON:
        return cell.value


def as_values(column: pa.Array) -> list[Any]:
    """The column's values; a byte of a text that is not UTF-8, which writers do not check, is written `\\xNN`."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = readable(unencoded(column)).to_pylist()
    return values


def readable(column: pa.Array) -> pa.Array:
    """The column as every reader can read it: `as_values` says how."""
    try:
        column.validate(full=True)
        return column
    except pa.ArrowInvalid:
        type_ = column.type
    if pa.types.is_dictionary(type_):
        return pa.DictionaryArray.from_arrays(column.indices, readable(column.dictionary))
    if pa.types.is_struct(type_):
        fields = [readable(field) for field in column.flatten()]
        return pa.StructArray.from_arrays(fields, type_.names, mask=column.is_null())
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        whole = column.take(pa.array(range(len(column))))  # no slice, which cannot be built with its nulls
        return type(column).from_arrays(whole.offsets, readable(whole.values), type=type_, mask=whole.is_null())
    return _readable_text(column)


def _readable_text(column: pa.Array) -> pa.Array:
    type_ = column.type
    if pa.types.is_string_view(type_):
        texts = column.view(pa.binary_view()).to_pylist()
    elif pa.types.is_string(type_) or pa.types.is_large_string(type_):
        texts = column.cast(pa.large_string()).view(pa.large_binary()).to_pylist()
    else:
        return column
    return pa.array([None if text is None else text.decode("utf-8", "backslashreplace") for text in texts], type_)


def unencoded(column: pa.Array) -> pa.Array:
    """The values of a dictionary; any other column as it is."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
