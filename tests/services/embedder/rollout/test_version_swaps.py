"""Swaps of real networks through a real store: under load, and to damaged versions."""

import asyncio
import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from deploy.local.s3_nanio import NanioServer
from services.embedder.settings import EmbedderSettings
from shared.model.sessions.base import split_features
from shared.registry.shadow_pointer import ShadowPointer, clear_shadow, write_shadow
from tests.services.embedder import broken
from tests.services.embedder.conftest import VERSIONS, Registry
from tests.services.embedder.faces import crops, image, image_side, large_image, vector
from tests.services.embedder.serving import Client, running_embedder
from tests.support.waiting import until

CROPS = crops(4)
A, B = VERSIONS
C = "iresnet18w4-c"


@pytest.fixture(scope="module")
def references(bare_sessions) -> dict[str, np.ndarray]:
    """Expected embeddings of each version; C is A's network under another name."""
    found = {version: split_features(s.run(CROPS))[0] for version, s in bare_sessions.items()}
    return found | {C: found[A]}


@dataclass
class _Scene:
    settings: EmbedderSettings
    registry: Registry
    references: dict[str, np.ndarray]
    folders: dict[str, Path]
    bad: Path


@pytest.fixture
def scene(embedder_settings, published, references, tiny_versions, tmp_path) -> _Scene:
    """A and B are published, and A serves; `bad` is a copy of B for tests to damage."""
    bad = broken.renamed(tiny_versions[B], tmp_path / "bad")
    return _Scene(embedder_settings, published, references, tiny_versions, bad)


class _Load:
    """Callers without pauses, and the answers they got."""

    def __init__(self, client: Client, references: dict[str, np.ndarray]) -> None:
        self.seen: Counter[str] = Counter()
        self.failed: list[grpc.aio.AioRpcError] = []
        self.mixed = 0
        self._client, self._references = client, references
        self._stopped = False

    async def __aenter__(self) -> "_Load":
        callers = [self._embed, self._embed, self._embed, self._verify, self._verify]
        self._callers = [asyncio.create_task(self._loop(caller)) for caller in callers]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.gather(*self._callers)

    async def sees(self, version: str) -> None:
        """Waits for some more answers of a version."""
        before = self.seen[version]
        await until(lambda: self.seen[version] >= before + 5)

    async def _loop(self, call) -> None:
        while not self._stopped:
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                self.failed.append(error)

    async def _embed(self) -> None:
        response = await self._client.embed(*map(image, CROPS))
        self._check(response.model_version, response.faces, self._references)

    async def _verify(self) -> None:
        response = await self._client.verify(image_side(CROPS[0]), image_side(CROPS[1]))
        self._check(response.model_version, (response.face_a, response.face_b), self._references)

    def _check(self, version: str, faces, references) -> None:
        self.seen[version] += 1
        got = np.stack([vector(face) for face in faces])
        self.mixed += not np.allclose(got, references[version][: len(got)], atol=1e-5)


async def test_swaps_and_rollbacks_under_load_fail_nothing_and_mix_nothing(scene, tmp_path):
    scene.registry.publish(broken.renamed(scene.folders[A], tmp_path / C))
    # Some of the images of a call are cached, some are not: room for three of the four.
    settings = scene.settings.model_copy(update={"cache_bytes": 3 * 1000})
    async with running_embedder(settings) as client:
        await client.until_serving(A)
        async with _Load(client, scene.references) as load:
            for version in (B, A, B, C, A, C, B):
                scene.registry.promote(version)
                await client.until_serving(version)
                await load.sees(version)
    assert (load.failed, load.mixed) == ([], 0)
    assert set(load.seen) == {A, B, C}


