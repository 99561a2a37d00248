"""The service's domain with a stand-in engine and no network."""

import asyncio
import time
from math import inf

import numpy as np
import pytest

from services.embedder.admission import Admission
from services.embedder.batcher import Batcher
from services.embedder.decoding import Decoder
from services.embedder.embedding import FaceEmbedder, StoredEmbedding
from services.embedder.engine import Engine, LoadedModel
from services.embedder.work import deliver_on
from shared.errors import InvalidInput, Overloaded, PreconditionFailed, Unavailable
from shared.model.faces import FaceImage, FaceReader
from shared.settings import ImageLimits
from tests.embedder.faces import crops, png
from tests.embedder.standin import model
from tests.embedder.waiting import until


class _Service:
    def __init__(self, max_images: int = 128, batch_images: int = 4) -> None:
        deliver = deliver_on(asyncio.get_running_loop())
        self.batcher = Batcher(batch_images)
        self.engine = Engine(self.batcher, batch_images, deliver)
        self.decoder = Decoder(FaceReader(ImageLimits()), 2, deliver)
        admission = Admission(max_images, 2**24)
        self.faces = FaceEmbedder(self.engine, self.batcher, self.decoder, admission)

    async def __aenter__(self) -> "_Service":
        self.engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.decoder.stop)
        await asyncio.to_thread(self.engine.stop)


FACES = [FaceImage(png(crop), "aligned") for crop in crops(6)]


def _held(version: str) -> LoadedModel:
    """A model whose first batch does not end before it is told to go on."""
    held = model(version)
    held.session.go_on.clear()
    return held


def _stored(vector: np.ndarray, version: str = "v1") -> StoredEmbedding:
    return StoredEmbedding(vector.astype("<f4").tobytes(), version)


async def test_answers_come_in_the_order_of_the_call_with_magnitude_and_quality():
    async with _Service() as service:
        service.engine.flip(model("v1"))
        together = await service.faces.embed(FACES, inf)
        alone = [(await service.faces.embed([face], inf)).faces[0] for face in FACES]
    assert together.model_version == "v1"
    for got, want in zip(together.faces, alone, strict=True):
        assert np.array_equal(got.embedding, want.embedding)
        assert (got.magnitude, got.quality) == (want.magnitude, want.quality)
        assert got.embedding @ got.embedding == pytest.approx(1, abs=1e-6)
        assert 0 <= got.quality <= 1


@pytest.mark.parametrize("count", [0, 65])
async def test_a_call_takes_1_to_64_images(count):
    async with _Service() as service:
        service.engine.flip(model("v1"))
        with pytest.raises(InvalidInput, match=f"^images: there are {count}"):
            await service.faces.embed(FACES[:1] * count, inf)


async def test_the_first_bad_image_is_named_and_the_service_goes_on():
    async with _Service() as service:
        service.engine.flip(model("v1"))
        faces = [FACES[0], FaceImage(b"not an image"), FACES[1], FaceImage(b"")]
        with pytest.raises(InvalidInput, match=r"^images\[1\].data: "):
            await service.faces.embed(faces, inf)
        assert len((await service.faces.embed(FACES, inf)).faces) == 6


