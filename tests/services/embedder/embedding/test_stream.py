"""Streams of many images: every one is answered, and memory stays bounded."""

import asyncio
import signal
import threading
from contextlib import aclosing, asynccontextmanager

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2
from magface.v1 import embedder_pb2 as pb
from magface.v1 import image_pb2
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub
from prometheus_client import REGISTRY

from services.embedder.embedding.stream import FaceStream, StreamedFace
from services.embedder.inference.requests import EmbeddedFace, EmbedResult
from shared.decoding.admission import Admission
from shared.errors import InvalidInput, Overloaded, Unavailable
from shared.model.image.face import FaceImage
from shared.model.sessions.base import split_features
from shared.rpc.budget import ByteBudget
from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.faces import crops, image, vector
from tests.services.embedder.process import EmbedderProcess
from tests.services.embedder.serving import Client, running_embedder
from tests.support.waiting import let_others_run, until

MOST = 5
IMAGES = crops(300)


class _Source:
    """A caller that sends as fast as the stream reads."""

    def __init__(self, count: int) -> None:
        self.read = 0
        self._count = count

    async def faces(self):
        for number in range(self._count):
            self.read += 1
            yield StreamedFace(str(number), FaceImage(b"x"))


async def _embed(face: FaceImage, version: str) -> EmbedResult:
    await asyncio.sleep(0)
    return EmbedResult([EmbeddedFace(np.ones(1, np.float32), len(face.data), 0.5)], version or "v1")


@asynccontextmanager
async def _admit_at_once(_: FaceImage):
    yield


def _stream(embed=_embed, admit=_admit_at_once, stopping=None) -> FaceStream:
    return FaceStream(admit, embed, MOST, ByteBudget(2**30), stopping or asyncio.Event())


async def test_reading_stops_while_the_caller_does_not_take_its_answers():
    source, taken = _Source(100), 0
    async with aclosing(_stream().results(source.faces())) as answers:
        async for _ in answers:
            taken += 1
            await let_others_run()
            assert source.read <= taken + MOST
    assert taken == 100


async def test_a_stream_that_waits_for_room_has_read_one_more_than_was_admitted():
    admission, source = Admission(2 * MOST, 2**20), _Source(100)

    async def never(*_: object) -> EmbedResult:
        await asyncio.Event().wait()

    with admission.admit(3, 3, 0.0):
        answers = _stream(never, lambda face: admission.admit_in_turn(len(face.data))).results(
            source.faces()
        )
        first = asyncio.create_task(anext(answers))
        await until(lambda: admission._images == MOST)
        await let_others_run()
        assert (admission._images, source.read) == (MOST, 3)
    await until(lambda: source.read == MOST)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert admission._images == 0


async def test_an_error_of_one_face_is_its_answer_and_any_other_ends_the_stream():
    async def embed(face: FaceImage, version: str) -> EmbedResult:
        if version == "bad":
            raise InvalidInput("image.data", "is bad")
        if version == "bug":
            raise ZeroDivisionError
        return await _embed(face, version)

    async def faces():
        for number, version in enumerate(["", "bad", "", "bug", ""]):
            yield StreamedFace(str(number), FaceImage(b"x"), version)
            # Fixes the order of the results.
            await let_others_run()

    seen = []
    with pytest.raises(ZeroDivisionError):
        async for answer in _stream(embed).results(faces()):
            seen += [(answer.id, isinstance(answer.result, EmbeddedFace))]
    assert seen == [("0", True), ("1", False), ("2", True)]


async def test_when_the_server_stops_what_was_read_is_answered_and_nothing_more_is_read():
    stopping, source, seen = asyncio.Event(), _Source(10**6), set()
    with pytest.raises(Unavailable, match="stopping"):
        async for answer in _stream(stopping=stopping).results(source.faces()):
            seen.add(answer.id)
            if len(seen) == 20:
                stopping.set()
    assert seen == {str(number) for number in range(source.read)}


async def test_half_of_the_server_stays_free_of_those_who_wait():
    admission = Admission(8, 800)
    admitted = []

    async def hold(number: int) -> None:
        async with admission.admit_in_turn(10):
            admitted.append(number)
            await go_on.wait()

    go_on = asyncio.Event()
    waiting = [asyncio.create_task(hold(number)) for number in range(12)]
    await until(lambda: len(admitted) == 4)
    await let_others_run()
    with admission.admit(4, 40, 0.0), pytest.raises(Overloaded), admission.admit(1, 10, 0.0):
        pass
    waiting[5].cancel()
    go_on.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert admitted == [number for number in range(12) if number != 5]
    assert (admission._images, admission._bytes) == (0, 0)


async def test_those_who_wait_keep_to_half_of_the_bytes_and_a_large_one_passes_alone():
    admission = Admission(8, 800)
    async with admission.admit_in_turn(399):
        second = asyncio.create_task(_hold_once(admission, 2))
        await let_others_run()
        assert not second.done()
    await asyncio.wait_for(second, 60)
    await asyncio.wait_for(_hold_once(admission, 5000), 60)


