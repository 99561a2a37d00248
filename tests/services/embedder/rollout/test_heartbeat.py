"""Heartbeats of embedders in the registry."""

import pytest

from shared.registry.heartbeats import Replica, read_replicas
from shared.registry.shadow_pointer import ShadowPointer, clear_shadow, write_shadow
from tests.services.embedder.conftest import VERSIONS, Registry
from tests.services.embedder.faces import crops, image_side
from tests.services.embedder.serving import running_embedder
from tests.support.waiting import until

A, B = VERSIONS


def only(registry: Registry) -> Replica | None:
    found = read_replicas(registry.objects)
    assert len(found) <= 1
    return found[0] if found else None


async def test_it_says_what_it_serves_and_by_which_decision(embedder_settings, published):
    def follows(version: str, generation: int) -> bool:
        replica = only(published)
        return replica is not None and (replica.model_version, replica.generation) == (
            version,
            generation,
        )

    async with running_embedder(embedder_settings):
        await until(lambda: follows(A, 1))
        published.promote(B)
        await until(lambda: follows(B, 2))
        published.promote(B)
        await until(lambda: follows(B, 3))
        first = only(published)
        await until(lambda: only(published).beat > first.beat)
    assert only(published) is None


async def test_it_says_why_it_does_not_follow(embedder_settings, published):
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(A)
        published.promote("nowhere")
        await until(lambda: only(published).swap_error)
        replica = only(published)
        assert (replica.model_version, replica.generation) == (A, 0)
        assert "nowhere is not published" in replica.swap_error


async def test_two_embedders_have_two_names(embedder_settings, published):
    other = embedder_settings.model_copy(
        update={"cache_dir": embedder_settings.cache_dir.with_name("other")}
    )
    async with running_embedder(embedder_settings), running_embedder(other):
        await until(lambda: len(read_replicas(published.objects)) == 2)


async def test_it_says_what_the_candidate_in_the_shadow_did(embedder_settings, published):
    settings = embedder_settings.model_copy(update={"shadow_share": 1.0})
    faces = crops(2)
    async with running_embedder(settings) as client:
        await client.until_serving(A)
        assert only(published).shadow_version == ""
        write_shadow(published.objects, ShadowPointer(model_version=B))

        async def judged() -> bool:
            await client.verify(image_side(faces[0]), image_side(faces[1]))
            return only(published).shadow_pairs >= 3

        await until(judged)
        asked, told = await client.model(), only(published)
        assert (told.shadow_version, told.shadow_error) == (B, "")
        assert told.shadow_agreement == asked.shadow_agreement
        assert told.shadow_similarity_shift == pytest.approx(asked.shadow_similarity_shift)
        clear_shadow(published.objects)
        await until(lambda: only(published).shadow_version == "")
        assert only(published).shadow_pairs == 0


async def test_it_says_why_it_cannot_try_the_candidate(embedder_settings, published):
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(A)
        write_shadow(published.objects, ShadowPointer(model_version="nowhere"))
        await until(lambda: "nowhere is not published" in only(published).shadow_error)
        assert (only(published).shadow_version, only(published).model_version) == ("nowhere", A)