async def test_swaps_while_large_pictures_are_decoded_fail_nothing(scene):
    numbers = itertools.count()
    async with running_embedder(scene.settings) as client:
        await client.until_serving(A)
        stopped, seen = False, Counter[str]()

        async def embed() -> None:
            while not stopped:
                response = await client.embed(large_image(next(numbers)))
                seen[response.model_version] += 1

        callers = [asyncio.create_task(embed()) for _ in range(3)]
        for version in (B, A, B):
            scene.registry.promote(version)
            await client.until_serving(version)
            before = seen[version]
            await until(lambda v=version, n=before: seen[v] > n + 2)
        stopped = True
        await asyncio.gather(*callers)
    assert set(seen) == {A, B}


async def test_a_promotion_serves_within_two_seconds_and_a_rollback_too(scene):
    settings = scene.settings.model_copy(update={"poll_interval_s": 0.5})
    async with running_embedder(settings) as client:
        await client.until_serving(A)
        for version in (B, A):
            scene.registry.promote(version)
            await client.until_serving(version, timeout_s=2)


async def _still_serves(client: Client, version: str, references: dict[str, np.ndarray]) -> None:
    response = await client.embed(*map(image, CROPS))
    assert response.model_version == version
    got = [vector(face) for face in response.faces]
    np.testing.assert_allclose(got, references[version], atol=1e-5)


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (broken.garbage, "cannot be loaded as an ONNX"),
        (broken.nan_weights, "NaN"),
        (broken.wrong_size, "64"),
        (broken.golden_mismatch, "self-check"),
    ],
)
async def test_swap_to_a_version_that_does_not_compute_leaves_the_old_one_serving(
    scene, break_it, why
):
    break_it(scene.bad, scene.folders[A])
    scene.registry.publish(scene.bad)
    await _refused(scene, why)


def _truncated(registry: Registry) -> None:
    key = broken.ONNX_KEY.format(version="bad")
    registry.objects.put(key, registry.objects.get(key)[:-1000])


def _replaced(registry: Registry) -> None:
    other = registry.objects.get(broken.ONNX_KEY.format(version=A))
    registry.objects.put(broken.ONNX_KEY.format(version="bad"), other)


def _lost(registry: Registry) -> None:
    registry.objects.remove(broken.ONNX_KEY.format(version="bad"))


def _damaged_manifest(registry: Registry) -> None:
    registry.objects.put("models/bad/manifest.json", b'{"format": 1, "model_ver')


def _unpublished(registry: Registry) -> None:
    registry.objects.remove("models/bad/manifest.json")


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (_truncated, "SHA-256"),
        (_replaced, "SHA-256"),
        (_lost, "lacks its file model.onnx"),
        (_damaged_manifest, "manifest"),
        (_unpublished, "not published"),
    ],
)
async def test_swap_to_a_version_damaged_in_the_store_leaves_the_old_one_serving(
    scene, break_it, why
):
    scene.registry.publish(scene.bad)
    break_it(scene.registry)
    await _refused(scene, why)


async def _refused(scene: _Scene, why: str) -> None:
    async with running_embedder(scene.settings) as client:
        await client.until_serving(A)
        scene.registry.promote("bad")
        model = await client.until_swap_error()
        assert why in model.swap_error
        assert (model.model_version, model.pending_version) == (A, "bad")
        await _still_serves(client, A, scene.references)
        scene.registry.promote(B)
        await client.until_serving(B)
        assert (await client.model()).swap_error == ""


@pytest.fixture
def small_store(tmp_path, tiny_versions):
    """A store of this test's own, which it may kill, with both versions; A serves."""
    with NanioServer(tmp_path / "store") as server:
        registry = Registry(server.settings(), tmp_path)
        registry.objects.ensure_bucket()
        for folder in tiny_versions.values():
            registry.publish(folder)
        registry.promote(A)
        yield server, registry


async def _swap_s(client: Client, registry: Registry, version: str) -> float:
    """Promote a version and give the seconds until it serves."""
    registry.promote(version)
    started = time.monotonic()
    await client.until_serving(version)
    return time.monotonic() - started