async def _hold_once(admission: Admission, size: int) -> None:
    async with admission.admit_in_turn(size):
        pass


@pytest.fixture
async def client(embedder_settings, published):  # noqa: ARG001
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(VERSIONS[0])
        yield client


@pytest.fixture(scope="module")
def references(bare_sessions) -> dict[str, np.ndarray]:
    return {version: split_features(s.run(IMAGES))[0] for version, s in bare_sessions.items()}


def _requests(version: str = ""):
    for number, crop in enumerate(IMAGES):
        yield pb.EmbedStreamRequest(id=str(number), image=image(crop), model_version=version)


async def test_several_hundred_images_with_bad_ones_and_a_swap_on_the_way(
    client, published, references
):
    bad = {
        100: (
            pb.EmbedStreamRequest(id="100", image=image_pb2.Image(data=b"no image")),
            "image.data",
        ),
        150: (
            pb.EmbedStreamRequest(id="150", image=image_pb2.Image(alignment=9)),
            "image.alignment",
        ),
        200: (
            pb.EmbedStreamRequest(id="200", image=image(IMAGES[0]), model_version="gone"),
            "model_version: gone is not loaded",
        ),
    }

    async def requests():
        for number, request in enumerate(_requests()):
            if number == 150:
                published.promote(VERSIONS[1])
                await client.until_serving(VERSIONS[1])
            yield bad[number][0] if number in bad else request

    seen, versions = {}, set()
    async for answer in client.stub.EmbedStream(requests(), timeout=120):
        seen[int(answer.id)] = answer
        if len(seen) % 50 == 0:
            await asyncio.sleep(0.2)
    assert sorted(seen) == list(range(300))
    for number, answer in seen.items():
        if number in bad:
            assert answer.error.message.startswith(bad[number][1])
            code = code_pb2.FAILED_PRECONDITION if number == 200 else code_pb2.INVALID_ARGUMENT
            assert (answer.error.code, answer.model_version) == (code, "")
        else:
            versions.add(answer.model_version)
            wanted = references[answer.model_version][number]
            np.testing.assert_allclose(vector(answer.face), wanted, atol=1e-5)
    assert versions == set(VERSIONS)


async def test_a_stream_that_names_a_version_is_answered_by_it_alone(client, published):
    published.promote(VERSIONS[1])
    await client.until_serving(VERSIONS[1])
    stream = client.stub.EmbedStream(_requests(VERSIONS[0]), timeout=120)
    assert {answer.model_version async for answer in stream} == {VERSIONS[0]}


async def test_a_caller_that_leaves_gives_its_places_back_and_calls_go_on_beside_it(client):
    stream = client.stub.EmbedStream(_requests(), timeout=120)
    for _ in range(10):
        await stream.read()
    assert len((await client.embed(image(IMAGES[0]))).faces) == 1
    stream.cancel()
    await until(lambda: REGISTRY.get_sample_value("magface_embedder_images_in_flight") == 0)
    assert len((await client.embed(image(IMAGES[1]))).faces) == 1


async def test_streams_wait_where_calls_would_be_refused(embedder_settings, published):  # noqa: ARG001
    small = embedder_settings.model_copy(update={"max_images": 64, "batch_images": 64})
    async with running_embedder(small) as client:
        await client.until_serving(VERSIONS[0])
        streams = [client.stub.EmbedStream(_requests(), timeout=240) for _ in range(3)]
        counts = await asyncio.gather(*map(_count, streams))
    assert counts == [300] * 3


async def _count(stream) -> int:
    return len([answer async for answer in stream if answer.HasField("face")])


@pytest.mark.usefixtures("published")
async def test_sigterm_ends_a_stream_after_the_answers_to_what_was_read(
    embedder_settings, tmp_path
):
    # A client that has more to send than the connection takes may see its write fail before it
    # reads the status, so no more than this is ever on the way.
    room = threading.Semaphore(8)

    def requests():
        for number in range(10**6):
            room.acquire()
            yield pb.EmbedStreamRequest(id=str(number), image=image(IMAGES[number % 300]))

    def read_until_it_ends(address: str, seen: list[int]) -> None:
        # Not grpc.aio: its client may report INTERNAL when a write fails (grpc#36066).
        with grpc.insecure_channel(address) as channel:
            stub = EmbedderServiceStub(channel)
            for answer in stub.EmbedStream(requests(), timeout=120):
                seen.append(int(answer.id))
                room.release()
                if len(seen) == 50:
                    process.send_signal(signal.SIGTERM)

    with EmbedderProcess(embedder_settings, tmp_path) as process:
        address = await asyncio.to_thread(process.start)
        async with grpc.aio.insecure_channel(address) as channel:
            await Client(channel).until_serving(VERSIONS[0])
        seen: list[int] = []
        with pytest.raises(grpc.RpcError) as ended:
            await asyncio.to_thread(read_until_it_ends, address, seen)
        room.release()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "send the images without an answer" in ended.value.details()
        assert sorted(seen) == list(range(len(seen)))
        assert process.wait() == 0
