"""Shadow evaluation: its statistics are right, and requests are not affected."""

import asyncio
import os
import sys
import threading
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from services.embedder.embedding.cache import EmbeddingCache
from services.embedder.embedding.service import FaceEmbedder
from services.embedder.inference.pipeline import Pipeline
from services.embedder.inference.requests import deliver_on
from services.embedder.models.decision_rule import FmrTarget
from services.embedder.models.resident import LoadedModel, ResidentModels
from services.embedder.models.version_threads import VersionThreads
from services.embedder.rollout import retries
from services.embedder.rollout import shadow as module
from services.embedder.rollout.shadow import ShadowEvaluator
from shared.decoding.admission import Admission
from shared.errors import CorruptData
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.registry.shadow_pointer import ShadowPointer, clear_shadow, write_shadow
from shared.settings import ImageLimits
from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.faces import crops, image_side, png
from tests.services.embedder.serving import running_embedder
from tests.services.embedder.standin import StandInSession, manifest, model
from tests.support.decoding import decode_pool
from tests.support.operating_curve import curve_at
from tests.support.waiting import let_others_run, until

CROPS = crops(6)
# The stand-ins' features are the first bytes of a crop.
CROPS[:, 0, :3] = np.random.default_rng(0).integers(0, 256, (6, 3, 3))
FACES = [FaceImage(png(crop), "aligned") for crop in CROPS]
PAIRS = list(zip(FACES, FACES[1:] + FACES[:1], strict=True))
READER = FaceReader(ImageLimits())


class _OtherOpinion(StandInSession):
    """Gives lower similarities than the other stand-ins."""

    def run(self, batch: np.ndarray) -> np.ndarray:
        return super().run(batch) ** 3


class _World:
    def __init__(self, share: float = 1.0) -> None:
        self.models = ResidentModels()
        self.admission = Admission(64, 2**24)
        self.pipeline = Pipeline(READER, decode_pool(), 4, deliver_on(asyncio.get_running_loop()))
        self.candidate = LoadedModel(manifest("v2"), _OtherOpinion("v2"))
        self.broken: Exception | None = None
        self.loads: list[str] = []
        self.shadow = ShadowEvaluator(
            self.models,
            decode_pool(),
            self._load,
            self.admission.idle,
            share,
            threads=VersionThreads(),
        )
        cache = EmbeddingCache(2**20)
        self.faces = FaceEmbedder(
            self.models, self.pipeline, self.admission, cache, self.shadow.offer
        )

    async def update(self, version: str | None) -> None:
        await self.shadow.update(ShadowPointer(model_version=version) if version else None)
        if self.shadow._loading is not None and version != "hangs":
            await asyncio.wait([self.shadow._loading])

    async def verify_all(self) -> list:
        return [await self.faces.verify(a, b, inf) for a, b in PAIRS]

    async def _load(self, version: str) -> LoadedModel:
        self.loads.append(version)
        if version == "hangs":
            await asyncio.Event().wait()
        if self.broken:
            raise self.broken
        return self.candidate if version == "v2" else model(version)


@asynccontextmanager
async def _running(share: float = 1.0):
    world = _World(share)
    world.pipeline.start()
    world.models.serve(model("v1"))
    task = asyncio.create_task(world.shadow.run())
    try:
        yield world
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await world.pipeline.stop()


def _similarity(pair: tuple[FaceImage, FaceImage]) -> float:
    """The similarity of two faces under the candidate."""
    batch = np.stack([READER.crop(face) for face in pair])
    a, b = _OtherOpinion("v2").run(batch).astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


