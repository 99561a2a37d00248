"""The embedder over real gRPC, with real networks."""

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from magface.v1 import embedder_pb2 as pb
from magface.v1 import image_pb2
from onnxruntime import InferenceSession
from prometheus_client import REGISTRY

from services.embedder import metrics
from services.embedder.settings import EmbedderSettings
from shared.model.sessions.base import split_features
from shared.registry.erasure_mark import write_erasure_mark
from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.faces import crops, image, image_side, png, stored_side, vector
from tests.services.embedder.serving import Client, running_embedder
from tests.support.decoding import hide_detector
from tests.support.waiting import until

CROPS = crops(8)


@pytest.fixture
async def client(embedder_settings, published):  # noqa: ARG001
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(VERSIONS[0])
        yield client


def _reference(session, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return split_features(session.run(faces))


async def _refusal(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value


async def _health(client: Client) -> int:
    stub = health_pb2_grpc.HealthStub(client.channel)
    service = "magface.v1.EmbedderService"
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)).status


async def test_embed_gives_what_the_engine_gives(client, bare_sessions):
    response = await client.embed(*map(image, CROPS))
    embeddings, magnitudes = _reference(bare_sessions[VERSIONS[0]], CROPS)
    np.testing.assert_allclose([vector(face) for face in response.faces], embeddings, atol=1e-5)
    np.testing.assert_allclose([face.magnitude for face in response.faces], magnitudes, rtol=1e-5)
    assert all(0 <= face.quality <= 1 for face in response.faces)
    assert response.model_version == VERSIONS[0]


async def test_verify_compares_images_and_stored_embeddings(client, bare_sessions):
    embeddings, _ = _reference(bare_sessions[VERSIONS[0]], CROPS[:2])
    expected = float(embeddings[0] @ embeddings[1])
    sides = [
        [image_side(crop), stored_side(embedding, VERSIONS[0])]
        for crop, embedding in zip(CROPS, embeddings, strict=False)
    ]
    for a in sides[0]:
        for b in sides[1]:
            answer, swapped = await client.verify(a, b), await client.verify(b, a)
            assert answer.similarity == pytest.approx(expected, abs=1e-5)
            assert answer.similarity == pytest.approx(swapped.similarity, abs=1e-5)
            assert answer.threshold == pytest.approx(0.25)
            same = answer.similarity >= answer.threshold
            assert answer.decision == (pb.DECISION_SAME if same else pb.DECISION_DIFFERENT)
            assert answer.HasField("face_a") == a.HasField("image")
            assert answer.HasField("face_b") == b.HasField("image")


async def test_a_face_is_the_same_person_as_itself(client):
    answer = await client.verify(image_side(CROPS[0]), image_side(CROPS[0]))
    assert answer.similarity == pytest.approx(1.0, abs=1e-5)
    assert answer.decision == pb.DECISION_SAME


async def test_get_model_describes_what_serves(client):
    model = await client.model()
    assert model.architecture == "iresnet18w4"
    assert (model.embedding_size, model.channel_order) == (32, "bgr")
    assert model.engine == "onnxruntime:cpu"
    assert model.threshold == pytest.approx(0.25)
    assert model.serving_since.seconds > 0
    assert (model.pending_version, model.swap_error) == ("", "")


@pytest.mark.usefixtures("published")
async def test_both_engines_agree(embedder_settings):
    faces = {}
    for engine in ("onnxruntime", "torch"):
        settings = embedder_settings.model_copy(update={"engine": engine})
        async with running_embedder(settings) as client:
            await client.until_serving(VERSIONS[0])
            assert (await client.model()).engine == f"{engine}:cpu"
            faces[engine] = (await client.embed(*map(image, CROPS))).faces
    for onnx, torch in zip(*faces.values(), strict=True):
        assert vector(onnx) @ vector(torch) >= 0.9999
        assert onnx.magnitude == pytest.approx(torch.magnitude, rel=1e-3)


