"""Parsing of requests and validation of their texts by the rules in the contract."""

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
    """The rules of all text fields of a message and of its nested messages, in field order.

    A text field with presence (optional or in a oneof) is checked only when it is set.

    Args:
        descriptor: Descriptor of the message.
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
        """Whether there is any rule."""
        return bool(self._texts or self._text_lists or self._parts or self._part_lists)

    def check(self, message: Any, path: str = "") -> None:
        """Check a message.

        Args:
            message: A message of the type that the rules are for.
            path: Prefix of the field names in the error, e.g. ``feedback.``.

        Raises:
            InvalidInput: For the first text that breaks its rule.
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
    """Return the text rules of a message type."""
    return TextRules(descriptor)


def text_rule(field: FieldDescriptor) -> TextRule | None:
    """Read the text rule of a field from the contract; None if it has none."""
    options = field.GetOptions()
    if not options.HasExtension(pb.text):
        return None
    rule = options.Extensions[pb.text]
    return TextRule(_KINDS[rule.kind], rule.max_characters, rule.required)


def check_texts(request: Message) -> None:
    """Check all texts of a message of a request stream; `request_parser` checks unary requests.

    Raises:
        InvalidInput: For the first text that breaks its rule.
    """
    text_rules(request.DESCRIPTOR).check(request)


def request_parser(kind: type[_Request], *, checked: bool) -> Callable[[bytes], _Request]:
    """Make the parser of a request type.

    Args:
        kind: Type of the request.
        checked: Whether the parser checks the texts too.

    Returns:
        A function from the bytes to the request. It raises InvalidInput, which names the field
        where the field can be determined.
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
            return InvalidInput(field, "is not valid UTF-8")
    return InvalidInput("request", f"cannot be parsed as {kind.DESCRIPTOR.full_name}")


def _undecodable(descriptor: Descriptor, data: bytes, path: str = "") -> Iterator[str]:
    """Yield the paths of the texts that are not UTF-8, without the index within a list."""
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
