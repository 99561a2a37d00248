"""The Python client's rebase of a caller's store, on a real embedder that swaps versions."""

import asyncio
import random
from pathlib import Path

import numpy as np
import pytest
from magface_client import Access, Client, Face, InvalidArgumentError, RebaseProgress

from services.embedder.server import SERVICE_NAME, embedder
from shared.rpc.server.runner import running_server
from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.faces import crops, png
from tests.services.embedder.serving import wait_until_serving

A, B = VERSIONS
PICTURES = [png(crop) for crop in crops(8)] * 6


class Store:
    """Records with an image each; it fails after some records were saved, if told so."""

    def __init__(self) -> None:
        self.images: dict[int, bytes | Path] = dict(enumerate(PICTURES))
        self.faces: dict[int, Face] = {}
        self.asked: list[int] = []
        self.saves_left = 10**6

    def fill(self, client: Client) -> None:
        for answer in client.embed_stream(self.images.items()):
            assert answer.face is not None
            self.faces[answer.key] = answer.face

    def outdated(self, model_version: str) -> list[tuple[int, float | None]]:
        found = [
            (key, face.quality if key != 7 else None)
            for key, face in self.faces.items()
            if face.model_version != model_version
        ]
        random.Random(0).shuffle(found)
        return found

    def image(self, key: int) -> bytes | Path:
        self.asked.append(key)
        return self.images[key]

    def save(self, key: int, face: Face) -> None:
        if self.saves_left == 0:
            raise ConnectionError("the store is gone")
        self.saves_left -= 1
        self.faces[key] = face


@pytest.fixture
async def client(embedder_settings, published):  # noqa: ARG001
    async with running_server(
        embedder_settings, SERVICE_NAME, embedder(embedder_settings)
    ) as address:
        with Client(embedder=address, access=Access()) as client:
            await asyncio.to_thread(wait_until_serving, client, A)
            yield client


async def test_it_goes_on_where_it_stopped_lowest_quality_first(client, published):
    def run() -> None:
        store = Store()
        store.fill(client)
        before = {key: face.quality for key, face in store.faces.items()}
        published.promote(B)
        wait_until_serving(client, B)
        store.saves_left = 10
        with pytest.raises(ConnectionError, match="the store is gone"):
            client.rebase(store)
        assert sum(face.model_version == B for face in store.faces.values()) == 10
        first, store.asked, store.saves_left = store.asked, [], 10**6
        left = {key for key, face in store.faces.items() if face.model_version != B}
        missing, broken = sorted(left)[:2]
        store.images |= {missing: Path("no-such.png"), broken: b"no image"}
        seen: list[RebaseProgress] = []
        report = client.rebase(store, progress=seen.append)
        assert set(store.asked) == left
        for asked in (first, store.asked):
            without = [before[key] for key in asked if key != 7]
            assert without == sorted(without)
            assert asked.index(7) == 0 if 7 in asked else True
        assert report.model_version == B
        assert report.saved == len(left) - len(report.failed)
        assert report.failed.keys() == {missing, broken}
        assert isinstance(report.failed[missing], FileNotFoundError)
        assert isinstance(report.failed[broken], InvalidArgumentError)
        assert (seen[-1].saved, seen[-1].total) == (report.saved, len(left))
        direct = client.embed_many(PICTURES[:8], model_version=B)
        for key, face in store.faces.items():
            if key not in report.failed:
                assert face.model_version == B
                assert np.dot(face.vector, direct[key % 8].vector) > 0.999
        store.images |= dict(enumerate(PICTURES))
        assert client.rebase(store).saved == len(report.failed)
        assert client.rebase(store).saved == 0

    await asyncio.to_thread(run)


async def test_a_promotion_meanwhile_is_followed(client, published):
    def run() -> None:
        store = Store()
        store.fill(client)
        published.promote(B)
        wait_until_serving(client, B)
        promoted = []

        def promote(_: RebaseProgress) -> None:
            if not promoted:
                promoted.append(published.promote(A))
                wait_until_serving(client, A)

        report = client.rebase(store, progress=promote)
        assert report.model_version == A
        assert {face.model_version for face in store.faces.values()} == {A}

    await asyncio.to_thread(run)
