"""The feedback service's client of the embedder, against real embedders."""

import asyncio
from contextlib import AsyncExitStack

import numpy as np
import pytest

from services.feedback.pool.embedder_client import EmbedderClient, open_embedder
from shared.errors import InvalidInput, PreconditionFailed
from shared.model.image.face import FaceImage
from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.faces import crops, image
from tests.services.embedder.process import EmbedderProcess
from tests.services.embedder.serving import running_embedder
from tests.support.waiting import until

FACES = [FaceImage(image(crop).data, "aligned") for crop in crops(4)]


@pytest.mark.usefixtures("published")
async def test_it_embeds_with_the_domains_types_and_errors(embedder_settings, bare_sessions):
    async with running_embedder(embedder_settings) as served:
        await served.until_serving(VERSIONS[0])
        client = EmbedderClient(lambda: served.channel)
        model = await client.model()
        assert (model.model_version, model.dimensions, model.threshold) == (VERSIONS[0], 32, 0.25)
        embedded = await client.embed(FACES)
        raw = bare_sessions[VERSIONS[0]].run(crops(4))
        np.testing.assert_allclose(embedded.magnitudes, np.linalg.norm(raw, axis=1), rtol=1e-4)
        unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        np.testing.assert_allclose(embedded.embeddings, unit, atol=1e-5)
        assert embedded.qualities.shape == (4,)
        with pytest.raises(InvalidInput, match=r"images\[1\]"):
            await client.embed([FACES[0], FaceImage(b"no picture", "aligned")])
        with pytest.raises(PreconditionFailed, match="elsewhere"):
            await client.embed(FACES, "elsewhere")


@pytest.mark.usefixtures("published")
async def test_no_call_fails_when_one_of_two_replicas_is_killed_under_load(
    embedder_settings, tmp_path
):
    async with AsyncExitStack() as stack:
        replicas, addresses = [], []
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            settings = embedder_settings.model_copy(update={"cache_dir": folder / "cache"})
            # Every call is to be computed.
            process = EmbedderProcess(settings, folder, MAGFACE_CACHE_BYTES="0")
            replicas.append(stack.enter_context(process))
            addresses.append(await asyncio.to_thread(process.start))
        client = await stack.enter_async_context(open_embedder("ipv4:" + ",".join(addresses)))
        await until(lambda: _serves(client))
        answered = [0]

        async def keep_calling() -> None:
            while not stop.is_set():
                assert (await client.embed(FACES)).model_version == VERSIONS[0]
                answered[0] += 1

        stop = asyncio.Event()
        async with asyncio.TaskGroup() as callers:
            for _ in range(8):
                callers.create_task(keep_calling())
            await until(lambda: all(each.embeds_started() > 20 for each in replicas))
            replicas[0].kill()
            killed_at = answered[0]
            await until(lambda: answered[0] > killed_at + 100)
            stop.set()


async def _serves(client: EmbedderClient) -> bool:
    return (await client.model()).model_version == VERSIONS[0]
