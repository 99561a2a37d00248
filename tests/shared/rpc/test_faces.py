import typing

import pytest
from magface.v1 import feedback_pb2, image_pb2

from shared.errors import InvalidInput
from shared.model.image.face import Alignment, FaceImage
from shared.rpc.converters import face_from_proto, face_or_hash_from_proto, face_to_proto

LANDMARKS = ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0), (9.0, 10.0))


@pytest.mark.parametrize("alignment", typing.get_args(Alignment))
def test_a_face_survives_the_way_there_and_back(alignment: Alignment) -> None:
    face = FaceImage(b"\xff\xd8", alignment, LANDMARKS)
    assert face_from_proto(face_to_proto(face), "images[0]") == face


def test_every_alignment_of_the_contract_has_a_meaning() -> None:
    for number in image_pb2.Alignment.values():
        face_from_proto(image_pb2.Image(alignment=number), "images[0]")


def test_an_alignment_the_contract_does_not_have_is_refused_by_name() -> None:
    image = image_pb2.Image()
    image.ParseFromString(b"\x10\x63")
    with pytest.raises(InvalidInput) as caught:
        face_from_proto(image, "a.image")
    assert caught.value.field == "a.image.alignment"
    assert "99" in caught.value.reason


def test_a_reference_is_a_face_or_a_hash() -> None:
    sent = feedback_pb2.ImageRef(image=face_to_proto(FaceImage(b"x")))
    assert face_or_hash_from_proto(sent, "image_a") == FaceImage(b"x")
    stored = feedback_pb2.ImageRef(sha256="ab" * 32)
    assert face_or_hash_from_proto(stored, "image_a") == "ab" * 32


def test_an_empty_reference_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput) as caught:
        face_or_hash_from_proto(feedback_pb2.ImageRef(), "image_b")
    assert caught.value.field == "image_b"
