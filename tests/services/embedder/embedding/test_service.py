"""The service, with a stand-in session and no server."""

import asyncio
import time
import weakref
from math import inf

import cv2
import numpy as np
import pytest

from services.embedder.inference.small_pictures import SMALL_PIXELS
from shared.errors import InvalidInput, Overloaded, PreconditionFailed, Unavailable
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.model.sessions.base import split_features
from shared.settings import ImageLimits
from tests.services.embedder.domain import FACES, Service, held, stored
from tests.services.embedder.faces import crops, jpeg, png
from tests.services.embedder.standin import features_of, model
from tests.support.waiting import until


async def test_answers_come_in_the_order_of_the_call_with_magnitude_and_quality():
    async with Service() as service:
        service.models.serve(model("v1"))
        together = await service.faces.embed(FACES, inf)
        alone = [(await service.faces.embed([face], inf)).faces[0] for face in FACES]
    assert together.model_version == "v1"
    for got, want in zip(together.faces, alone, strict=True):
        assert np.array_equal(got.embedding, want.embedding)
        assert (got.magnitude, got.quality) == (want.magnitude, want.quality)
        assert got.embedding @ got.embedding == pytest.approx(1, abs=1e-6)
        assert 0 <= got.quality <= 1


async def test_jpegs_decoded_where_they_arrive_get_the_vectors_of_their_own_pixels():
    faces = [FaceImage(jpeg(crop), "aligned") for crop in crops(40)]
    reader = FaceReader(ImageLimits())
    assert all(reader.read_plain_jpeg(face, SMALL_PIXELS, "image") is not None for face in faces)
    pixels = np.stack([reader.crop(face) for face in faces])
    wanted, _ = split_features(features_of(pixels, "v1"))
    # Single ones, pairs, and three together, which the pool decodes.
    calls = [[n] for n in range(20)] + [[n, n + 1] for n in range(20, 30)] + [[37, 38, 39]]
    async with Service() as service:
        service.models.serve(model("v1"))
        answers = await asyncio.gather(
            *(service.faces.embed([faces[n] for n in call], inf) for call in calls)
        )
    for call, answer in zip(calls, answers, strict=True):
        got = [face.embedding for face in answer.faces]
        np.testing.assert_allclose(got, wanted[call], atol=1e-6)


async def test_a_damaged_jpeg_is_named_where_it_is_decoded_at_once():
    whole = jpeg(crops(1)[0])
    async with Service() as service:
        service.models.serve(model("v1"))
        with pytest.raises(InvalidInput, match=r"^images\[1\].data: is a JPEG .* cut short"):
            await service.faces.embed([FaceImage(whole), FaceImage(whole[:-40])], inf)
        assert service.admission.idle.is_set()


@pytest.mark.parametrize("encode", [jpeg, png])
async def test_after_the_engine_has_stopped_a_call_is_unavailable(encode):
    service = Service()
    service.pipeline.start()
    service.models.serve(model("v1"))
    service.pipeline._batcher.close()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(service.faces.embed([FaceImage(encode(crops(1)[0]))], inf), 20)
    await service.pipeline.stop()


@pytest.mark.parametrize("count", [0, 65])
async def test_a_call_takes_1_to_64_images(count):
    async with Service() as service:
        service.models.serve(model("v1"))
        with pytest.raises(InvalidInput, match=f"^images: there are {count}"):
            await service.faces.embed(FACES[:1] * count, inf)


async def test_the_first_bad_image_is_named_and_the_service_goes_on():
    async with Service() as service:
        service.models.serve(model("v1"))
        faces = [FACES[0], FaceImage(b"not an image"), FACES[1], FaceImage(b"")]
        with pytest.raises(InvalidInput, match=r"^images\[1\].data: "):
            await service.faces.embed(faces, inf)
        assert len((await service.faces.embed(FACES, inf)).faces) == 6


