"""An embedder with the trainer's public key serves what the trainer has signed, and only that."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.embedder.rollout.newest_pointer import NewestPointer
from services.embedder.settings import EmbedderSettings
from shared.errors import CorruptData
from shared.registry.serving_pointer import POINTER_KEY, ServingPointer, write_pointer
from shared.registry.signed_objects import SignedObjects
from shared.registry.version_store import VersionStore
from shared.storage.objects import ObjectStore
from tests.services.embedder.conftest import VERSIONS, Registry
from tests.services.embedder.serving import Client, running_embedder
from tests.support.tokens import Issuer, write_jwks, write_signing_key

A, B = VERSIONS


async def _goes_on_serving(client: Client, version: str) -> None:
    """Look for as long as an embedder takes to follow a pointer several times over."""
    for _ in range(10):
        await asyncio.sleep(0.1)
        assert (await client.model()).model_version == version


async def test_a_writer_to_the_bucket_cannot_choose_what_serves(
    registry: Registry,
    tiny_versions: dict[str, Path],
    embedder_settings: EmbedderSettings,
    tmp_path: Path,
) -> None:
    issuer = Issuer()
    key = write_signing_key(tmp_path / "key", issuer)
    bucket, trainer = registry.objects, SignedObjects(registry.settings, signing_key=key)
    settings = embedder_settings.model_copy(
        update={"model_jwks": write_jwks(tmp_path / "jwks", issuer)}
    )
    # B is in the bucket, but the trainer has not published it.
    registry.publish(tiny_versions[B])
    VersionStore(trainer, tmp_path / "trainer").publish(tiny_versions[A])
    registry.objects = trainer
    registry.promote(A)
    first = bucket.get(POINTER_KEY)
    registry.promote(A, target_fmr=None, prior=0.4)
    second = bucket.get(POINTER_KEY)
    forged = ServingPointer(model_version=B, generation=99, published_at=datetime.now(UTC))
    async with running_embedder(settings) as client:
        await client.until_serving(A)
        write_pointer(ObjectStore(registry.settings), forged)
        await _goes_on_serving(client, A)
        # Signed, but earlier.
        bucket.put(POINTER_KEY, first)
        await _goes_on_serving(client, A)
        assert (await client.model()).prior == pytest.approx(0.4)
        # Signed, but the manifest of the version is not.
        bucket.put(POINTER_KEY, second)
        registry.promote(B)
        error = (await client.until_swap_error()).swap_error
        assert "is not signed" in error
        await _goes_on_serving(client, A)
        bucket.remove(f"models/{B}/manifest.json")
        VersionStore(trainer, tmp_path / "trainer").publish(tiny_versions[B])
        registry.promote(B)
        await client.until_serving(B)


async def test_copies_from_before_the_key_are_not_used(
    registry: Registry,
    tiny_versions: dict[str, Path],
    embedder_settings: EmbedderSettings,
    tmp_path: Path,
) -> None:
    registry.publish(tiny_versions[A])
    registry.promote(A)
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(A)
    jwks = write_jwks(tmp_path / "jwks", Issuer())
    settings = embedder_settings.model_copy(update={"model_jwks": jwks})
    async with running_embedder(settings) as client:
        await asyncio.sleep(1)
        assert not (await client.model()).model_version


def test_the_newest_generation_is_kept_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "newest"
    generation = 3

    def read() -> ServingPointer:
        return ServingPointer(
            model_version="v1", generation=generation, published_at=datetime.now(UTC)
        )

    assert NewestPointer(read, path).read() is not None
    generation = 2
    with pytest.raises(CorruptData, match="generation 2, and 3 was read before"):
        NewestPointer(read, path).read()
    generation = 3
    assert NewestPointer(read, path).read() is not None
    path.write_text("nonsense")
    generation = 1
    assert NewestPointer(read, path).read() is not None
    assert NewestPointer(lambda: None, path).read() is None