async def test_agreement_and_shift_are_those_of_the_two_versions():
    async with _running() as world:
        await world.update("v2")
        live = await world.verify_all()
        await until(lambda: world.shadow.stats.pairs == len(PAIRS))
        stats = world.shadow.stats
    theirs = [_similarity(pair) for pair in PAIRS]
    agreed = [verdict.same == (found >= 0.5) for verdict, found in zip(live, theirs, strict=True)]
    assert 0 < sum(agreed) < len(PAIRS)
    assert stats.agreement == pytest.approx(np.mean(agreed))
    shift = np.mean([found - v.similarity for v, found in zip(live, theirs, strict=True)])
    assert stats.similarity_shift == pytest.approx(shift, abs=1e-6)
    assert (stats.model_version, stats.error) == ("v2", "")
    assert world.candidate.session.batches == [1] * 2 * len(PAIRS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows a thread's priority")
async def test_its_thread_has_a_lower_priority_than_those_that_answer_calls():
    async with _running() as world:
        await world.update("v2")
        niceness: list[int] = []
        run = world.candidate.session.run

        def run_and_note(batch: np.ndarray) -> np.ndarray:
            niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return run(batch)

        world.candidate.session.run = run_and_note
        await world.faces.verify(*PAIRS[0], inf)
        await until(lambda: world.shadow.stats.pairs)
    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert set(niceness) == {max(ours, 10)}


async def test_a_candidate_that_hangs_while_it_is_loaded_does_not_delay_the_next():
    async with _running() as world:
        await world.update("hangs")
        await asyncio.wait_for(world.update("v2"), 5)
        live = await world.verify_all()
        await until(lambda: world.shadow.stats.pairs == len(live))
        assert world.loads == ["hangs", "v2"]


async def test_a_candidate_that_hangs_is_put_off_and_the_next_is_evaluated(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(module, "_EMBED_LIMIT_S", 0.2)
    async with _running() as world:
        await world.update("v2")
        hanging = world.candidate.session
        hanging.go_on.clear()
        try:
            await world.verify_all()
            await until(lambda: "took longer than 0.2 s" in world.shadow.stats.error)
            await world.update("v2")
            assert world.loads == ["v2"]
            await world.update("v3")
            live = await world.verify_all()
            await until(lambda: world.shadow.stats.pairs == len(live))
            assert world.shadow.stats.error == ""
        finally:
            hanging.go_on.set()


async def test_it_computes_only_while_no_call_is_in_flight():
    async with _running() as world:
        await world.update("v2")
        with world.admission.admit(1, 1, 0.0):
            await world.verify_all()
            await let_others_run()
            assert world.candidate.session.batches == []
        await until(lambda: world.shadow.stats.pairs > 0)


async def test_when_it_is_behind_pairs_are_dropped_and_calls_are_answered(monkeypatch):
    async with _running() as world:
        await world.update("v2")
        world.candidate.session.go_on.clear()
        await world.faces.verify(*PAIRS[0], inf)
        await until(lambda: world.candidate.session.batches)
        for _ in range(10):
            await asyncio.wait_for(world.verify_all(), 60)
        assert world.shadow._queue.qsize() == module._QUEUED_PAIRS
        world.candidate.session.go_on.set()
        await until(lambda: world.shadow.stats.pairs == module._QUEUED_PAIRS + 1)
        monkeypatch.setattr(module, "_MAX_PAIR_BYTES", 100)
        await world.verify_all()
        assert world.shadow._queue.empty()


@pytest.mark.parametrize("share", [0.0, 0.5])
async def test_only_a_share_of_the_comparisons_is_tried(share):
    async with _running(share) as world:
        await world.update("v2")
        for _ in range(10):
            await world.verify_all()
            await until(world.shadow._queue.empty)
        await until(world.admission.idle.is_set)
    assert world.shadow.stats.pairs < 60 * share + 25
    assert bool(world.shadow.stats.pairs) == bool(share)


async def test_another_serving_version_or_candidate_begins_a_new_report():
    async with _running() as world:
        await world.update("v2")
        await world.verify_all()
        await until(lambda: world.shadow.stats.pairs == len(PAIRS))
        world.models.serve(model("v0"))
        await world.faces.verify(*PAIRS[0], inf)
        await world.update("v2")
        assert (world.shadow.stats.model_version, world.shadow.stats.pairs) == ("v2", 0)
        await world.verify_all()
        await until(lambda: world.shadow.stats.pairs == len(PAIRS))
        await world.update("v3")
        assert (world.shadow.stats.model_version, world.shadow.stats.pairs) == ("v3", 0)
        assert world.loads == ["v2", "v3"]


async def test_each_version_is_judged_at_its_threshold_at_the_operating_point_in_force():
    theirs = sorted(_similarity(pair) for pair in PAIRS)
    ours, strictest = curve_at((1e-1, 0.5), (1e-2, 0.9)), (theirs[-1] + 1) / 2
    async with _running() as world:
        changed = world.candidate.manifest.model_copy(
            update={"operating_curve": curve_at((1e-1, theirs[0] - 1e-3), (1e-2, strictest))}
        )
        world.candidate = replace(world.candidate, manifest=changed)
        for target, expected in ((1e-1, True), (1e-2, False)):
            world.models.serve(model("v1", operating_curve=ours), FmrTarget(target))
            # Judged at another operating point than the one in force, so in no figure.
            early = await world.verify_all()
            # Nothing that was counted before is reported with what serves now.
            assert world.shadow.stats.pairs == 0
            await world.update("v2")
            assert world.shadow.stats == module.ShadowStats("v2")
            live = await world.verify_all()
            assert [verdict.same for verdict in live] == [verdict.same for verdict in early]
            await until(lambda: world.shadow.stats.pairs == len(PAIRS))
            agreed = np.mean([verdict.same == expected for verdict in live])
            assert world.shadow.stats.agreement == pytest.approx(agreed)
        assert world.loads == ["v2"]


async def test_a_verdict_that_is_unsure_is_not_compared():
    async with _running() as world:
        await world.update("v2")
        await world.faces.verify(*PAIRS[0], inf, minimum_quality=1.0)
        await world.faces.verify(*PAIRS[1], inf)
        await until(lambda: world.shadow.stats.pairs == 1)
        await let_others_run()
    assert world.shadow.stats.pairs == 1


async def test_a_candidate_that_serves_or_is_taken_back_is_let_go():
    async with _running() as world:
        for away in ("promoted", "taken back"):
            await world.update("v2")
            assert world.shadow._candidate is not None
            if away == "promoted":
                world.models.serve(model("v2"))
            await world.update("v2" if away == "promoted" else None)
            assert world.shadow.stats == module.ShadowStats()
            assert world.shadow._candidate is None
            world.models.serve(model("v1"))


async def test_a_candidate_that_cannot_be_loaded_is_reported_and_tried_again_later(monkeypatch):
    monkeypatch.setattr(retries, "_FIRST_RETRY_S", 0.05)
    async with _running() as world:
        world.broken = CorruptData("half a file")
        for _ in range(3):
            await world.update("v2")
        assert world.loads == ["v2"]
        assert world.shadow.stats.error == "CorruptData: half a file"
        await world.verify_all()
        world.broken = None
        await asyncio.sleep(0.06)
        await world.update("v2")
        assert (world.loads, world.shadow.stats.error) == (["v2", "v2"], "")


async def test_a_candidate_that_fails_harms_no_call_and_is_reported():
    async with _running() as world:
        await world.update("v2")
        world.candidate.session.error = RuntimeError("out of memory")
        await world.verify_all()
        await until(lambda: "RuntimeError" in world.shadow.stats.error)
        assert "out of memory" not in world.shadow.stats.error
        assert world.shadow.stats.pairs == 0


async def test_pictures_that_wait_are_forgotten_with_an_erasure():
    async with _running() as world:
        await world.update("v2")
        with world.admission.admit(1, 1, 0.0):
            await world.verify_all()
            world.shadow.clear()
            assert world.shadow._queue.empty()


async def test_the_registry_puts_a_version_into_the_shadow_and_takes_it_out(
    embedder_settings, published, bare_sessions
):
    first, second = VERSIONS
    settings = embedder_settings.model_copy(update={"shadow_share": 1.0})
    faces = crops(2)
    async with running_embedder(settings) as client:
        await client.until_serving(first)
        write_shadow(published.objects, ShadowPointer(model_version=second))

        async def judged() -> bool:
            await client.verify(image_side(faces[0]), image_side(faces[1]))
            found = await client.model()
            return found.shadow_version == second and found.shadow_pairs >= 3

        await until(judged)
        found = await client.model()
        similarities = []
        for version in VERSIONS:
            a, b = bare_sessions[version].run(faces)
            similarities.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        shift = similarities[1] - similarities[0]
        assert found.shadow_similarity_shift == pytest.approx(shift, abs=1e-4)
        alike = len({similarity >= 0.25 for similarity in similarities}) == 1
        assert found.shadow_agreement == float(alike)
        assert (found.shadow_error, found.resident_versions) == ("", [first])
        clear_shadow(published.objects)

        async def gone() -> bool:
            return (await client.model()).shadow_version == ""

        await until(gone)
