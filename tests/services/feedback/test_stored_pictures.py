"""Stored pictures have no metadata, also those that an earlier release stored with it."""

import hashlib
import io
from collections.abc import AsyncIterator

import cv2
import grpc
import numpy as np
import psycopg
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc, image_pb2
from PIL import Image

from shared.storage.objects import ObjectStore, image_key
from tests.services.feedback.support.helpers import marked, picture, request

Stub = feedback_pb2_grpc.FeedbackServiceStub
_SECRET = b"SECRET"


def _photo(number: int) -> bytes:
    """A crop as JPEG, with a maker and trailing bytes, to be turned by a quarter."""
    pixels = cv2.imdecode(np.frombuffer(picture(number), np.uint8), cv2.IMREAD_COLOR)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, _SECRET.decode()
    file = io.BytesIO()
    Image.fromarray(pixels[..., ::-1]).save(file, "JPEG", exif=exif)
    return file.getvalue() + _SECRET


def _image(number: int) -> image_pb2.Image:
    return marked(_photo(number))


def _sha256(number: int) -> str:
    return hashlib.sha256(_photo(number)).hexdigest()


async def _send(stub: Stub, how: str, number: int) -> None:
    label = request(number, 99)
    label.image_a.image.CopyFrom(_image(number))
    match how:
        case "label":
            await stub.SubmitFeedback(label)
        case "stream":
            stream = stub.SubmitFeedbackStream(
                iter([pb.SubmitFeedbackStreamRequest(feedback=label)])
            )
            assert [answer.results[0].HasField("stored") async for answer in stream] == [True]
        case "import":

            async def images() -> AsyncIterator[pb.ImportImagesRequest]:
                yield pb.ImportImagesRequest(image=_image(number))

            answer = await stub.ImportImages(images())
            assert not answer.rejections


@pytest.mark.parametrize("how", ["label", "stream", "import"])
async def test_a_picture_is_stored_and_served_without_metadata(
    stub: Stub, object_store: ObjectStore, how: str
) -> None:
    await _send(stub, how, 1)
    assert _SECRET not in object_store.get(image_key(_sha256(1)))
    answer = await stub.GetImage(pb.GetImageRequest(sha256=_sha256(1)))
    assert _SECRET not in answer.image.data
    assert answer.data_sha256 == hashlib.sha256(answer.image.data).hexdigest()
    with Image.open(io.BytesIO(answer.image.data)) as served:
        assert dict(served.getexif()) == {0x0112: 6}


async def test_a_damaged_object_is_told_and_restored_by_the_same_file(
    stub: Stub, object_store: ObjectStore
) -> None:
    await _send(stub, "label", 1)
    stripped = object_store.get(image_key(_sha256(1)))
    object_store.put(image_key(_sha256(1)), bytes(len(stripped)))
    with pytest.raises(grpc.aio.AioRpcError) as lost:
        await stub.GetImage(pb.GetImageRequest(sha256=_sha256(1)))
    assert lost.value.code() is grpc.StatusCode.DATA_LOSS
    await _send(stub, "label", 1)
    assert object_store.get(image_key(_sha256(1))) == stripped


async def test_a_picture_of_an_earlier_release_loses_its_metadata_when_it_is_read(
    stub: Stub, object_store: ObjectStore, database_url: str
) -> None:
    await _send(stub, "label", 1)
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE feedback.images DISABLE TRIGGER USER")
        connection.execute("UPDATE feedback.images SET stored_sha256 = NULL")
    object_store.put(image_key(_sha256(1)), _photo(1))
    answer = await stub.GetImage(pb.GetImageRequest(sha256=_sha256(1)))
    assert _SECRET not in answer.image.data
    await _send(stub, "label", 1)
    again = await stub.GetImage(pb.GetImageRequest(sha256=_sha256(1)))
    assert again.image.data == answer.image.data