async def test_store_away_changes_nothing_and_its_return_is_followed_within_two_seconds(
    small_store, embedder_settings, references, caplog
):
    server, registry = small_store
    settings = _on(embedder_settings, registry)
    async with running_embedder(settings) as client:
        await client.until_serving(A)
        usual_s = await _swap_s(client, registry, B)
        await asyncio.to_thread(server.kill)
        await until(lambda: "cannot read the serving pointer" in caplog.text)
        await _still_serves(client, B, references)
        assert (await client.model()).swap_error == ""
        await asyncio.to_thread(server.start)
        assert await _swap_s(client, registry, A) < usual_s + 2.0


async def test_a_cold_start_without_the_store_serves_the_local_copy(
    small_store, embedder_settings, references
):
    server, registry = small_store
    settings = _on(embedder_settings, registry)
    async with running_embedder(settings) as client:
        await client.until_serving(A)
    await asyncio.to_thread(server.kill)
    async with running_embedder(settings) as client:
        await client.until_serving(A)
        await _still_serves(client, A, references)
        await asyncio.to_thread(server.start)
        registry.promote(B)
        await client.until_serving(B)


async def test_a_local_copy_that_was_damaged_is_fetched_again(scene):
    async with running_embedder(scene.settings) as client:
        await client.until_serving(A)
    local = scene.settings.cache_dir / A / "model.onnx"
    local.write_bytes(bytes(local.stat().st_size))
    async with running_embedder(scene.settings) as client:
        await client.until_serving(A)
        await _still_serves(client, A, scene.references)


def _on(settings, registry: Registry):
    return settings.model_copy(
        update=registry.settings.model_dump() | {"poll_interval_s": 0.5, "s3_timeout_s": 2.0}
    )


async def test_only_what_is_used_stays_in_the_cache(scene, tmp_path):
    names = [f"iresnet18w4-{letter}" for letter in "cde"]
    for name in names:
        scene.registry.publish(broken.renamed(scene.folders[A], tmp_path / name))
    c, d, candidate = names

    def local() -> set[str]:
        return {path.parent.name for path in scene.settings.cache_dir.glob("*/manifest.json")}

    async with running_embedder(scene.settings) as client:
        await client.until_serving(A)
        write_shadow(scene.registry.objects, ShadowPointer(model_version=candidate))
        for version in (B, c, d):
            scene.registry.promote(version)
            await client.until_serving(version)
        await until(lambda: local() == {c, d, candidate})
        clear_shadow(scene.registry.objects)
        await until(lambda: local() == {c, d})
        scene.registry.promote(c)
        await client.until_serving(c, timeout_s=2)
        scene.registry.promote(A)
        await client.until_serving(A)
        await until(lambda: local() == {A, c})


async def test_a_network_that_loops_is_given_up_and_ended_and_the_next_serves(scene):
    broken.endless(scene.bad, scene.folders[A])
    scene.registry.publish(scene.bad)
    settings = scene.settings.model_copy(update={"load_timeout_s": 1.5})
    async with running_embedder(settings) as client:
        await client.until_serving(A)
        scene.registry.promote("bad")
        await until(lambda: _threads("load-bad"))
        refused = await client.until_swap_error()
        assert "model version bad took longer than 1.5 s" in refused.swap_error
        assert (await client.embed(image(CROPS[0]))).model_version == A
        await until(lambda: not _threads("load-bad"), 10)
        scene.registry.promote(B)
        await client.until_serving(B)


async def test_a_version_is_not_delayed_by_one_that_loops_and_is_not_wanted_any_more(scene):
    broken.endless(scene.bad, scene.folders[A])
    scene.registry.publish(scene.bad)
    async with running_embedder(scene.settings) as client:
        await client.until_serving(A)
        scene.registry.promote("bad")
        await until(lambda: _threads("load-bad"))
        await asyncio.sleep(1)
        scene.registry.promote(B)
        await client.until_serving(B)
        await until(lambda: not _threads("load-bad"), 10)


def _threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]
