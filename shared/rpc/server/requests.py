"""Parsing of requests, and validation of their texts by the rules in the contract."""

from functools import cache
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from magface.v1 import validation_pb2 as pb

from shared.errors import InvalidInput
from shared.rpc.access.caller import current_caller
from shared.rpc.server.wire import WireField, wire_fields
from shared.validation import TextKind, TextRule

_Request = TypeVar("_Request", bound=Message)
_Parsed_co = TypeVar("_Parsed_co", covariant=True)


class Parse(Protocol[_Parsed_co]):
    """Parses a message; the index is its place in a stream, from 0."""

    def __call__(self, data: bytes, index: int | None = None, /) -> _Parsed_co: ...


_KINDS: Final = {
    pb.TEXT_KIND_NAME: TextKind.NAME,
    pb.TEXT_KIND_PROSE: TextKind.PROSE,
    pb.TEXT_KIND_SHA256: TextKind.SHA256,
    pb.TEXT_KIND_PERSON: TextKind.PERSON,
}
# A parsed field can take a hundred bytes for two on the wire, so that a message of many fields
# takes far more memory than its size. A valid request has some hundred fields at most.
_MOST_FIELDS: Final = 20_000
_ALWAYS_SMALL_BYTES: Final = 2**16


class TextRules:
    """The rules of all text fields of a message and of its nested messages, in field order.

    A text field with presence (optional or in a oneof) is checked only when it is set.

    Args:
        descriptor: Descriptor of the message.
    """

    def __init__(self, descriptor: Descriptor) -> None:
        self._texts: list[tuple[str, TextRule, bool]] = []
        self._namings: list[tuple[str, pb.Naming.ValueType]] = []
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
        """Check a message, and normalise the names of people in it.

        Where a field names the caller, and the caller has a token, it becomes the token's subject.

        Args:
            message: A message of the type that the rules are for.
            path: Prefix of the field names in the error, e.g. ``feedback.``.

        Raises:
            InvalidInput: For the first text that breaks its rule.
            PermissionDenied: If the caller names somebody else.
        """
        if self._namings and (caller := current_caller()) is not None:
            for name, naming in self._namings:
                named = caller.named(
                    path + name,
                    getattr(message, name),
                    or_others=naming == pb.NAMING_ANNOTATOR and caller.may_name_others,
                )
                setattr(message, name, named)
        for name, rule, when_set in self._texts:
            text = getattr(message, name)
            if text or (rule.required and (not when_set or message.HasField(name))):
                checked = rule.check(path + name, text)
                if checked != text:
                    setattr(message, name, checked)
        for name, rules in self._parts:
            if message.HasField(name):
                rules.check(getattr(message, name), f"{path}{name}.")
        for name, rule in self._text_lists:
            texts = getattr(message, name)
            for index, text in enumerate(texts):
                texts[index] = rule.check(f"{path}{name}[{index}]", text)
        for name, rules in self._part_lists:
            for index, part in enumerate(getattr(message, name)):
                rules.check(part, f"{path}{name}[{index}].")

    def _add_text(self, field: FieldDescriptor, rule: TextRule) -> None:
        if field.is_repeated:
            self._text_lists.append((field.name, rule))
        else:
            self._texts.append((field.name, rule, field.has_presence))
            if (naming := field.GetOptions().Extensions[pb.text].naming) != pb.NAMING_UNSPECIFIED:
                self._namings.append((field.name, naming))

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

    Names of people are normalised in the message itself, before anything reads them.

    Raises:
        InvalidInput: For the first text that breaks its rule.
        PermissionDenied: If the caller names somebody else.
    """
    text_rules(request.DESCRIPTOR).check(request)


def request_parser(kind: type[_Request], *, checked: bool) -> Parse[_Request]:
    """Make the parser of a request type.

    Args:
        kind: Type of the request.
        checked: Whether the parser checks the texts too.

    Returns:
        A function from the bytes to the request. It raises InvalidInput, which names the field
        where the field can be determined, and the place of the message in a stream.
    """
    parse, rules = kind.FromString, text_rules(kind.DESCRIPTOR)
    check = rules.check if checked and rules else None

    def read(data: bytes, index: int | None = None) -> _Request:
        if len(data) > _ALWAYS_SMALL_BYTES:
            _check_fields(kind, data, index)
        try:
            request = parse(data)
        except DecodeError as error:
            raise _unreadable(kind, data, index) from error
        if check is not None:
            check(request)
        return request

    return read


def _check_fields(kind: Any, data: bytes, index: int | None) -> None:
    fields = wire_fields(kind.DESCRIPTOR, memoryview(data))
    if next(islice(fields, _MOST_FIELDS, None), None) is not None:
        raise InvalidInput("request", f"has more than {_MOST_FIELDS} fields{_place(index)}")


def _unreadable(kind: Any, data: bytes, index: int | None) -> InvalidInput:
    for field in islice(wire_fields(kind.DESCRIPTOR, memoryview(data)), _MOST_FIELDS):
        if _is_text(field) and not _is_utf8(field.content):
            return InvalidInput(field.path, f"is not valid UTF-8{_place(index)}")
    name = kind.DESCRIPTOR.full_name
    return InvalidInput("request", f"cannot be parsed as {name}{_place(index)}")


def _place(index: int | None) -> str:
    return "" if index is None else f" (message {index} of the stream, from 0)"


def _is_text(field: WireField) -> bool:
    kind = field.descriptor.type if field.descriptor else None
    return kind == FieldDescriptor.TYPE_STRING


def _is_utf8(data: memoryview) -> bool:
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
