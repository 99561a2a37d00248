"""Which faces were found in a photograph, and which one was embedded, over real gRPC."""

from itertools import chain

import cv2
import grpc
import numpy as np
import pytest
from magface.v1 import embedder_pb2 as pb
from magface.v1 import image_pb2

from shared.model.image.face_reader import FaceReader
from shared.rpc.converters import detected_face_to_proto
from shared.settings import ImageLimits
from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.faces import crops, image, jpeg, png, vector
from tests.services.embedder.serving import running_embedder
from tests.shared.model.pictures import with_orientation
from tests.support.photographs import GROUP, photograph

PHOTO = jpeg(photograph(*GROUP))
CARD = jpeg(photograph((1, 1, 60, 60, 150), width=300, height=260))
WALL = jpeg(photograph())
DETECT = image_pb2.ALIGNMENT_DETECT
REFUSE = image_pb2.ON_SEVERAL_REFUSE


@pytest.fixture
async def client(embedder_settings, published):  # noqa: ARG001
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(VERSIONS[0])
        yield client


def _photo(data: bytes = PHOTO, **wanted) -> image_pb2.Image:
    return image_pb2.Image(data=data, alignment=DETECT, **wanted)


async def _detect(client, data: bytes = PHOTO, **other) -> pb.DetectFacesResponse:
    request = pb.DetectFacesRequest(image=image_pb2.Image(data=data, **other))
    return await client.stub.DetectFaces(request, timeout=20)


async def _error(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), refused.value.details()


def _centre(box: image_pb2.Box) -> tuple[float, float]:
    return box.x + box.width / 2, box.y + box.height / 2


def _at(faces, place) -> image_pb2.DetectedFace:
    """The face whose centre is in the crop of a person."""
    _, _, left, top, side = place
    (found,) = [
        face
        for face in faces
        if left < _centre(face.box)[0] < left + side and top < _centre(face.box)[1] < top + side
    ]
    return found


async def test_all_faces_are_listed_with_the_most_prominent_first(client):
    answer = await _detect(client)
    assert (answer.width, answer.height) == (640, 420)
    assert len(answer.faces) == len(GROUP)
    assert answer.faces[0] == _at(answer.faces, GROUP[0])
    for face, place in ((_at(answer.faces, place), place) for place in GROUP):
        assert 0.4 * place[4] < face.box.width < place[4]
        assert 0.6 <= face.confidence <= 1
        assert len(face.landmarks) == 5
        for point in face.landmarks:
            assert face.box.x < point.x < face.box.x + face.box.width
            assert face.box.y < point.y < face.box.y + face.box.height
    wanted = FaceReader(ImageLimits()).detect(PHOTO).faces
    assert list(answer.faces) == list(map(detected_face_to_proto, wanted))
    assert await _detect(client, alignment=DETECT) == answer


async def test_boxes_are_given_after_exif_rotation(client):
    # Orientation 6: the stored pixels are turned by 90 degrees to the right to be shown.
    stored = cv2.rotate(photograph(*GROUP), cv2.ROTATE_90_COUNTERCLOCKWISE)
    answer = await _detect(client, with_orientation(stored, 6))
    assert (answer.width, answer.height) == (640, 420)
    for place in GROUP:
        _at(answer.faces, place)


async def test_a_picture_without_a_face_gives_an_empty_list(client):
    answer = await _detect(client, WALL)
    assert (answer.width, answer.height, len(answer.faces)) == (640, 420, 0)
    code, details = await _error(client.embed(_photo(WALL)))
    assert (code, "no face" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"alignment": image_pb2.ALIGNMENT_ALIGNED}, "image.alignment"),
        ({"alignment": image_pb2.ALIGNMENT_LANDMARKS}, "image.alignment"),
        ({"landmarks": [image_pb2.Point(x=1, y=1)] * 5}, "image.landmarks"),
        ({"box": image_pb2.Box(width=1, height=1)}, "image.box"),
        ({"on_several": REFUSE}, "image.on_several"),
        ({"data": PHOTO[:500]}, "image.data"),
        ({"data": b""}, "image.data"),
    ],
)
async def test_what_a_listing_cannot_use_is_refused_by_name(client, other, field):
    code, details = await _error(_detect(client, **other))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(f"{field}: ")


async def test_a_listing_needs_no_model(embedder_settings):
    async with running_embedder(embedder_settings) as client:
        assert len((await _detect(client)).faces) == 3


async def test_the_answer_tells_what_was_found_and_what_was_embedded(client):
    faces = (await _detect(client)).faces
    for _ in range(2):  # computed, and from the cache
        answer = await client.embed(_photo(), image(crops(1)[0]), _photo(CARD))
        group, crop, card = answer.faces
        assert (group.faces_found, group.detected_face) == (3, faces[0])
        assert (crop.faces_found, crop.HasField("detected_face")) == (0, False)
        assert (card.faces_found, card.HasField("detected_face")) == (1, True)
    given = image_pb2.Image(data=PHOTO, landmarks=faces[0].landmarks)
    (by_landmarks,) = (await client.embed(given)).faces
    assert (by_landmarks.faces_found, by_landmarks.HasField("detected_face")) == (0, False)
    np.testing.assert_allclose(vector(by_landmarks), vector(group), atol=1e-4)


