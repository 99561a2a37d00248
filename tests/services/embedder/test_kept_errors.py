"""Errors that outlive the work on a picture keep neither its bytes nor its request."""

import asyncio
import gc
import sys
from contextlib import asynccontextmanager

import numpy as np
import pytest
from google.protobuf.message import Message
from magface.v1 import embedder_pb2 as pb
from magface.v1 import image_pb2

from services.embedder.embedding.stream import FaceStream, StreamedFace
from services.embedder.servicer import _unpack_streamed
from shared.decoding.messages import DecodeRequest
from shared.decoding.work import perform
from shared.errors import MagFaceError
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.rpc.budget import ByteBudget
from shared.settings import ImageLimits
from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.faces import crops, image
from tests.services.embedder.serving import running_embedder
from tests.shared.decoding.hostile import small_png
from tests.support.bad_pictures import BAD_PICTURES
from tests.support.decoding import decode_pool
from tests.support.referents import kept_by, left_behind

_SMALL = 600


def _large_things(error: BaseException) -> list[object]:
    kinds = (np.ndarray, Message, FaceImage)
    return [
        one
        for one in kept_by(error)
        if isinstance(one, kinds) or (isinstance(one, (bytes, bytearray)) and len(one) > _SMALL)
    ]


def _cut_crop() -> bytes:
    grain = crops(1)[0]
    return image(grain).data[:-2000]


@asynccontextmanager
async def _admit(_):
    yield


def test_the_search_finds_what_an_error_keeps():
    def fail(data: bytes) -> None:
        raise MagFaceError(f"{len(data)} bytes")

    try:
        fail(bytes(1000))
    except MagFaceError as error:
        assert _large_things(error)


async def test_the_result_of_a_streamed_picture_keeps_nothing():
    async def embed(face, _):
        return await decode_pool().read(face, "image")

    async def faces():
        yield StreamedFace("cut", FaceImage(_cut_crop(), "aligned"))
        yield StreamedFace("landmarks", FaceImage(small_png(), "landmarks", ((1.0, 1.0),)))

    stream = FaceStream(_admit, embed, 8, ByteBudget(2**30), asyncio.Event())
    results = [result async for result in stream.results(faces())]
    assert [type(one.result).__name__ for one in results] == ["InvalidInput"] * 2
    assert not [one for result in results for one in _large_things(result.result)]


def test_an_error_of_unpacking_keeps_no_request():
    wrong = image_pb2.Image(data=bytes(5000), alignment=99)
    streamed = _unpack_streamed(pb.EmbedStreamRequest(id="x", image=wrong))
    assert isinstance(streamed.face, MagFaceError)
    assert not _large_things(streamed.face)


@pytest.mark.parametrize("operation", ["read", "check", "detect"])
def test_the_error_of_a_decode_process_keeps_nothing(operation):
    request = DecodeRequest(operation, FaceImage(_cut_crop(), "aligned"), "image", 2**30)
    error = perform(FaceReader(ImageLimits()), request)
    assert isinstance(error, MagFaceError)
    assert not _large_things(error)


async def test_a_dropped_error_frees_the_picture_without_the_garbage_collector():
    data = _cut_crop()
    face = FaceImage(data, "aligned")
    gc.disable()
    try:
        held = sys.getrefcount(face)
        for _ in range(3):
            with pytest.raises(MagFaceError) as refused:
                await decode_pool().read(face, "image")
            del refused
        # The pool's thread lets go of its task a moment after the answer.
        for _ in range(100):
            if sys.getrefcount(face) == held:
                break
            await asyncio.sleep(0.01)
        assert sys.getrefcount(face) == held
    finally:
        gc.enable()


@pytest.mark.usefixtures("published")
async def test_refused_pictures_of_a_stream_leave_no_request_behind(embedder_settings):
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(VERSIONS[0])

        async def requests():
            for data, _ in BAD_PICTURES.values():
                yield pb.EmbedStreamRequest(image=image_pb2.Image(data=data))
            yield pb.EmbedStreamRequest(image=image_pb2.Image(data=b"x", alignment=99))

        with left_behind(pb.EmbedStreamRequest, FaceImage, StreamedFace) as left:
            stream = client.stub.EmbedStream(requests(), timeout=20)
            answers = [answer async for answer in stream]
            assert len(answers) == len(BAD_PICTURES) + 1
            del stream
            # The threads of the pool let go of their pictures a moment after the answer.
            await asyncio.sleep(0.2)
            assert not left()
