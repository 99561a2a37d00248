"""Verify, with a stand-in session and no server."""

from math import inf

import numpy as np
import pytest

from shared.errors import InvalidInput, PreconditionFailed
from tests.services.embedder.domain import FACES, Service, stored
from tests.services.embedder.standin import model


async def test_verify_does_not_depend_on_the_order_of_its_sides():
    async with Service() as service:
        service.models.serve(model("v1"))
        ab = await service.faces.verify(FACES[0], FACES[1], inf)
        ba = await service.faces.verify(FACES[1], FACES[0], inf)
        same = await service.faces.verify(FACES[0], FACES[0], inf)
    assert ab.similarity == ba.similarity
    assert np.array_equal(ab.face_a.embedding, ba.face_b.embedding)
    assert same.similarity == pytest.approx(1.0, abs=1e-6)
    assert same.same


async def test_verify_takes_both_sides_in_one_batch():
    async with Service() as service:
        serving = model("v1")
        service.models.serve(serving)
        await service.faces.verify(FACES[0], FACES[1], inf)
    assert serving.session.batches == [2]


async def test_a_stored_embedding_compares_as_its_image_does():
    async with Service() as service:
        service.models.serve(model("v1"))
        images = await service.faces.verify(FACES[0], FACES[1], inf)
        kept = stored(images.face_a.embedding)
        mixed = await service.faces.verify(kept, FACES[1], inf)
        both = await service.faces.verify(kept, stored(images.face_b.embedding), inf)
    assert mixed.similarity == pytest.approx(images.similarity, abs=1e-6)
    assert both.similarity == pytest.approx(images.similarity, abs=1e-6)
    assert (mixed.face_a, both.face_a, both.face_b) == (None, None, None)


async def test_a_stored_embedding_of_another_version_is_refused_unless_it_is_compatible():
    async with Service() as service:
        service.models.serve(model("v2", compatible=("v1",)))
        unit = np.eye(8, dtype=np.float32)[0]
        assert (await service.faces.verify(stored(unit, "v1"), FACES[0], inf)).same in (
            True,
            False,
        )
        with pytest.raises(PreconditionFailed, match=r"b.stored.model_version: embeddings of v0"):
            await service.faces.verify(FACES[0], stored(unit, "v0"), inf)


async def test_stored_embeddings_of_two_older_versions_are_not_compared():
    async with Service() as service:
        service.models.serve(model("v3", compatible=("v1", "v2")))
        unit = np.eye(8, dtype=np.float32)[0]
        with pytest.raises(PreconditionFailed, match="v1 and v2"):
            await service.faces.verify(stored(unit, "v1"), stored(unit, "v2"), inf)
        assert (await service.faces.verify(stored(unit, "v1"), stored(unit, "v1"), inf)).same


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
    async with Service() as service:
        service.models.serve(model("v1"))
        with pytest.raises(InvalidInput, match=rf"^a.stored.embedding: .*{why}"):
            await service.faces.verify(stored(vector), FACES[0], inf)


async def test_a_stored_embedding_a_little_off_unit_length_is_scaled_back():
    async with Service() as service:
        service.models.serve(model("v1"))
        embedding = (await service.faces.embed(FACES[:1], inf)).faces[0].embedding
        verdict = await service.faces.verify(stored(embedding * 1.0005), FACES[0], inf)
    assert verdict.similarity == pytest.approx(1.0, abs=1e-6)