async def test_a_full_server_refuses_at_once_and_says_when_to_come_back():
    async with _Service(max_images=64, batch_images=32) as service:
        serving = _held("v1")
        service.engine.flip(serving)
        running = [asyncio.create_task(service.faces.embed(FACES[:4] * 8, inf)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await service.faces.embed(FACES[:1], inf)
        assert not any(call.done() for call in running)
        assert refused.value.retry_after_s >= 0.1
        serving.session.go_on.set()
        await asyncio.gather(*running)
        await service.faces.embed(FACES[:1], inf)


async def test_before_the_first_model_calls_are_unavailable():
    async with _Service() as service:
        with pytest.raises(Unavailable):
            await service.faces.embed(FACES[:1], inf)


async def test_work_whose_caller_has_gone_is_not_computed():
    async with _Service(batch_images=1) as service:
        serving = _held("v1")
        service.engine.flip(serving)
        calls = [asyncio.create_task(service.faces.embed([face], inf)) for face in FACES]
        await until(lambda: serving.session.batches)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        serving.session.go_on.set()
        await until(lambda: not service.batcher._waiting and not service.batcher._next.works)
        assert len((await service.faces.embed(FACES[:1], inf)).faces) == 1
    assert len(serving.session.batches) <= 3


async def test_work_whose_deadline_has_passed_is_not_computed():
    async with _Service(batch_images=1) as service:
        serving = _held("v1")
        service.engine.flip(serving)
        first = asyncio.create_task(service.faces.embed(FACES[:1], inf))
        await until(lambda: serving.session.batches)
        deadline = time.monotonic() + 0.05
        late = asyncio.create_task(service.faces.embed(FACES[1:2], deadline))
        await until(lambda: service.batcher._next.works and time.monotonic() > deadline)
        serving.session.go_on.set()
        with pytest.raises(Overloaded, match="deadline"):
            await late
        await first
    assert len(serving.session.batches) == 1


async def test_all_images_of_a_call_are_answered_by_one_version_while_versions_flip():
    async with _Service(batch_images=2) as service:
        versions = [model("v1", seconds=0.002), model("v2", seconds=0.002)]
        references = {}
        for each in versions:
            service.engine.flip(each)
            answer = await service.faces.embed(FACES, inf)
            references[answer.model_version] = [face.embedding for face in answer.faces]
        calls = [asyncio.create_task(service.faces.embed(FACES, inf)) for _ in range(20)]
        flips = 0
        while not all(call.done() for call in calls):
            service.engine.flip(versions[flips % 2])
            flips += 1
            await asyncio.sleep(0.001)
        seen = set()
        for call in calls:
            answer = call.result()
            seen.add(answer.model_version)
            for face, want in zip(answer.faces, references[answer.model_version], strict=True):
                assert np.array_equal(face.embedding, want)
    assert seen == {"v1", "v2"}


async def test_verify_does_not_depend_on_the_order_of_its_sides():
    async with _Service() as service:
        service.engine.flip(model("v1"))
        ab = await service.faces.verify(FACES[0], FACES[1], inf)
        ba = await service.faces.verify(FACES[1], FACES[0], inf)
        same = await service.faces.verify(FACES[0], FACES[0], inf)
    assert ab.similarity == ba.similarity
    assert np.array_equal(ab.face_a.embedding, ba.face_b.embedding)
    assert same.similarity == pytest.approx(1.0, abs=1e-6)
    assert same.same


async def test_verify_takes_both_sides_in_one_batch():
    async with _Service() as service:
        serving = model("v1")
        service.engine.flip(serving)
        await service.faces.verify(FACES[0], FACES[1], inf)
    assert serving.session.batches == [2]


async def test_a_stored_embedding_compares_as_its_image_does():
    async with _Service() as service:
        service.engine.flip(model("v1"))
        images = await service.faces.verify(FACES[0], FACES[1], inf)
        stored = _stored(images.face_a.embedding)
        mixed = await service.faces.verify(stored, FACES[1], inf)
        both = await service.faces.verify(stored, _stored(images.face_b.embedding), inf)
    assert mixed.similarity == pytest.approx(images.similarity, abs=1e-6)
    assert both.similarity == pytest.approx(images.similarity, abs=1e-6)
    assert (mixed.face_a, both.face_a, both.face_b) == (None, None, None)


async def test_a_stored_embedding_of_another_version_is_refused_unless_it_is_compatible():
    async with _Service() as service:
        service.engine.flip(model("v2", compatible=("v1",)))
        unit = np.eye(8, dtype=np.float32)[0]
        assert (await service.faces.verify(_stored(unit, "v1"), FACES[0], inf)).same in (
            True,
            False,
        )
        with pytest.raises(PreconditionFailed, match=r"b.stored.model_version: embeddings of v0"):
            await service.faces.verify(FACES[0], _stored(unit, "v0"), inf)
        with pytest.raises(InvalidInput, match=r"^a.stored.model_version: is empty"):
            await service.faces.verify(_stored(unit, ""), FACES[0], inf)


async def test_stored_embeddings_of_two_older_versions_are_not_compared():
    async with _Service() as service:
        service.engine.flip(model("v3", compatible=("v1", "v2")))
        unit = np.eye(8, dtype=np.float32)[0]
        with pytest.raises(PreconditionFailed, match="v1 and v2"):
            await service.faces.verify(_stored(unit, "v1"), _stored(unit, "v2"), inf)
        assert (await service.faces.verify(_stored(unit, "v1"), _stored(unit, "v1"), inf)).same


@pytest.mark.parametrize(
    ("vector", "why"),
    [
        (np.eye(7)[0], "28 bytes; 32 are needed"),
        (np.full(8, np.nan), "not finite"),
        (np.zeros(8), "length 0 instead of 1"),
        (np.ones(8), "length 2.828 instead of 1"),
    ],
)
async def test_a_stored_embedding_must_be_a_unit_vector_of_the_models_size(vector, why):
    async with _Service() as service:
        service.engine.flip(model("v1"))
        with pytest.raises(InvalidInput, match=rf"^a.stored.embedding: .*{why}"):
            await service.faces.verify(_stored(vector), FACES[0], inf)


async def test_a_stored_embedding_a_little_off_unit_length_is_scaled_back():
    async with _Service() as service:
        service.engine.flip(model("v1"))
        embedding = (await service.faces.embed(FACES[:1], inf)).faces[0].embedding
        verdict = await service.faces.verify(_stored(embedding * 1.0005), FACES[0], inf)
    assert verdict.similarity == pytest.approx(1.0, abs=1e-6)


async def test_a_stored_embedding_is_checked_against_the_version_that_answers():
    async with _Service() as service:
        serving = _held("v1")
        service.engine.flip(serving)
        unit = np.eye(8, dtype=np.float32)[0]
        busy = asyncio.create_task(service.faces.embed(FACES[:1], inf))
        await until(lambda: serving.session.batches)
        call = asyncio.create_task(service.faces.verify(_stored(unit, "v1"), FACES[0], inf))
        await until(lambda: service.batcher._next.works)
        service.engine.flip(model("v2"))
        serving.session.go_on.set()
        with pytest.raises(PreconditionFailed, match="v2, which serves"):
            await call
        await busy