def _bad_images() -> dict[str, tuple[image_pb2.Image, str, str]]:
    whole = png(CROPS[0])
    aligned, landmarks = image_pb2.ALIGNMENT_ALIGNED, image_pb2.ALIGNMENT_LANDMARKS
    points = [image_pb2.Point(x=1, y=1)] * 4
    wide = png(np.zeros((50, 100, 3), np.uint8))
    return {
        "empty": (image_pb2.Image(data=b""), "data", "is empty"),
        "truncated": (image_pb2.Image(data=whole[:-200], alignment=aligned), "data", "cut short"),
        "not an image": (image_pb2.Image(data=b"hello world"), "data", "is text"),
        "too many bytes": (image_pb2.Image(data=whole + bytes(2**20)), "data", "at most 1048576"),
        "too many pixels": (
            image_pb2.Image(data=png(np.zeros((400, 400, 3), np.uint8))),
            "data",
            "160000 pixels",
        ),
        "not square": (image_pb2.Image(data=wide, alignment=aligned), "data", "must be square"),
        "unknown size": (image_pb2.Image(data=wide), "alignment", "unspecified"),
        "unknown alignment": (image_pb2.Image(data=whole, alignment=9), "alignment", "is 9"),
        "four landmarks": (
            image_pb2.Image(data=whole, alignment=landmarks, landmarks=points),
            "landmarks",
            "4 points",
        ),
    }


@pytest.fixture
async def strict_client(embedder_settings, published):  # noqa: ARG001
    limits = {"image_max_bytes": 2**20, "image_max_pixels": 150_000}
    async with running_embedder(embedder_settings.model_copy(update=limits)) as client:
        await client.until_serving(VERSIONS[0])
        yield client


