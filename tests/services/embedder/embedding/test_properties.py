"""Properties of the service that hold for random sequences of calls and swaps."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from math import inf

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.embedder.embedding.cache import EmbeddingCache
from services.embedder.embedding.service import FaceEmbedder
from services.embedder.embedding.verification import StoredEmbedding
from services.embedder.inference.pipeline import Pipeline
from services.embedder.inference.requests import deliver_on
from services.embedder.models.resident import LoadedModel, ResidentModels
from services.embedder.models.version_threads import VersionThreads
from services.embedder.rollout.shadow import ShadowEvaluator
from shared.decoding.admission import Admission
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.model.manifest import read_manifest
from shared.model.sessions.base import split_features
from shared.settings import ImageLimits
from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.faces import crops, png
from tests.services.embedder.standin import features_of, load, model, number_of
from tests.support.decoding import decode_pool

CROPS = crops(6)
FACES = [FaceImage(png(crop), "aligned") for crop in CROPS]
READER = FaceReader(ImageLimits())

_PLACES = st.integers(0, len(FACES) - 1)
_EMBED = st.tuples(
    st.just("embed"), st.lists(_PLACES, min_size=1, max_size=5), st.sampled_from(["", "v1", "v2"])
)
_OTHERS = st.tuples(
    st.sampled_from(["flip", "leave", "clear", "pause"]), st.integers(0, 20), st.just("")
)


@asynccontextmanager
async def _service(cache_bytes: int, batch_images: int):
    pipeline = Pipeline(READER, decode_pool(), batch_images, deliver_on(asyncio.get_running_loop()))
    models, admission = ResidentModels(), Admission(10_000, 2**30)
    shadow = ShadowEvaluator(
        models, decode_pool(), load, admission.idle, 0.0, threads=VersionThreads()
    )
    cache = EmbeddingCache(cache_bytes)
    pipeline.start()
    try:
        yield FaceEmbedder(models, pipeline, admission, cache, shadow.offer), models, cache
    finally:
        await pipeline.stop()


@settings(max_examples=40, deadline=None)
@given(
    actions=st.lists(st.one_of(_EMBED, _OTHERS), max_size=25),
    batch_images=st.integers(1, 6),
    cache_bytes=st.sampled_from([0, 2000, 2**20]),
)
async def test_every_call_that_stays_gets_the_vectors_of_one_version_and_nothing_is_computed_twice(
    actions, batch_images, cache_bytes
):
    loaded = {version: model(version) for version in ("v1", "v2")}
    calls, left = [], set()
    async with _service(cache_bytes, batch_images) as (faces, models, cache):
        for version in loaded.values():
            models.serve(version)
        for action, value, version in actions:
            match action:
                case "embed":
                    asked = [FACES[place] for place in value]
                    call = asyncio.create_task(faces.embed(asked, inf, version))
                    calls.append((call, value, version))
                case "leave" if value < len(calls):
                    left.add(calls[value][0])
                    calls[value][0].cancel()
                case "flip":
                    models.serve(loaded[f"v{1 + value % 2}"])
                case "clear":
                    cache.clear()
                case "pause":
                    await asyncio.sleep(value / 10_000)
        for call, places, version in calls:
            if call in left:
                continue
            answer = await call
            assert version in ("", answer.model_version)
            wanted, _ = split_features(features_of(CROPS[places], answer.model_version))
            np.testing.assert_allclose([f.embedding for f in answer.faces], wanted, atol=1e-5)
    if cache_bytes == 2**20 and not any(action in ("leave", "clear") for action, *_ in actions):
        for each in loaded.values():
            assert max(Counter(each.session.computed).values(), default=1) == 1


def test_the_faces_of_these_tests_can_be_told_apart():
    assert len({number_of(crop) for crop in CROPS}) == len(CROPS)


@pytest.fixture(scope="module")
def real(tiny_versions, bare_sessions) -> LoadedModel:
    version = VERSIONS[0]
    return LoadedModel(read_manifest(tiny_versions[version]), bare_sessions[version])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    places=st.tuples(_PLACES, _PLACES),
    stored=st.sets(st.sampled_from("ab")),
    warm=st.lists(_PLACES, max_size=3),
    cache_bytes=st.sampled_from([0, 2**20]),
)
async def test_verify_gives_the_same_for_a_and_b_as_for_b_and_a(
    real, places, stored, warm, cache_bytes
):
    a, b = places
    async with _service(cache_bytes, 4) as (faces, models, _):
        models.serve(real)
        if warm:
            await faces.embed([FACES[place] for place in warm], inf)
        sides = {"a": FACES[a], "b": FACES[b]}
        for name in stored:
            embedded = await faces.embed([sides[name]], inf)
            data = embedded.faces[0].embedding.astype("<f4").tobytes()
            sides[name] = StoredEmbedding(data, VERSIONS[0])
        ab = await faces.verify(sides["a"], sides["b"], inf)
        ba = await faces.verify(sides["b"], sides["a"], inf)
    assert ab.similarity == pytest.approx(ba.similarity, abs=1e-5)
    assert (ab.same, ab.threshold) == (ba.same, ba.threshold)
    vectors, _ = split_features(real.session.run(CROPS[[a, b]]))
    assert ab.similarity == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
