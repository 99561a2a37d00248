import math
import typing

import pytest
from magface.v1 import feedback_pb2, image_pb2

from shared.errors import InvalidInput
from shared.model.image.face import Alignment, Box, DetectedFace, FaceImage, OnSeveral
from shared.rpc.converters import (
    detected_face_to_proto,
    face_from_proto,
    face_or_hash_from_proto,
    face_to_proto,
)

LANDMARKS = ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0), (9.0, 10.0))
BOX = Box(-1.5, 2.0, 30.0, 40.5)


@pytest.mark.parametrize("alignment", typing.get_args(Alignment))
def test_a_face_survives_the_way_there_and_back(alignment: Alignment) -> None:
    for on_several in typing.get_args(OnSeveral):
        for box in (None, BOX):
            face = FaceImage(b"\xff\xd8", alignment, LANDMARKS, on_several, box)
            assert face_from_proto(face_to_proto(face), "images[0]") == face


def test_every_alignment_of_the_contract_has_a_meaning() -> None:
    for number in image_pb2.Alignment.values():
        face_from_proto(image_pb2.Image(alignment=number), "images[0]")


def test_every_choice_of_the_contract_has_a_meaning() -> None:
    meanings = {
        name: face_from_proto(image_pb2.Image(on_several=number), "images[0]").on_several
        for name, number in image_pb2.OnSeveral.items()
    }
    assert meanings == {
        "ON_SEVERAL_UNSPECIFIED": "largest",
        "ON_SEVERAL_LARGEST": "largest",
        "ON_SEVERAL_REFUSE": "refuse",
    }


@pytest.mark.parametrize("field", ["alignment", "on_several", "on_no_face"])
def test_a_value_the_contract_does_not_have_is_refused_by_name(field: str) -> None:
    image = image_pb2.Image(**{field: 99})
    with pytest.raises(InvalidInput) as caught:
        face_from_proto(image, "a.image")
    assert caught.value.field == f"a.image.{field}"
    assert "99" in caught.value.reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.5])
@pytest.mark.parametrize("name", ["x", "y", "width", "height"])
def test_a_box_is_finite_and_has_a_size(name: str, value: float) -> None:
    image = image_pb2.Image(box=image_pb2.Box(x=-2, y=-2, width=3, height=3))
    setattr(image.box, name, value)
    if math.isfinite(value) and name in ("x", "y"):
        assert face_from_proto(image, "image").box is not None
        return
    with pytest.raises(InvalidInput) as caught:
        face_from_proto(image, "b.image")
    assert caught.value.field == f"b.image.box.{name}"


def test_an_empty_box_is_not_the_same_as_none() -> None:
    with pytest.raises(InvalidInput, match=r"box\.width"):
        face_from_proto(image_pb2.Image(box=image_pb2.Box()), "image")


def test_a_detected_face_is_packed_with_all_that_is_known_of_it() -> None:
    packed = detected_face_to_proto(DetectedFace(BOX, LANDMARKS, 0.75))
    assert (packed.box.x, packed.box.y, packed.box.width, packed.box.height) == (-1.5, 2, 30, 40.5)
    assert tuple((point.x, point.y) for point in packed.landmarks) == LANDMARKS
    assert packed.confidence == 0.75


def test_a_reference_is_a_face_or_a_hash() -> None:
    sent = feedback_pb2.ImageRef(image=face_to_proto(FaceImage(b"x")))
    assert face_or_hash_from_proto(sent, "image_a") == FaceImage(b"x")
    stored = feedback_pb2.ImageRef(sha256="ab" * 32)
    assert face_or_hash_from_proto(stored, "image_a") == "ab" * 32


def test_an_empty_reference_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput) as caught:
        face_or_hash_from_proto(feedback_pb2.ImageRef(), "image_b")
    assert caught.value.field == "image_b"
