"""Requests with an invalid text in each of their text fields, made from the contract."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import BadRequest
from grpc_status.rpc_status import from_call

from shared.rpc.retries import method_path
from shared.rpc.server.requests import text_rule
from shared.validation import TextKind, TextRule

NOT_UTF8 = "not UTF-8"
# Spellings of "Zo\u00eb Roe" that are stored as it is, and names that only look like it.
SPELLINGS = (
    "Zoe\u0308 Roe",
    " Zo\u00eb Roe",
    "Zo\u00eb Roe\u3000",
    "Zo\u00eb\u00a0Roe",
    "Zo\u00eb   Roe",
    "\u2003Zoe\u0308 \u2009Roe ",
)
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u202e\u2066\u061c\u3164\ufe0f\U000e0041"
LOOKALIKES = tuple(f"Zo\u00eb{invisible} Roe" for invisible in _INVISIBLE)
# Valid as a job's id and as a name; nothing has this id.
_VALID_NAME = "00000000-0000-0000-0000-000000000000"
_PLACEHOLDER = "#place#"


@dataclass(frozen=True)
class BadText:
    """A request with one invalid text.

    Attributes:
        method: The method to call.
        field: Path of the field.
        what: What is wrong with the text.
        data: The serialized request; its other texts are valid.
    """

    method: MethodDescriptor
    field: str
    what: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.method.name}: {self.what} in {self.field}"


def text_fields(message: Descriptor, path: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    """Yield each string field of a message and of the messages in it, with its path."""
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield path + field.name, field
        elif field.message_type is not None:
            yield from text_fields(field.message_type, f"{path}{field.name}.")


def bad_texts(service: ServiceDescriptor) -> list[BadText]:
    """Make requests with an invalid text, for each text field of each method of a service."""
    return [
        BadText(method, path, what, data)
        for method in service.methods
        for path, field in text_fields(method.input_type)
        for what, data in _requests(method.input_type, path, field)
    ]


async def refusal(
    channel: grpc.aio.Channel, bad: BadText, timeout_s: float = 20
) -> tuple[grpc.StatusCode, str]:
    """Send the request; returns the status, and the field that the error names."""
    method = bad.method
    kind = (
        f"{'stream' if method.client_streaming else 'unary'}_"
        f"{'stream' if method.server_streaming else 'unary'}"
    )
    call = getattr(channel, kind)(method_path(method))
    request = iter([bad.data]) if method.client_streaming else bad.data
    try:
        if method.server_streaming:
            async for _ in call(request, timeout=timeout_s):
                pass
        else:
            await call(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        violations = BadRequest()
        for detail in getattr(from_call(error), "details", ()):
            detail.Unpack(violations)
        named = [violation.field for violation in violations.field_violations]
        return error.code(), named[0] if named else str(error.details())
    return grpc.StatusCode.OK, ""


def _requests(
    message: Descriptor, path: str, field: FieldDescriptor
) -> Iterator[tuple[str, bytes]]:
    rule = text_rule(field)
    assert rule is not None, f"{field.full_name} has no rule"
    for what, text in _invalid_texts(rule):
        yield what, _request(message, path, text).SerializeToString()
    data = _request(message, path, _PLACEHOLDER).SerializeToString()
    yield NOT_UTF8, data.replace(_PLACEHOLDER.encode(), b"\xff" * len(_PLACEHOLDER))


def _invalid_texts(rule: TextRule) -> Iterator[tuple[str, str]]:
    yield "a NUL", "a\0b"
    yield "a control character", "a\x1bb"
    yield "a blank", "  \t "
    yield "an over-long text", "a" * (rule.max_characters + 1)
    if rule.kind is not TextKind.PROSE:
        yield "two lines", "a\nb"
    if rule.kind is TextKind.PERSON:
        yield "an invisible character", "a\u200bb"
        yield "an over-long name in another form", "e\u0301" * (rule.max_characters + 1)
    if rule.required:
        yield "nothing", ""


def _request(message: Descriptor, path: str, text: str) -> Any:
    request = _valid_message(message)
    *parts, name = path.split(".")
    target = request
    for part in parts:
        target = getattr(target, part)
    setattr(target, name, text)
    return request


def _valid_message(message: Descriptor) -> Message:
    """Make a message with valid texts; the message must have no text in a oneof."""
    request = GetMessageClass(message)()
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            rule = text_rule(field)
            text = "0" * 64 if rule and rule.kind is TextKind.SHA256 else _VALID_NAME
            setattr(request, field.name, text)
        elif field.message_type is not None and any(text_fields(field.message_type)):
            getattr(request, field.name).CopyFrom(_valid_message(field.message_type))
    return request
