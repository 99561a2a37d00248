"""Reads requests: parses them and checks their texts by the rules that the contract gives."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from magface.v1 import validation_pb2 as pb

from shared.errors import InvalidInput
from shared.validation import TextKind, TextRule

_Request = TypeVar("_Request", bound=Message)

_KINDS: Final = {
    pb.TEXT_KIND_NAME: TextKind.NAME,
    pb.TEXT_KIND_PROSE: TextKind.PROSE,
    pb.TEXT_KIND_SHA256: TextKind.SHA256,
}
_LENGTH_DELIMITED: Final = 2


class TextRules:
    """The rules of all texts of a message and of the messages in it, in the order of its fields.

    A text that is in a oneof or optional is checked when it is set.

    Args:
        descriptor: Of the message.
    """

    def __init__(self, descriptor: Descriptor) -> None:
        self._texts: list[tuple[str, TextRule, bool]] = []
        self._text_lists: list[tuple[str, TextRule]] = []
        self._parts: list[tuple[str, TextRules]] = []
        self._part_lists: list[tuple[str, TextRules]] = []
        for field in descriptor.fields:
            if field.message_type is not None:
                self._add_message(field)
            elif (rule := text_rule(field)) is not None:
                self._add_text(field, rule)

    def __bool__(self) -> bool:
        """Whether there is anything to check."""
        return bool(self._texts or self._text_lists or self._parts or self._part_lists)

    def check(self, message: Any, path: str = "") -> None:
        """Check a message.

        Args:
            message: Of the type of the descriptor.
            path: What stands before its fields' names, e.g. ``feedback.``.

        Raises:
            InvalidInput: Names the first text that breaks its rule.
        """
        for name, rule, when_set in self._texts:
            text = getattr(message, name)
            if text or (rule.required and (not when_set or message.HasField(name))):
                rule.check(path + name, text)
        for name, rules in self._parts:
            if message.HasField(name):
                rules.check(getattr(message, name), f"{path}{name}.")
        for name, rule in self._text_lists:
            for index, text in enumerate(getattr(message, name)):
                rule.check(f"{path}{name}[{index}]", text)
        for name, rules in self._part_lists:
            for index, part in enumerate(getattr(message, name)):
                rules.check(part, f"{path}{name}[{index}].")

    def _add_text(self, field: FieldDescriptor, rule: TextRule) -> None:
        if field.is_repeated:
            self._text_lists.append((field.name, rule))
        else:
            self._texts.append((field.name, rule, field.has_presence))

    def _add_message(self, field: FieldDescriptor) -> None:
        rules = text_rules(field.message_type)
        if rules:
            (self._part_lists if field.is_repeated else self._parts).append((field.name, rules))


@cache
def text_rules(descriptor: Descriptor) -> TextRules:
    """Give the rules of a message's texts."""
    return TextRules(descriptor)


def text_rule(field: FieldDescriptor) -> TextRule | None:
    """Read the rule that the contract gives a field; None if it gives none."""
    options = field.GetOptions()
    if not options.HasExtension(pb.text):
        return None
    rule = options.Extensions[pb.text]
    return TextRule(_KINDS[rule.kind], rule.max_characters, rule.required)


def check_texts(request: Message) -> None:
    """Check all texts of a request; for a message of a stream, whose fault does not end it.

    Raises:
        InvalidInput: Names the first text that breaks its rule.
    """
    text_rules(request.DESCRIPTOR).check(request)


def request_parser(kind: type[_Request], *, checked: bool) -> Callable[[bytes], _Request]:
    """Make a parser of requests of a type.

    Args:
        kind: What it gives.
        checked: Whether it checks the texts of what it has parsed.

    Returns:
        A function of the bytes. It raises InvalidInput, which names the field where that can
        be told.
    """
    parse, rules = kind.FromString, text_rules(kind.DESCRIPTOR)
    check = rules.check if checked and rules else None

    def read(data: bytes) -> _Request:
        try:
            request = parse(data)
        except DecodeError as error:
            raise _unreadable(kind, data) from error
        if check is not None:
            check(request)
        return request

    return read


def _unreadable(kind: Any, data: bytes) -> InvalidInput:
    with suppress(DecodeError):
        if field := next(_undecodable(kind.DESCRIPTOR, data), None):
            return InvalidInput(field, "is not UTF-8; Unicode characters are needed")
    return InvalidInput("request", f"is not a {kind.DESCRIPTOR.full_name}")


def _undecodable(descriptor: Descriptor, data: bytes, path: str = "") -> Iterator[str]:
    """Give the paths of the texts that are not UTF-8; no index tells which one of a list."""
    parts: Iterable[Any] = UnknownFieldSet(Empty.FromString(data))  # type: ignore[assignment]
    for part in parts:
        field = descriptor.fields_by_number.get(part.field_number)
        if field is None or part.wire_type != _LENGTH_DELIMITED:
            continue
        if field.message_type is not None:
            yield from _undecodable(field.message_type, part.data, f"{path}{field.name}.")
        elif field.type == FieldDescriptor.TYPE_STRING and not _is_utf8(part.data):
            yield path + field.name


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
