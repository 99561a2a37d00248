"""No text of a service can change the operator's terminal, whichever command shows it."""

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from magface.v1 import trainer_pb2

from cli.main import app
from shared.rpc.retries import services
from tests.cli.conftest import Magface

_EVIL = "\x1b[2J\x1b]0;owned\x07ann\u202ea\x9b31m\r"
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_HASH, _JOB = "ab" * 32, "8c0d2a4e-0000-4000-8000-000000000001"

# Values without which a command ends early or cannot read the answer.
_FIXED = {
    "next_page_token": "",
    "state": trainer_pb2.JOB_STATE_SUCCEEDED,
    # Of an entry of the audit log.
    "detail": json.dumps(dict.fromkeys(("images", "labels", "subjects", "why"), _EVIL)),
}

# Commands that show what a service answers, with the arguments they need.
_COMMANDS: dict[str, Sequence[str]] = {
    "doctor": [],
    "embed": ["PICTURE"],
    "verify": ["PICTURE", "PICTURE"],
    "faces": ["PICTURE"],
    "train": ["--wait"],
    "feedback submit": ["PICTURE", "PICTURE", "--label", "same", "--annotator", "a"],
    "feedback stats": [],
    "feedback list": [],
    "feedback suspects": [],
    "feedback get-image": [_HASH, "--out", "OUT"],
    "feedback import-images": ["FOLDER"],
    "feedback next": ["--annotator", "a"],
    "feedback annotators": [],
    "feedback erase-image": [_HASH, "--by", "me"],
    "feedback erase-subject": ["anna", "--by", "me"],
    "feedback allow-image": [_HASH, "--by", "me"],
    "feedback held-erasures": [],
    "feedback approve-erasure": ["retention", "--images", "5", "--by", "me"],
    "feedback audit": [],
    "jobs list": [],
    "jobs show": [_JOB],
    "jobs watch": [_JOB],
    "jobs left-out": [_JOB],
    "jobs cancel": [_JOB],
    "models list": [],
    "models promote": ["some", "--reason", "why"],
    "models rollback": ["--reason", "why"],
    "models history": [],
    "models shadow": ["some"],
    "models rollout": [],
    "models operating-point": [],
    "models curve": [_EVIL],
    "models evaluate": [],
    "models evaluations": [],
    "models report": [_JOB, "--out", "OUT"],
    "models judge": ["some"],
    "models quantize": [],
}
# They show no text of a service, or need files that other tests make.
_OTHERS = {
    *("up", "serve", "evaluate", "demo", "dataset pairs", "dataset splits", "dataset render"),
    *("feedback import", "feedback export", "models import", "token keys", "token issue"),
}


def _commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        else:
            yield " ".join((*path, name))


def _fill(message: Message, depth: int = 6) -> Message:
    """Set every field, each text to one that would change a terminal."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].type == FieldDescriptor.TYPE_DOUBLE:
                getattr(message, field.name).update({"accuracy": 1.0, _EVIL: 1.0})
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth:
                target = getattr(message, field.name)
                _fill(target.add() if field.is_repeated else target, depth - 1)
                if not field.is_repeated:
                    target.SetInParent()
            continue
        value = _value(field)
        if field.is_repeated:
            getattr(message, field.name).append(value)
        elif field.containing_oneof is None or message.WhichOneof(field.containing_oneof.name) in (
            None,
            field.name,
        ):
            setattr(message, field.name, value)
    return message


def _value(field: FieldDescriptor) -> Any:
    if field.name in _FIXED:
        return _FIXED[field.name]
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return b"\0\0\0\0" if field.type == FieldDescriptor.TYPE_BYTES else _EVIL
        case FieldDescriptor.CPPTYPE_ENUM:
            return field.enum_type.values[-1].number
        case FieldDescriptor.CPPTYPE_BOOL:
            return True
        case _:
            return 1


def _handler(method: MethodDescriptor) -> grpc.RpcMethodHandler:
    response = _fill(GetMessageClass(method.output_type)()).SerializeToString()
    if method.server_streaming and method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(lambda sent, _: (response for _ in sent))
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(lambda *_: iter([response]))
    if method.client_streaming:
        return grpc.stream_unary_rpc_method_handler(lambda sent, _: (list(sent), response)[1])
    return grpc.unary_unary_rpc_method_handler(lambda *_: response)


@pytest.fixture(scope="module")
def evil_address() -> Iterator[str]:
    """Address of a server whose every answer is full of control sequences."""
    server = grpc.server(ThreadPoolExecutor(4))
    for service in services():
        handlers = {method.name: _handler(method) for method in service.methods}
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service.full_name, handlers)]
        )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0)


@pytest.fixture
def evil(magface: Magface, monkeypatch: pytest.MonkeyPatch, evil_address: str) -> Magface:
    """Runs a command whose services are all at `evil_address`."""
    for service in ("EMBEDDER", "FEEDBACK", "TRAINER"):
        monkeypatch.setenv(f"MAGFACE_{service}_ADDRESS", evil_address)
    return magface


@pytest.mark.parametrize("command", _COMMANDS)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_control_characters_of_names_do_not_reach_the_terminal(
    evil: Magface, pictures: list[Path], tmp_path: Path, command: str, as_json: bool
) -> None:
    places = {"PICTURE": str(pictures[0]), "OUT": str(tmp_path / "out")}
    places["FOLDER"] = str(pictures[0].parent)
    arguments = [places.get(each, each) for each in _COMMANDS[command]]
    result = evil(*command.split(), *arguments, *(["--json"] if as_json else []))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    shown = result.stdout + result.stderr
    assert shown
    assert _CONTROL.search(shown) is None, repr(shown)


def test_every_command_is_looked_at() -> None:
    assert {*_commands(typer.main.get_command(app))} == {*_COMMANDS} | _OTHERS


def test_the_errors_of_a_command_are_shown_without_control_characters(
    magface: Magface, tmp_path: Path
) -> None:
    result = magface("jobs", "list", "--dir", tmp_path / "a\x1b[2Jb")
    assert result.exit_code == 1
    assert "\ufffd[2J" in result.stderr
    assert "\x1b" not in result.stderr