async def test_bad_images_are_named_with_why_and_the_service_goes_on(strict_client):
    for bad, field, why in _bad_images().values():
        error = await _refusal(strict_client.embed(image(CROPS[0]), bad))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details().startswith(f"images[1].{field}: ")
        assert why in error.details()
        error = await _refusal(strict_client.verify(image_side(CROPS[0]), pb.VerifySide(image=bad)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details().startswith(f"b.image.{field}: ")
    assert len((await strict_client.embed(image(CROPS[0]))).faces) == 1
    assert await _health(strict_client) == health_pb2.HealthCheckResponse.SERVING


async def test_no_image_and_65_images_are_refused(client):
    for count in (0, 65):
        error = await _refusal(client.embed(*[image(CROPS[0])] * count))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details().startswith(f"images: there are {count}")
    many = await client.embed(*map(image, crops(64)))
    assert len(many.faces) == 64


async def test_verify_names_the_side_that_is_missing_or_unusable(client):
    good = image_side(CROPS[0])
    cases = [
        (pb.VerifySide(), good, grpc.StatusCode.INVALID_ARGUMENT, "a: is not set"),
        (good, pb.VerifySide(), grpc.StatusCode.INVALID_ARGUMENT, "b: is not set"),
        (
            good,
            stored_side(bytes(100), VERSIONS[0]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "b.stored.embedding: has 100 bytes; 128 are needed",
        ),
        (
            stored_side(np.full(32, 0.5), VERSIONS[0]),
            good,
            grpc.StatusCode.INVALID_ARGUMENT,
            "a.stored.embedding: has length 2.828",
        ),
        (
            good,
            stored_side(np.eye(32)[0], VERSIONS[1]),
            grpc.StatusCode.FAILED_PRECONDITION,
            f"b.stored.model_version: embeddings of {VERSIONS[1]} are not comparable",
        ),
    ]
    for a, b, code, details in cases:
        error = await _refusal(client.verify(a, b))
        assert error.code() is code
        assert error.details().startswith(details)
    await client.verify(good, good)


async def test_before_the_first_promotion_health_is_not_serving_and_calls_are_unavailable(
    embedder_settings, registry, tiny_versions
):
    async with running_embedder(embedder_settings) as client:
        assert await _health(client) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await client.model()).model_version == ""
        error = await _refusal(client.embed(image(CROPS[0])))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        registry.publish(tiny_versions[VERSIONS[0]])
        registry.promote(VERSIONS[0])
        await client.until_serving(VERSIONS[0])

        async def serving() -> bool:
            return await _health(client) == health_pb2.HealthCheckResponse.SERVING

        await until(serving)


@pytest.mark.usefixtures("published")
async def test_a_full_server_refuses_with_retry_info_and_stays_healthy(embedder_settings):
    settings = embedder_settings.model_copy(update={"max_images": 64})
    async with running_embedder(settings) as client:
        await client.until_serving(VERSIONS[0])
        pictures = [[image(crop) for crop in crops(60, seed=call)] for call in range(6)]
        calls = [asyncio.ensure_future(client.embed(*each)) for each in pictures]
        assert await _health(client) == health_pb2.HealthCheckResponse.SERVING
        results = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert 1 <= len(refusals) <= 5
    for refusal in refusals:
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        retry = RetryInfo()
        assert rpc_status.from_call(refusal).details[0].Unpack(retry)
        assert 0.1 <= retry.retry_delay.ToNanoseconds() / 1e9 <= 10


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(("batch_images", "runs"), [(None, 3), (20, 1)])
async def test_the_batch_that_is_set_is_the_one_that_runs(
    embedder_settings, monkeypatch, batch_images, runs
):
    sizes = []

    class _Recorded(InferenceSession):
        def run(self, names, inputs, *args):
            (images,) = inputs.values()
            # The network of the face check takes smaller images.
            if images.shape[-1] == 112:
                sizes.append(len(images))
            return super().run(names, inputs, *args)

    monkeypatch.setattr("onnxruntime.InferenceSession", _Recorded)
    settings = EmbedderSettings(
        **embedder_settings.model_dump(exclude={"batch_images"}),
        **({"batch_images": batch_images} if batch_images else {}),
    )
    async with running_embedder(settings) as client:
        await client.until_serving(VERSIONS[0])
        sizes.clear()
        await client.embed(*map(image, crops(20)))
    assert (len(sizes), sum(sizes)) == (runs, 20)


async def test_an_image_without_a_face_is_refused_or_marked(client):
    black = image(np.zeros((112, 112, 3), np.uint8))
    refusal = await _refusal(client.embed(image(CROPS[0]), black))
    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.details().startswith("images[1].data: shows no face")
    black.on_no_face = image_pb2.ON_NO_FACE_MARK
    answer = await client.verify(pb.VerifySide(image=black), pb.VerifySide(image=black))
    assert answer.similarity == pytest.approx(1)
    assert answer.decision == pb.DECISION_DIFFERENT
    assert answer.face_a.no_face
    assert answer.face_b.no_face


async def test_a_repeated_image_is_answered_alike_and_not_computed_again(client):
    first = await client.embed(*map(image, CROPS))
    computed = metrics.CACHE_MISSES._value.get()
    again = await client.embed(*map(image, CROPS))
    assert again == first
    assert metrics.CACHE_MISSES._value.get() == computed


async def test_an_erasure_empties_the_cache(client, published):
    # The first reading of the mark clears the cache too, so that one erasure would prove nothing.
    for _ in range(2):
        await client.embed(*map(image, CROPS))
        assert REGISTRY.get_sample_value("magface_embedder_cache_bytes") > 0
        write_erasure_mark(published.objects)
        await until(lambda: REGISTRY.get_sample_value("magface_embedder_cache_bytes") == 0)


async def test_a_resident_version_can_be_asked_for_and_another_is_refused(
    client, published, bare_sessions
):
    first, second = VERSIONS
    published.promote(second)
    await client.until_serving(second)
    assert (await client.model()).resident_versions == [second, first]
    for version, session in bare_sessions.items():
        request = pb.EmbedRequest(images=map(image, CROPS), model_version=version)
        answer = await client.stub.Embed(request, timeout=20)
        assert answer.model_version == version
        wanted, _ = _reference(session, CROPS)
        np.testing.assert_allclose([vector(face) for face in answer.faces], wanted, atol=1e-5)
        sides = {"a": image_side(CROPS[0]), "b": image_side(CROPS[1])}
        request = pb.VerifyRequest(**sides, model_version=version)
        assert (await client.stub.Verify(request, timeout=20)).model_version == version
    request = pb.EmbedRequest(images=map(image, CROPS), model_version="iresnet18-gone")
    error = await _refusal(client.stub.Embed(request, timeout=20))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert f"only {second} and {first}" in error.details()


@pytest.mark.usefixtures("published")
async def test_raw_pictures_without_a_detector_say_how_to_get_one(
    embedder_settings, monkeypatch, tmp_path
):
    hide_detector(monkeypatch, tmp_path)
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(VERSIONS[0])
        raw = image_pb2.Image(data=png(CROPS[0]), alignment=image_pb2.ALIGNMENT_DETECT)
        listing = pb.DetectFacesRequest(image=raw)
        for call in (client.embed(raw), client.stub.DetectFaces(listing, timeout=20)):
            error = await _refusal(call)
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "pip install" in error.details()


PHOTOS = sorted(Path("../shared/faces/raw").glob("*.jpg"))[:2]


@pytest.mark.material
@pytest.mark.skipif(not PHOTOS, reason="needs ../shared/faces/raw")
async def test_raw_photographs_are_detected_and_aligned(client):
    raw = [
        image_pb2.Image(data=photo.read_bytes(), alignment=image_pb2.ALIGNMENT_DETECT)
        for photo in PHOTOS
    ]
    assert len((await client.embed(*raw)).faces) == 2
