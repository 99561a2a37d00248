"""Pointers and manifests count only if the trainer has signed them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shared.errors import CorruptData, NotFound, PreconditionFailed
from shared.registry.serving_pointer import (
    POINTER_KEY,
    ServingPointer,
    read_pointer,
    write_pointer,
)
from shared.registry.shadow_pointer import SHADOW_KEY, ShadowPointer, read_shadow, write_shadow
from shared.registry.signed_objects import SignedObjects
from shared.registry.version_store import VersionStore
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.shared.registry.versions import write_version
from tests.support.tokens import Issuer, write_jwks, write_signing_key

MANIFEST_KEY = "models/v1/manifest.json"
KEYS = (POINTER_KEY, SHADOW_KEY, MANIFEST_KEY)
POINTER = ServingPointer(
    model_version="v1", generation=3, published_at=datetime(2026, 1, 1, tzinfo=UTC)
)


class World:
    """A trainer with a key, an embedder that trusts it, and a writer to the bucket."""

    def __init__(self, settings: ObjectStoreSettings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.issuer = Issuer()
        self.jwks = write_jwks(folder / "jwks", self.issuer)
        self.trainer = self.signing_with(self.issuer)
        self.embedder = SignedObjects(settings, trusted=self.jwks)
        self.bucket = ObjectStore(settings)
        self.version = folder / "v1"
        write_version(self.version, "v1", size=1000)

    def signing_with(self, issuer: Issuer) -> SignedObjects:
        name = f"key-{issuer.key.kid}"
        return SignedObjects(
            self.settings, signing_key=write_signing_key(self.folder / name, issuer)
        )

    def publish(self, objects: ObjectStore) -> None:
        write_pointer(objects, POINTER)
        write_shadow(objects, ShadowPointer(model_version="v1"))
        VersionStore(objects, self.folder / "trainer").publish(self.version)

    def read(self, key: str, objects: ObjectStore | None = None) -> Any:
        """Read an object of one of the three kinds as an embedder does."""
        objects = objects or self.embedder
        if key == POINTER_KEY:
            return read_pointer(objects)
        if key == SHADOW_KEY:
            return read_shadow(objects)
        return VersionStore(objects, self.folder / "cache").fetch("v1")


@pytest.fixture
def world(object_store_settings: ObjectStoreSettings, tmp_path: Path) -> World:
    return World(object_store_settings, tmp_path)


def test_what_the_trainer_writes_is_read(world: World) -> None:
    world.publish(world.trainer)
    # The trainer trusts its own key, and a reader without keys needs none.
    for reader in (world.embedder, world.trainer, SignedObjects(world.settings)):
        assert read_pointer(reader) == POINTER
        assert read_shadow(reader) == ShadowPointer(model_version="v1")
    assert (world.read(MANIFEST_KEY) / "model.onnx").exists()


def test_without_keys_nothing_is_signed(world: World) -> None:
    world.publish(SignedObjects(world.settings))
    plain = ObjectStore(world.settings)
    assert read_pointer(plain) == POINTER
    assert json.loads(plain.get(MANIFEST_KEY))["model_version"] == "v1"


def test_other_objects_are_not_signed(world: World) -> None:
    for key in ("registry/erasure.json", "models/v1/model.onnx", "images/x", "manifest.json"):
        world.trainer.put(key, b"content")
        assert world.bucket.get(key) == world.embedder.get(key) == b"content"


def _plain(world: World, key: str) -> None:
    world.bucket.put(key, json.loads(world.bucket.get(key))["content"].encode())


def _by_another(world: World, key: str) -> None:
    content = json.loads(world.bucket.get(key))["content"].encode()
    world.signing_with(Issuer()).put(key, content)


def _changed(world: World, key: str) -> None:
    signed = json.loads(world.bucket.get(key))
    signed["content"] = signed["content"].replace("v1", "v2")
    world.bucket.put(key, json.dumps(signed).encode())


def _of_another_place(world: World, key: str) -> None:
    other = next(one for one in KEYS if one != key)
    world.bucket.put(key, world.bucket.get(other))


def _without_signature(world: World, key: str) -> None:
    signed = json.loads(world.bucket.get(key))
    world.bucket.put(key, json.dumps({"jws": "", "content": signed["content"]}).encode())


def _nonsense(world: World, key: str) -> None:
    world.bucket.put(key, b'{"jws": 7}')


def _truncated(world: World, key: str) -> None:
    world.bucket.put(key, world.bucket.get(key)[:-5])


FORGERIES = (
    *(_plain, _by_another, _changed, _of_another_place),
    *(_without_signature, _nonsense, _truncated),
)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("forge", FORGERIES)
def test_a_writer_to_the_bucket_cannot_make_an_object_count(
    world: World, key: str, forge: Callable[[World, str], None]
) -> None:
    world.publish(world.trainer)
    forge(world, key)
    with pytest.raises(CorruptData, match=key):
        world.read(key)


def test_a_replaced_network_does_not_match_the_signed_manifest(world: World) -> None:
    world.publish(world.trainer)
    world.bucket.put("models/v1/model.onnx", b"x" * 1000)
    with pytest.raises(CorruptData, match=r"model\.onnx"):
        world.read(MANIFEST_KEY)


def test_what_is_gone_is_gone(world: World) -> None:
    with pytest.raises(NotFound):
        world.read(MANIFEST_KEY)
    assert read_pointer(world.embedder) is None


def test_keys_are_replaced_while_an_embedder_runs(world: World) -> None:
    world.publish(world.trainer)
    new = Issuer()
    trainer = world.signing_with(new)
    write_pointer(trainer, POINTER)
    with pytest.raises(CorruptData):
        read_pointer(world.embedder)
    write_jwks(world.jwks, world.issuer, new)
    assert read_pointer(world.embedder) == POINTER
    assert read_shadow(world.embedder) is not None
    write_jwks(world.jwks, new)
    with pytest.raises(CorruptData):
        read_shadow(world.embedder)


def test_manifests_from_before_the_key_are_signed(world: World) -> None:
    world.publish(ObjectStore(world.settings))
    store = VersionStore(world.trainer, world.folder / "trainer")
    manifest = VersionStore(world.bucket, world.folder / "other").manifest("v1")
    with pytest.raises(CorruptData):
        world.read(MANIFEST_KEY)
    assert store.restore_manifest(manifest)
    assert not store.restore_manifest(manifest)
    assert world.read(MANIFEST_KEY)


@pytest.mark.parametrize("content", ["", "{}", "[]", "public"])
def test_a_key_that_cannot_be_used_is_named(
    object_store_settings: ObjectStoreSettings, tmp_path: Path, content: str
) -> None:
    issuer = Issuer()
    path = tmp_path / "key"
    path.write_text(json.dumps(issuer.public()) if content == "public" else content)
    with pytest.raises(PreconditionFailed, match=r"^MAGFACE_MODEL_SIGNING_KEY: "):
        SignedObjects(object_store_settings, signing_key=path)
    path.write_text(content)
    with pytest.raises(PreconditionFailed, match=r"^MAGFACE_MODEL_JWKS: "):
        SignedObjects(object_store_settings, trusted=path)
