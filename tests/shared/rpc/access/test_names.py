"""Where a request names its caller, the name is that of the token."""

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from magface.v1 import feedback_pb2, trainer_pb2
from magface.v1.access_pb2 import ROLE_ANNOTATOR, ROLE_LABELLER, ROLE_OPERATOR
from magface.v1.validation_pb2 import NAMING_ANNOTATOR, NAMING_CALLER, NAMING_UNSPECIFIED, text

from shared.errors import InvalidInput, PermissionDenied
from shared.rpc.access.caller import Caller, set_caller
from shared.rpc.retries import services
from shared.rpc.server.requests import check_texts
from tests.support.texts import text_fields

METHODS = [method for service in services() for method in service.methods]
ANNA = Caller("anna", frozenset({ROLE_ANNOTATOR, ROLE_OPERATOR}))
TOOL = Caller("tool", frozenset({ROLE_LABELLER, ROLE_OPERATOR}))


@pytest.fixture(autouse=True)
def _nobody() -> Iterator[None]:
    set_caller(None)
    yield
    set_caller(None)


def _naming(field: FieldDescriptor) -> int:
    return int(field.GetOptions().Extensions[text].naming)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_name_of_a_caller_is_marked(method: MethodDescriptor) -> None:
    marks = {"requested_by": NAMING_CALLER, "annotator": NAMING_ANNOTATOR}
    for _, field in text_fields(method.input_type):
        assert _naming(field) == marks.get(field.name, NAMING_UNSPECIFIED), field.full_name


def test_a_caller_need_not_name_themselves_and_may_not_name_another() -> None:
    checked = 0
    for kind in {method.input_type for method in METHODS}:
        for field in kind.fields:
            if field.type != field.TYPE_STRING or _naming(field) == NAMING_UNSPECIFIED:
                continue
            others = {
                one.name: "a" * 64 if "sha256" in one.name else "x"
                for one in kind.fields
                if one.type == one.TYPE_STRING and not one.is_repeated
            }
            request = GetMessageClass(kind)(**{**others, field.name: "bob"})
            check_texts(request)
            assert getattr(request, field.name) == "bob"
            set_caller(ANNA)
            with pytest.raises(PermissionDenied, match=f"^{field.name}: the token is for 'anna'"):
                check_texts(request)
            for own in ("", " ", "anna", " anna "):
                setattr(request, field.name, own)
                check_texts(request)
                assert getattr(request, field.name) == "anna"
            set_caller(TOOL)
            setattr(request, field.name, "bob")
            if _naming(field) == NAMING_ANNOTATOR:
                check_texts(request)
                assert getattr(request, field.name) == "bob"
            else:
                with pytest.raises(PermissionDenied):
                    check_texts(request)
            set_caller(None)
            checked += 1
    assert checked >= 12


def test_names_within_a_message_of_a_stream_are_held_to_the_token() -> None:
    set_caller(ANNA)
    label = feedback_pb2.SubmitFeedbackRequest(annotator="bob", idempotency_key="k")
    with pytest.raises(PermissionDenied, match=r"^feedback\.annotator"):
        check_texts(feedback_pb2.SubmitFeedbackStreamRequest(feedback=label))
    options = trainer_pb2.ImportOptions(requested_by="bob", file_name="x")
    with pytest.raises(PermissionDenied, match=r"^options\.requested_by"):
        check_texts(trainer_pb2.ImportModelRequest(options=options))


def test_another_name_is_checked_as_ever() -> None:
    set_caller(TOOL)
    label = feedback_pb2.SubmitFeedbackRequest(annotator="b\u200bob", idempotency_key="k")
    with pytest.raises(InvalidInput, match=r"^annotator"):
        check_texts(label)


def test_keys_of_callers_differ() -> None:
    assert ANNA.own_key("k") == ANNA.own_key("k")
    assert ANNA.own_key("") == ""
    for length in (1, 94, 95, 96, 128):
        one, other = "k" * length, "k" * (length - 1) + "l"
        keys = {ANNA.own_key(one), TOOL.own_key(one), ANNA.own_key(other)}
        assert len(keys) == 3
        assert all(len(key) <= 128 for key in keys)
    assert ANNA.own_key("my key").endswith(":my key")
