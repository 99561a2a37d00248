"""Tests of images with several faces: the box that chooses one stays with the image."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc, image_pb2

from services.feedback.settings import FeedbackSettings
from tests.services.feedback.support.helpers import (
    NOTHING,
    Stored,
    fresh_key,
    marked,
    picture,
    request,
    stub_on,
)
from tests.services.feedback.support.standin_embedder import StandInEmbedder, served
from tests.support.decoding import hide_detector
from tests.support.photographs import GROUP, encode_jpeg, photograph
from tests.support.waiting import until

Stub = feedback_pb2_grpc.FeedbackServiceStub


PHOTO, CARD, WALL = map(encode_jpeg, (photograph(*GROUP), photograph(GROUP[1]), photograph()))
# Numbers that a float32 cannot hold exactly.
BOX = image_pb2.Box(x=30.1, y=-20.7, width=100.3, height=130.9)
DETECT = image_pb2.ALIGNMENT_DETECT
REFUSE = image_pb2.ON_SEVERAL_REFUSE


def _photo(data: bytes = PHOTO, **wanted) -> pb.ImageRef:
    return pb.ImageRef(image=image_pb2.Image(data=data, alignment=DETECT, **wanted))


async def _error(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), refused.value.details()


async def test_a_box_comes_back_as_it_was_sent(stub: Stub) -> None:
    for on_several in (image_pb2.ON_SEVERAL_UNSPECIFIED, image_pb2.ON_SEVERAL_LARGEST, REFUSE):
        photo = _photo(box=BOX, on_several=on_several)
        answer = await stub.SubmitFeedback(request(image_a=photo, annotator=str(on_several)))
        back = (await stub.GetImage(pb.GetImageRequest(sha256=answer.sha256_a))).image
        assert back == _photo(box=BOX).image
        # The image as it came back is the stored one.
        again = request(image_a=pb.ImageRef(image=back), annotator=f"{on_several} again")
        assert (await stub.SubmitFeedback(again)).pair_id == answer.pair_id
    plain = await stub.SubmitFeedback(request(image_a=_photo(CARD)))
    back = (await stub.GetImage(pb.GetImageRequest(sha256=plain.sha256_a))).image
    assert not back.HasField("box")


async def test_a_repeated_label_with_a_box_is_stored_once(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    label = request(image_a=_photo(box=BOX), image_b=_photo(CARD))
    first, second = await stub.SubmitFeedback(label), await stub.SubmitFeedback(label)
    assert (first.created, second.created) == (True, False)
    assert first.label_id == second.label_id
    assert stored().images == 2


@pytest.mark.parametrize("first", ["box", "none"])
async def test_the_same_bytes_with_another_box_are_refused(
    stub: Stub, stored: Callable[[], Stored], first: str
) -> None:
    shifted = image_pb2.Box()
    shifted.CopyFrom(BOX)
    shifted.height += 0.25
    photos = {"box": _photo(box=BOX), "none": _photo(), "shifted": _photo(box=shifted)}
    await stub.SubmitFeedback(request(image_a=photos.pop(first)))
    before = stored()
    for photo in photos.values():
        code, details = await _error(stub.SubmitFeedback(request(image_b=photo)))
        assert code is grpc.StatusCode.ALREADY_EXISTS
        assert "image_b.image" in details
        assert "another box" in details

        async def images(photo=photo) -> AsyncIterator[pb.ImportImagesRequest]:
            yield pb.ImportImagesRequest(image=photo.image)

        answer = await stub.ImportImages(images())
        assert (answer.created, answer.known, answer.rejected) == (0, 0, 1)
        assert "another box" in answer.rejections[0].why
    assert stored() == before


async def test_several_faces_are_refused_at_the_door_on_request(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    wrong = {"shows 3 faces; send a box": PHOTO, "shows no face": WALL}
    for reason, data in wrong.items():
        photo = _photo(data, on_several=REFUSE)
        code, details = await _error(stub.SubmitFeedback(request(image_b=photo)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert details.startswith(f"image_b.image.data: {reason}")
        refused = (await _stream(stub, request(image_a=photo))).refused
        assert refused.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert refused.field == "image_a.image.data"
    assert stored() == NOTHING
    stored_label = await _stream(stub, request(image_a=_photo(CARD, on_several=REFUSE)))
    assert stored_label.stored.created


async def test_pool_images_with_several_faces_are_rejected_on_request(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    async def images() -> AsyncIterator[pb.ImportImagesRequest]:
        for data, boxed in ((PHOTO, None), (CARD, None), (PHOTO, BOX), (WALL, None)):
            photo = _photo(data, on_several=REFUSE, box=boxed)
            yield pb.ImportImagesRequest(image=photo.image)

    answer = await stub.ImportImages(images())
    assert (answer.created, answer.rejected) == (2, 2)
    assert [rejection.place for rejection in answer.rejections] == [0, 3]
    assert "shows 3 faces" in answer.rejections[0].why
    assert stored().images == 2


async def test_without_a_detector_several_faces_cannot_be_refused(
    settings: FeedbackSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hide_detector(monkeypatch, tmp_path)
    async with stub_on(settings) as stub:
        photo = _photo(CARD, on_several=REFUSE)
        code, details = await _error(stub.SubmitFeedback(request(image_a=photo)))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "pip install" in details
        refused = (await _stream(stub, request(image_a=photo))).refused
        assert refused.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        # With a box, nothing is detected here.
        boxed = _photo(PHOTO, on_several=REFUSE, box=BOX)
        assert (await stub.SubmitFeedback(request(image_a=boxed))).created


async def test_the_pool_is_embedded_with_the_boxes(settings: FeedbackSettings) -> None:
    embedder = StandInEmbedder("one")
    async with served(embedder) as address:
        changes = {"embedder_address": address, "feedback_pool_poll_s": 0.1}
        async with stub_on(settings.model_copy(update=changes)) as stub:

            async def images() -> AsyncIterator[pb.ImportImagesRequest]:
                yield pb.ImportImagesRequest(image=_photo(box=BOX).image)
                yield pb.ImportImagesRequest(image=marked(picture(1)))

            await stub.ImportImages(images())
            await until(lambda: embedder.embedded >= 2)
    assert embedder.boxed == {PHOTO: _photo(box=BOX).image}


async def _stream(stub: Stub, label: pb.SubmitFeedbackRequest) -> pb.FeedbackResult:
    label.idempotency_key = fresh_key()
    requests = [pb.SubmitFeedbackStreamRequest(feedback=label)]
    (result,) = [
        result
        async for part in stub.SubmitFeedbackStream(iter(requests))
        for result in part.results
    ]
    return result