async def test_a_full_server_refuses_at_once_and_says_when_to_come_back():
    async with Service(max_images=64, batch_images=32) as service:
        serving = held("v1")
        service.models.serve(serving)
        running = [asyncio.create_task(service.faces.embed(FACES[:4] * 8, inf)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await service.faces.embed(FACES[:1], inf)
        with pytest.raises(Overloaded):
            await service.faces.detect(FaceImage(FACES[0].data), inf)
        assert not any(call.done() for call in running)
        assert refused.value.retry_after_s >= 0.1
        serving.session.go_on.set()
        await asyncio.gather(*running)
        await service.faces.embed(FACES[:1], inf)


async def test_before_the_first_model_calls_are_unavailable():
    async with Service() as service:
        with pytest.raises(Unavailable):
            await service.faces.embed(FACES[:1], inf)


async def test_work_whose_caller_has_gone_is_not_computed():
    async with Service(batch_images=1) as service:
        serving = held("v1")
        service.models.serve(serving)
        calls = [asyncio.create_task(service.faces.embed([face], inf)) for face in FACES]
        await until(lambda: serving.session.batches)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        serving.session.go_on.set()
        await until(lambda: not service.queued)
        assert len((await service.faces.embed(FACES[:1], inf)).faces) == 1
    assert len(serving.session.batches) <= 3


async def test_work_whose_deadline_has_passed_is_not_computed():
    async with Service(batch_images=1) as service:
        serving = held("v1")
        service.models.serve(serving)
        first = asyncio.create_task(service.faces.embed(FACES[:1], inf))
        await until(lambda: serving.session.batches)
        deadline = time.monotonic() + 0.05
        late = asyncio.create_task(service.faces.embed(FACES[1:2], deadline))
        await until(lambda: service.queued and time.monotonic() > deadline)
        serving.session.go_on.set()
        with pytest.raises(Overloaded, match="deadline"):
            await late
        await first
    assert len(serving.session.batches) == 1


@pytest.mark.parametrize("cache_bytes", [0, 3000, 2**20])
async def test_all_images_of_a_call_are_answered_by_one_version_while_versions_flip(cache_bytes):
    async with Service(batch_images=2, cache_bytes=cache_bytes) as service:
        versions = [model("v1", seconds=0.002), model("v2", seconds=0.002)]
        references = {}
        for each in versions:
            service.models.serve(each)
            faces = (await service.faces.embed(FACES, inf)).faces
            references[each.version] = [face.embedding for face in faces]
            service.cache.clear()
        calls = []
        for turn in range(60):
            # Each call overlaps with the others, so that its images are partly cached.
            first, count = turn % 4, 1 + turn % 3
            part = slice(first, first + count)
            service.models.serve(versions[(turn // 3) % 2])
            calls.append((part, asyncio.create_task(service.faces.embed(FACES[part], inf))))
            await asyncio.sleep(0.001)
        seen = set()
        for part, call in calls:
            answer = await call
            seen.add(answer.model_version)
            wanted = references[answer.model_version][part]
            for face, want in zip(answer.faces, wanted, strict=True):
                assert np.array_equal(face.embedding, want)
    assert seen == {"v1", "v2"}


async def test_an_image_that_comes_again_is_not_computed_again():
    async with Service(cache_bytes=2**20) as service:
        serving = model("v1")
        service.models.serve(serving)
        first = await service.faces.embed([FACES[0], FACES[1], FACES[0]], inf)
        again = await service.faces.embed([FACES[1], FACES[0], FACES[2]], inf)
        verdict = await service.faces.verify(FACES[2], FACES[0], inf)
    assert len(serving.session.computed) == 3
    a, b, c = (face.embedding for face in first.faces)
    assert np.array_equal(a, c)
    assert np.array_equal(again.faces[0].embedding, b)
    assert np.array_equal(again.faces[1].embedding, a)
    assert np.array_equal(verdict.face_b.embedding, a)
    assert verdict.face_b.quality == first.faces[0].quality


@pytest.mark.parametrize("how", ["its deadline passes", "its caller leaves"])
async def test_a_call_that_waits_for_anothers_image_is_answered_though(how):
    async with Service(cache_bytes=2**20, batch_images=1) as service:
        serving = held("v1")
        service.models.serve(serving)
        busy = asyncio.create_task(service.faces.embed(FACES[:1], inf))
        await until(lambda: serving.session.batches)
        deadline = time.monotonic() + 0.05
        first = asyncio.create_task(service.faces.embed(FACES[1:2], deadline))
        await until(lambda: service.queued)
        second = asyncio.create_task(service.faces.embed(FACES[1:2], inf))
        await until(lambda: time.monotonic() > deadline)
        if how == "its caller leaves":
            first.cancel()
        serving.session.go_on.set()
        assert len((await second).faces) == 1
        with pytest.raises((Overloaded, asyncio.CancelledError)):
            await first
        await busy
    assert len(serving.session.computed) == 2


async def test_a_full_server_still_answers_what_it_knows():
    async with Service(max_images=64, cache_bytes=2**20) as service:
        service.models.serve(model("v1"))
        await service.faces.embed(FACES[:2], inf)
        serving = held("v1")
        service.models.serve(serving)
        big = asyncio.create_task(service.faces.embed(FACES[2:3] * 64, inf))
        await until(lambda: serving.session.batches)
        with pytest.raises(Overloaded):
            await service.faces.embed(FACES[3:4], inf)
        assert len((await service.faces.embed(FACES[:2], inf)).faces) == 2
        serving.session.go_on.set()
        await big


async def test_a_bad_image_is_named_where_it_stands_in_each_call_and_not_remembered():
    async with Service(cache_bytes=2**20) as service:
        service.models.serve(model("v1"))
        bad = FaceImage(b"not an image")
        calls = [
            asyncio.create_task(service.faces.embed(faces, inf))
            for faces in ([bad, FACES[0], bad], [FACES[0], bad], [FACES[0], FACES[1], bad])
        ]
        for place, call in enumerate(calls):
            with pytest.raises(InvalidInput, match=rf"^images\[{place}\].data: "):
                await call


async def test_pictures_too_large_to_hash_at_once_are_remembered_too():
    noise = np.random.default_rng(0).integers(0, 40, (400, 400, 3), dtype=np.uint8)
    large = cv2.add(cv2.resize(crops(1)[0], (400, 400)), noise)
    face = FaceImage(png(large), "aligned")
    assert len(face.data) > 256 * 1024
    async with Service(cache_bytes=2**20) as service:
        serving = model("v1")
        service.models.serve(serving)
        for _ in range(3):
            await service.faces.embed([face], inf)
    assert len(serving.session.computed) == 1


async def test_a_call_is_answered_by_the_version_that_served_when_it_came():
    async with Service() as service:
        serving = held("v1")
        service.models.serve(serving)
        unit = np.eye(8, dtype=np.float32)[0]
        busy = asyncio.create_task(service.faces.embed(FACES[:1], inf))
        await until(lambda: serving.session.batches)
        call = asyncio.create_task(service.faces.verify(stored(unit, "v1"), FACES[1], inf))
        await until(lambda: service.queued)
        for version in ("v2", "v3"):
            service.models.serve(model(version))
        serving.session.go_on.set()
        assert (await call).model_version == "v1"
        assert (await busy).model_version == "v1"
        assert (await service.faces.embed(FACES[:1], inf)).model_version == "v3"


async def test_a_version_that_is_resident_can_be_asked_for():
    async with Service() as service:
        for version in ("v1", "v2", "v3"):
            service.models.serve(model(version))
        answers = [await service.faces.embed(FACES, inf, version) for version in ("", "v2", "v3")]
        assert [answer.model_version for answer in answers] == ["v3", "v2", "v3"]
        assert not np.allclose(answers[0].faces[0].embedding, answers[1].faces[0].embedding)
        verdict = await service.faces.verify(FACES[0], FACES[1], inf, "v2")
        assert verdict.model_version == "v2"
        assert np.array_equal(verdict.face_b.embedding, answers[1].faces[1].embedding)
        with pytest.raises(PreconditionFailed, match="v1 is not loaded here, only v3 and v2"):
            await service.faces.embed(FACES, inf, "v1")
        with pytest.raises(PreconditionFailed, match="v1 is not loaded here"):
            await service.faces.verify(FACES[0], FACES[1], inf, "v1")


async def test_a_version_that_is_let_go_gives_its_memory_back_though_the_engine_idles():
    async with Service(cache_bytes=2**20) as service:
        service.models.serve(model("v1"))
        await service.faces.embed(FACES, inf)
        await service.faces.verify(FACES[0], FACES[1], inf)
        first = weakref.ref(service.models.serving.model)
        assert service.models.serve(model("v2")) is None
        assert first() is not None
        service.models.serve(model("v3"))
        await until(lambda: first() is None)
