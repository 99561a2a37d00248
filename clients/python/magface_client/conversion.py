"""Conversion of messages to results, by the names of their fields."""

import functools
from dataclasses import fields, is_dataclass
from datetime import UTC
from typing import Any, TypeVar, cast, get_args, get_type_hints

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

_Result = TypeVar("_Result")


def convert(kind: type[_Result], message: Message, **given: object) -> _Result:
    """Make a result from a message that has fields of the same names.

    A timestamp becomes a datetime, an enum the lower-case rest of its name, a list a tuple, and an
    unset field with presence None.

    Args:
        kind: A dataclass.
        message: The message.
        given: Values of fields that the message does not have, or that are not taken from it.
    """
    values = {
        name: _value(message, name, result)
        for name, result in _results(cast("Any", kind)).items()
        if name not in given
    }
    return kind(**values, **given)


@functools.cache
def _results(kind: Any) -> dict[str, type | None]:
    """Return the fields of a dataclass, each with the dataclass of its values if they have one."""
    hints = get_type_hints(kind)
    return {one.name: _dataclass_in(hints[one.name]) for one in fields(kind)}


def _dataclass_in(hint: Any) -> type | None:
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    return next(filter(None, map(_dataclass_in, get_args(hint))), None)


def _value(message: Message, name: str, result: type | None) -> Any:
    value = getattr(message, name)
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name["value"]
        return {key: _single(entry, one, result) for key, one in value.items()}
    if field.is_repeated:
        return tuple(_single(field, one, result) for one in value)
    if field.has_presence and not message.HasField(name):
        return None
    return _single(field, value, result)


def _single(field: Any, value: Any, result: type | None) -> Any:
    if field.enum_type is not None:
        return _enum_name(field.enum_type, value)
    if field.message_type is None:
        return value
    if field.message_type.full_name == "google.protobuf.Timestamp":
        return value.ToDatetime(UTC)
    assert result is not None, field.full_name  # noqa: S101
    return convert(result, value)


def _enum_name(enum: EnumDescriptor, number: int) -> str:
    """Return for instance ``same`` for DECISION_SAME; ``unspecified`` for unknown numbers."""
    prefix = len(enum.values_by_number[0].name) - len("UNSPECIFIED")
    known = enum.values_by_number.get(number)
    return known.name[prefix:].lower() if known else "unspecified"
