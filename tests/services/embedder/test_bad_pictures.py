"""A picture that cannot be read is an error of its own, in every call and stream."""

import grpc
import pytest
from google.rpc import code_pb2
from magface.v1 import embedder_pb2 as pb
from magface.v1 import image_pb2

from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.faces import crops, image, image_side
from tests.services.embedder.serving import running_embedder
from tests.support.bad_pictures import BAD_PICTURES

GOOD = image(crops(1)[0])
ALIGNED, DETECT = image_pb2.ALIGNMENT_ALIGNED, image_pb2.ALIGNMENT_DETECT


@pytest.fixture
async def client(embedder_settings, published):  # noqa: ARG001
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(VERSIONS[0])
        yield client


def _is_own_error(error: grpc.aio.AioRpcError, field: str, words: str) -> bool:
    return (
        error.code() is grpc.StatusCode.INVALID_ARGUMENT
        and error.details().startswith(f"{field}: ")
        and words in error.details()
    )


async def test_every_call_names_the_picture_and_what_it_is(client):
    wrong = []
    for place, (name, (data, words)) in enumerate(BAD_PICTURES.items()):
        for bad in (image_pb2.Image(data=data, alignment=way) for way in (ALIGNED, DETECT)):
            batch = [GOOD] * 64
            batch[place] = bad
            sides = image_side(crops(1)[0]), pb.VerifySide(image=bad)
            whole = pb.DetectFacesRequest(image=image_pb2.Image(data=data))
            calls = {
                f"images[{place}].data": lambda batch=batch: client.embed(*batch),
                "b.image.data": lambda sides=sides: client.verify(*sides),
                "image.data": lambda whole=whole: client.stub.DetectFaces(whole, timeout=20),
            }
            for field, call in calls.items():
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call()
                if not _is_own_error(refused.value, field, words):
                    wrong.append((name, field, refused.value.code(), refused.value.details()))
    assert not wrong
    assert len((await client.embed(GOOD)).faces) == 1


async def test_a_stream_answers_each_and_goes_on(client):
    requests, expected = [], {}
    for name, (data, words) in BAD_PICTURES.items():
        for way in (ALIGNED, DETECT):
            bad = image_pb2.Image(data=data, alignment=way)
            expected[f"{name} {way}"] = words
            requests.append(pb.EmbedStreamRequest(id=f"{name} {way}", image=bad))
            requests.append(pb.EmbedStreamRequest(id=f"good {len(requests)}", image=GOOD))
    answers = {a.id: a async for a in client.stub.EmbedStream(iter(requests), timeout=60)}
    assert answers.keys() == {request.id for request in requests}
    good = [a for a in answers.values() if a.HasField("face")]
    assert len(good) == len(expected)
    for key, words in expected.items():
        assert answers[key].error.code == code_pb2.INVALID_ARGUMENT
        assert answers[key].error.message.startswith("image.data: ")
        assert words in answers[key].error.message
