"""Changes of the operating point in real embedders, through a real store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from math import nan

import grpc
import numpy as np
import pytest
from magface.v1 import embedder_pb2 as pb

from deploy.local.s3_nanio import NanioServer
from services.embedder.settings import EmbedderSettings
from shared.model.manifest import read_manifest
from shared.registry.heartbeats import read_replicas
from shared.registry.serving_pointer import ServingPointer
from tests.services.embedder.conftest import VERSIONS, Registry
from tests.services.embedder.faces import crops, image_side, stored_side, vector
from tests.services.embedder.process import EmbedderProcess
from tests.services.embedder.serving import Client, running_embedder
from tests.support.waiting import until

A, B = VERSIONS
SIDES = [image_side(crop) for crop in crops(2)]

Terms = tuple[str, float, float | None]
"""Version, threshold and kept false-match rate of an answer, rounded."""


@pytest.fixture
def measured(registry: Registry, measured_versions) -> Registry:
    for folder in measured_versions.values():
        registry.publish(folder)
    return registry


def _terms(answer: pb.VerifyResponse | pb.GetModelResponse) -> Terms:
    kept = float(f"{answer.kept_fmr:.6g}") if answer.HasField("kept_fmr") else None
    return answer.model_version, round(answer.threshold, 6), kept


class _Load:
    """Callers of one embedder without pauses, and the answers of each in their order."""

    def __init__(self, client: Client) -> None:
        self.answers: list[list[pb.VerifyResponse]] = [[], [], []]
        self.named: list[pb.VerifyResponse] = []
        self.failed: list[grpc.aio.AioRpcError] = []
        self._client = client
        self._stopped = False

    async def __aenter__(self) -> "_Load":
        loops = [self._loop(answers) for answers in self.answers]
        self._tasks = [asyncio.create_task(loop) for loop in loops]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def sees(self, terms: Terms) -> None:
        """Waits until each caller has had an answer with these terms."""
        await until(lambda: all(each and _terms(each[-1]) == terms for each in self.answers))

    async def _loop(self, answers: list[pb.VerifyResponse]) -> None:
        while not self._stopped:
            try:
                answers.append(await self._client.verify(*SIDES))
                request = pb.VerifyRequest(a=SIDES[0], b=SIDES[1], model_version=A)
                self.named.append(await self._client.stub.Verify(request, timeout=20))
            except grpc.aio.AioRpcError as error:
                self.failed.append(error)


@asynccontextmanager
async def _processes(settings: EmbedderSettings, folder, count: int) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        started = []
        for number in range(count):
            own = settings.model_copy(update={"cache_dir": folder / f"cache-{number}"})
            process = stack.enter_context(EmbedderProcess(own, folder / f"process-{number}"))
            started.append(asyncio.to_thread(process.start))
        channels = [grpc.aio.insecure_channel(each) for each in await asyncio.gather(*started)]
        yield [Client(await stack.enter_async_context(channel)) for channel in channels]


def _complete(registry: Registry, generation: int, count: int) -> bool:
    replicas = read_replicas(registry.objects)
    return [replica.generation for replica in replicas] == [generation] * count


async def test_operating_points_change_under_load_without_a_failed_or_mixed_answer(
    measured, embedder_settings, tmp_path
):
    # What each generation must answer with; a swap and another target may come together.
    generations: list[tuple[ServingPointer, Terms]] = [
        (measured.promote(A), (A, 0.25, None)),
    ]
    async with _processes(embedder_settings, tmp_path, 2) as clients, AsyncExitStack() as stack:
        for client in clients:
            await client.until_serving(A)
        loads = [await stack.enter_async_context(_Load(client)) for client in clients]
        for load in loads:
            await load.sees(generations[0][1])
        for version, target, terms in (
            (A, 1e-1, (A, 0.1, 1e-1)),
            (A, 2e-2, (A, 0.2, 1e-2)),
            (B, 1e-3, (B, 0.6, 1e-3)),
            (B, 1e-2, (B, 0.5, 1e-2)),
            (A, 1e-6, (A, 0.3, 1e-3)),
        ):
            generations.append((measured.promote(version, target), terms))
            latest = generations[-1][0].generation
            await until(lambda n=latest: _complete(measured, n, len(clients)))
            for client in clients:
                model = await client.model()
                assert (_terms(model), model.serving_generation) == (terms, latest)
                assert (model.target_fmr, model.prior) == (target, 0.5)
                # The rollout is complete, so no embedder answers by an older generation.
                assert _terms(await client.verify(*SIDES)) == terms
            for load in loads:
                await load.sees(terms)
    order = [terms for _, terms in generations]
    for load in loads:
        assert load.failed == []
        for answers in load.answers:
            places = [order.index(_terms(answer)) for answer in answers]
            assert places == sorted(places)
            assert set(places) == set(range(len(order)))
            for answer in answers:
                same = answer.similarity >= answer.threshold
                assert answer.decision == (pb.DECISION_SAME if same else pb.DECISION_DIFFERENT)
        # Version A by name: at the target of the generation, whichever version serves.
        at_targets = {(A, 0.25, None), (A, 0.1, 1e-1), (A, 0.2, 1e-2), (A, 0.3, 1e-3)}
        assert {_terms(answer) for answer in load.named} == at_targets


async def test_a_start_without_the_store_keeps_the_operating_point(
    embedder_settings, measured_versions, tmp_path
):
    with NanioServer(tmp_path / "store") as server:
        registry = Registry(server.settings(), tmp_path)
        registry.objects.ensure_bucket()
        registry.publish(measured_versions[A])
        registry.promote(A, 1e-2, prior=0.2)
        settings = embedder_settings.model_copy(
            update=registry.settings.model_dump() | {"s3_timeout_s": 2.0}
        )
        async with running_embedder(settings) as client:
            await client.until_serving(A)
        await asyncio.to_thread(server.kill)
        async with running_embedder(settings) as client:
            await client.until_serving(A)
            model = await client.model()
            assert (_terms(model), model.prior) == ((A, 0.2, 1e-2), 0.2)
            assert model.serving_generation == 0
            assert _terms(await client.verify(*SIDES)) == (A, 0.2, 1e-2)


async def test_verify_answers_with_rates_and_judges_quality(
    measured, embedder_settings, measured_versions
):
    manifest = read_manifest(measured_versions[A])
    measured.promote(A, 1e-2, prior=0.01)
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(A)

        async def verify(a: pb.VerifySide, b: pb.VerifySide, minimum: float) -> pb.VerifyResponse:
            request = pb.VerifyRequest(a=a, b=b, minimum_quality=minimum)
            return await client.stub.Verify(request, timeout=20)

        plain = await client.verify(*SIDES)
        odds = 10 * plain.similarity - 2.5 + np.log(0.01 / 0.99)
        assert plain.probability == pytest.approx(1 / (1 + np.exp(-odds)), rel=1e-5)
        rate = manifest.operating_curve.false_match_rate(plain.similarity)
        assert plain.false_match_rate == pytest.approx(rate)
        assert plain.unsure_reason == ""
        asked = await verify(*SIDES, 0.0)
        assert asked == plain
        unsure = await verify(*SIDES, 1.0)
        assert unsure.decision == pb.DECISION_UNSURE
        assert "side a" in unsure.unsure_reason
        unsure.decision, unsure.unsure_reason = plain.decision, ""
        assert unsure == plain

        side = stored_side(vector(plain.face_a), A)
        for minimum, magnitude, field in (
            (0.5, None, "a.stored.magnitude: is not set"),
            (0.5, nan, "a.stored.magnitude: is nan"),
            (nan, 10.0, "minimum_quality: is nan"),
            (1.5, 10.0, "minimum_quality: is 1.5"),
        ):
            if magnitude is not None:
                side.stored.magnitude = magnitude
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await verify(side, SIDES[1], minimum)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert refused.value.details().startswith(field)
        side.stored.magnitude = plain.face_a.magnitude
        quality = plain.face_a.quality
        assert (await verify(side, side, quality)).decision == pb.DECISION_SAME
        assert (await verify(side, side, quality + 1e-3)).decision == pb.DECISION_UNSURE


async def test_versions_and_pointers_of_an_earlier_release_are_served_as_before(
    published, embedder_settings
):
    written = f'{{"model_version":"{A}","generation":7,"published_at":"{datetime.now(UTC)}"}}'
    published.objects.put("registry/serving.json", written.encode())
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(A)
        model, answer = await client.model(), await client.verify(*SIDES)
        assert (_terms(model), _terms(answer)) == ((A, 0.25, None), (A, 0.25, None))
        assert (model.serving_generation, model.prior) == (7, 0.5)
        assert not model.HasField("target_fmr")
        assert not answer.HasField("probability")
        assert not answer.HasField("false_match_rate")
        # A target cannot be kept by a version that was not measured.
        published.promote(A, 1e-3)
        await until(lambda: _complete(published, 2, 1))
        assert _terms(await client.verify(*SIDES)) == (A, 0.25, None)
