"""Each text field of each request has a rule in the contract, which is checked on parsing."""

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass
from magface.v1 import embedder_pb2, feedback_pb2, trainer_pb2, validation_pb2

from shared.errors import InvalidInput
from shared.rpc.server.requests import check_texts, request_parser, text_rule
from shared.validation import TextKind
from tests.support.texts import SPELLINGS, bad_texts, text_fields

SERVICES = [
    service
    for module in (embedder_pb2, feedback_pb2, trainer_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
METHODS = [method for service in SERVICES for method in service.methods]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_text_of_a_request_has_a_rule(method: MethodDescriptor) -> None:
    for _, field in text_fields(method.input_type):
        rule = text_rule(field)
        assert rule is not None, f"{field.full_name} has no [(text) = …], see validation.proto"
        assert rule.max_characters, f"{field.full_name} has no max_characters"


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_every_bad_text_is_named(service: Any) -> None:
    found, wanted = {}, {}
    for bad in bad_texts(service):
        read = request_parser(GetMessageClass(bad.method.input_type), checked=True)
        with pytest.raises(InvalidInput) as refused:
            read(bad.data)
        found[str(bad)], wanted[str(bad)] = refused.value.field, bad.field
    assert found == wanted


def test_what_is_no_message_is_refused() -> None:
    read = request_parser(trainer_pb2.PromoteModelRequest, checked=False)
    for data in (b"\x0a\x05abc", b"\xff", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"):
        with pytest.raises(InvalidInput, match=r"^request: cannot be parsed as magface\.v1\.Prom"):
            read(data)


def test_a_text_that_is_not_chosen_or_not_sent_is_not_missed() -> None:
    check_texts(embedder_pb2.VerifyRequest())
    side = embedder_pb2.VerifySide(stored=embedder_pb2.StoredEmbedding(model_version="v1"))
    check_texts(embedder_pb2.VerifyRequest(a=side, b=embedder_pb2.VerifySide()))
    check_texts(feedback_pb2.ImageRef())
    with pytest.raises(InvalidInput, match=r"^sha256: is empty"):
        check_texts(feedback_pb2.ImageRef(sha256=""))


def _made_up() -> Any:
    """A message with lists, which no request has now."""
    file = FileDescriptorProto(
        name="magface/test/lists.proto",
        package="magface.test",
        syntax="proto3",
        dependency=["magface/v1/validation.proto"],
    )
    rule = validation_pb2.TextRule(kind=validation_pb2.TEXT_KIND_NAME, max_characters=5)
    inner = file.message_type.add(name="Inner")
    name = inner.field.add(name="name", number=1, label=1, type=FieldDescriptor.TYPE_STRING)
    outer = file.message_type.add(name="Outer")
    names = outer.field.add(name="names", number=1, label=3, type=FieldDescriptor.TYPE_STRING)
    outer.field.add(
        name="inners",
        number=2,
        label=FieldDescriptorProto.LABEL_REPEATED,
        type=FieldDescriptor.TYPE_MESSAGE,
        type_name=".magface.test.Inner",
    )
    for field in (name, names):
        field.options.Extensions[validation_pb2.text].CopyFrom(rule)
    Default().AddSerializedFile(file.SerializeToString())
    return GetMessageClass(Default().FindMessageTypeByName("magface.test.Outer"))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_are_normalised_in_the_message_wherever_they_are(spelling: str) -> None:
    label = feedback_pb2.SubmitFeedbackRequest(
        image_a=feedback_pb2.ImageRef(sha256="0" * 64, identity=spelling),
        annotator=spelling,
        idempotency_key=" e\u0301",
    )
    part = feedback_pb2.SubmitFeedbackStreamRequest(feedback=label)
    check_texts(part)
    read = request_parser(feedback_pb2.SubmitFeedbackRequest, checked=True)
    for read_label in (part.feedback, read(label.SerializeToString())):
        assert read_label.annotator == read_label.image_a.identity == "Zo\u00eb Roe"
        assert read_label.idempotency_key == " e\u0301"


def test_every_field_with_the_name_of_a_person_is_normalised() -> None:
    names = {"annotator", "identity", "requested_by", "subject"}
    for method in METHODS:
        for path, field in text_fields(method.input_type):
            rule = text_rule(field)
            is_person = rule is not None and rule.kind is TextKind.PERSON
            assert is_person == (field.name in names), path


def test_a_text_in_a_list_is_named_by_its_place() -> None:
    outer = _made_up()
    check_texts(outer(names=["a", "b"], inners=[{"name": "c"}, {}]))
    with pytest.raises(InvalidInput, match=r"^names\[1\]: has 6 characters"):
        check_texts(outer(names=["a", "bbbbbb"]))
    with pytest.raises(InvalidInput, match=r"^inners\[2\]\.name: is blank"):
        check_texts(outer(inners=[{}, {"name": "c"}, {"name": " "}]))