async def test_a_box_chooses_the_face_in_each_method(client):
    faces = (await _detect(client)).faces
    small = _at(faces, GROUP[1])
    (wanted,) = (await client.embed(image_pb2.Image(data=PHOTO, landmarks=small.landmarks))).faces
    # A box drawn by hand, the exact one, and one with on_several, which it overrides.
    drawn = image_pb2.Box(
        x=small.box.x - 9, y=small.box.y + 4, width=small.box.width + 20, height=small.box.height
    )
    chosen = [_photo(box=drawn), _photo(box=small.box), _photo(box=small.box, on_several=REFUSE)]
    embedded = list((await client.embed(*chosen)).faces)
    requests = [pb.EmbedStreamRequest(id=str(n), image=one) for n, one in enumerate(chosen)]
    embedded += [part.face async for part in client.stub.EmbedStream(iter(requests))]
    for one in chosen:
        verdict = await client.verify(pb.VerifySide(image=one), pb.VerifySide(image=_photo(CARD)))
        embedded.append(verdict.face_a)
        assert verdict.face_b.faces_found == 1
    assert len(embedded) == 9
    for face in embedded:
        assert (face.faces_found, face.detected_face) == (3, small)
        np.testing.assert_allclose(vector(face), vector(wanted), atol=1e-4)


async def test_several_faces_are_refused_on_request_and_named_on_their_side(client):
    await client.embed(_photo())  # the cached answer must not be given to a call that refuses
    several = _photo(on_several=REFUSE)
    one = _photo(CARD, on_several=REFUSE)
    refusals = {
        "images[1].data": client.embed(one, several),
        "b.image.data": client.verify(pb.VerifySide(image=one), pb.VerifySide(image=several)),
    }
    for field, call in refusals.items():
        code, details = await _error(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert details.startswith(f"{field}: shows 3 faces; send a box")
        assert "DetectFaces" in details
    requests = [
        pb.EmbedStreamRequest(id="several", image=several),
        pb.EmbedStreamRequest(id="one", image=one),
    ]
    answers = {part.id: part async for part in client.stub.EmbedStream(iter(requests))}
    assert answers["several"].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "shows 3 faces" in answers["several"].error.message
    assert answers["one"].face.faces_found == 1


BOX = {"x": 1.0, "y": 1.0, "width": 5.0, "height": 5.0}
BAD_BOXES = chain(
    ((name, value) for name in BOX for value in (np.nan, np.inf, -np.inf)),
    ((name, value) for name in ("width", "height") for value in (0.0, -3.0)),
)


async def test_a_box_or_choice_that_cannot_be_used_is_refused_by_name(client):
    landmarks = [image_pb2.Point(x=1 + n, y=1) for n in range(5)]
    box = image_pb2.Box(**BOX)
    small = png(crops(1)[0])
    bad = {f"box.{name} {value}": _photo(box={**BOX, name: value}) for name, value in BAD_BOXES}
    bad |= {
        "box of nothing": _photo(box=image_pb2.Box(x=600, y=10, width=30, height=30)),
        "box outside": _photo(box=image_pb2.Box(x=-900, y=0, width=30, height=30)),
        "on_several unknown": _photo(on_several=9),
    }
    others = (
        image_pb2.Image(data=small),
        image_pb2.Image(data=small, alignment=image_pb2.ALIGNMENT_ALIGNED),
        image_pb2.Image(data=small, landmarks=landmarks),
        image_pb2.Image(data=small, landmarks=landmarks, alignment=image_pb2.ALIGNMENT_LANDMARKS),
    )
    for number, other in enumerate(others):
        for name, setting in (("box", {"box": box}), ("on_several", {"on_several": REFUSE})):
            wrong = image_pb2.Image(**setting)
            wrong.MergeFrom(other)
            bad[f"{name} of alignment {number}"] = wrong
    for name, wrong in bad.items():
        code, details = await _error(client.embed(wrong))
        assert code is grpc.StatusCode.INVALID_ARGUMENT, name
        assert details.startswith(f"images[0].{name.split()[0]}: "), (name, details)


async def test_each_side_of_a_comparison_chooses_for_itself(client):
    faces = (await _detect(client)).faces
    other = image_pb2.Box(x=0, y=0, width=140, height=140)
    left, right = (
        pb.VerifySide(image=_photo(box=box)) for box in (other, _at(faces, GROUP[2]).box)
    )
    verdict = await client.verify(left, right)
    assert verdict.face_a.detected_face == _at(faces, GROUP[1])
    assert verdict.face_b.detected_face == _at(faces, GROUP[2])
    same = await client.verify(left, pb.VerifySide(image=_photo(box=other)))
    assert same.similarity == pytest.approx(1, abs=1e-5)
