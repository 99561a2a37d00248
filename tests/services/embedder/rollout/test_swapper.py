"""The swapper, with stand-ins for the registry and the loader."""

import asyncio
import threading
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from services.embedder import metrics
from services.embedder.models.decision_rule import FmrTarget
from services.embedder.models.resident import LoadedModel, ResidentModels
from services.embedder.models.version_threads import Cancellation, VersionThreads
from services.embedder.rollout import retries
from services.embedder.rollout.last_served import LastServed, VersionAtTarget
from services.embedder.rollout.swapper import Swapper
from shared.errors import CorruptData, Unavailable
from shared.registry.serving_pointer import ServingPointer
from tests.services.embedder.standin import model
from tests.support.operating_curve import curve_at
from tests.support.waiting import until

CURVES = {
    "v1": curve_at((1e-1, 0.1), (1e-2, 0.2), (1e-3, 0.3)),
    "v2": curve_at((1e-1, 0.4), (1e-2, 0.6)),
}


class _World:
    """A swapper with a scripted registry and loader."""

    def __init__(self, folder: Path) -> None:
        self.models = ResidentModels()
        self.last_served = LastServed(folder / "cache" / "last-served")
        self.threads = VersionThreads()
        self.swapper = Swapper(
            self.models,
            self._read,
            self._load,
            last_served=self.last_served,
            interval_s=0.01,
        )
        self.broken: dict[str, Exception] = {}
        self.loads: list[str] = []
        self.in_background: list[bool] = []
        self.limit_s = 30.0
        self.hold = threading.Event()
        self.hold.set()
        self.away = False
        self.hanging: set[str] = set()
        self.cancelled: list[str] = []
        self.end = threading.Event()
        self._reads = 0
        self._pointer: ServingPointer | None = None

    def promote(self, version: str, target_fmr: float | None = None, prior: float = 0.5) -> None:
        generation = self._pointer.generation + 1 if self._pointer else 1
        self._pointer = ServingPointer(
            model_version=version,
            generation=generation,
            published_at=datetime.now(UTC),
            target_fmr=target_fmr,
            prior=prior,
        )

    @property
    def serving(self) -> str | None:
        return self.models.serving_version

    @property
    def in_force(self) -> tuple[str, float, float | None, int]:
        """Version, threshold, kept false-match rate, and the generation that is reported."""
        serving = self.models.resolve()
        rule = serving.rule
        return serving.version, round(rule.threshold, 6), rule.kept_fmr, self.swapper.generation

    async def some_steps(self) -> None:
        seen = self._reads
        await until(lambda: self._reads >= seen + 5)

    def _read(self) -> ServingPointer | None:
        self._reads += 1
        if self.away:
            raise Unavailable("the store is away")
        return self._pointer

    async def _load(self, version: str, background: bool) -> LoadedModel:
        self.loads.append(version)
        self.in_background.append(background)
        work = partial(self._open, version)
        return await self.threads.run(version, work, limit_s=self.limit_s, low_priority=background)

    def _open(self, version: str, cancellation: Cancellation) -> LoadedModel:
        if version in self.hanging:
            cancellation.call_on_cancel(partial(self.cancelled.append, version))
            self.end.wait(timeout=60)
        self.hold.wait(timeout=5)
        if version in self.broken:
            raise self.broken[version]
        return model(version, operating_curve=CURVES.get(version))


@asynccontextmanager
async def _running(world: _World):
    task = asyncio.create_task(world.swapper.run())
    try:
        yield world
    finally:
        world.hold.set()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        world.end.set()


@pytest.fixture
def world(tmp_path: Path) -> _World:
    return _World(tmp_path)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_RETRY_S", 0.02)
    monkeypatch.setattr(retries, "_LAST_RETRY_S", 0.04)


async def test_nothing_serves_before_the_first_decision(world):
    async with _running(world):
        await world.some_steps()
        assert world.serving is None
        assert not world.swapper.ready.is_set()
        world.promote("v1")
        await until(lambda: world.serving == "v1")
        assert world.swapper.ready.is_set()


async def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving_and_says_so(world):
    world.promote("v1")
    world.broken["v2"] = CorruptData("NaN everywhere")
    async with _running(world):
        await until(lambda: world.serving == "v1")
        world.promote("v2")
        await until(lambda: world.swapper.swap_error != "")
        assert world.serving == "v1"
        assert world.swapper.pending_version == "v2"
        assert world.swapper.swap_error == "CorruptData: NaN everywhere"
        world.promote("v1")
        await until(lambda: world.swapper.pending_version == "")
        assert world.swapper.swap_error == ""


async def test_a_version_that_hangs_is_refused_and_the_next_is_taken_up(world):
    world.promote("v1")
    async with _running(world):
        await until(lambda: world.serving == "v1")
        world.limit_s = 0.2
        world.hanging.add("v2")
        world.promote("v2")
        await until(lambda: world.swapper.swap_error != "")
        assert "model version v2 took longer than 0.2 s" in world.swapper.swap_error
        assert "MAGFACE_LOAD_TIMEOUT_S" in world.swapper.swap_error
        assert world.cancelled == ["v2"]
        # It is not loaded again and again.
        await world.some_steps()
        assert (world.serving, world.loads) == ("v1", ["v1", "v2"])
        world.promote("v2")
        await until(lambda: "has not ended yet" in world.swapper.swap_error)
        world.promote("v3")
        await until(lambda: world.serving == "v3")
        assert world.swapper.swap_error == ""


async def test_a_version_that_is_wanted_does_not_wait_for_one_that_no_longer_is(world):
    world.promote("v1")
    async with _running(world):
        await until(lambda: world.serving == "v1")
        world.hanging.add("v2")
        world.promote("v2")
        await until(lambda: "v2" in world.loads)
        world.promote("v3")
        await until(lambda: world.serving == "v3", 5)
        assert world.cancelled == ["v2"]
        # Wanted again, it is loaded as soon as its first thread has ended.
        world.promote("v2")
        await until(lambda: "has not ended yet" in world.swapper.swap_error)
        world.hanging.clear()
        world.end.set()
        await until(lambda: world.serving == "v2", 10)


async def test_only_some_threads_are_left_hanging(world):
    world.promote("v1")
    async with _running(world):
        await until(lambda: world.serving == "v1")
        world.limit_s = 0.1
        for number in range(2, 7):
            world.hanging.add(f"v{number}")
            world.promote(f"v{number}")
            await until(lambda n=number: world.swapper.pending_version == f"v{n}")
            await until(lambda: world.swapper.swap_error != "")
        assert "restart the embedder" in world.swapper.swap_error
        assert len(world.cancelled) == 4
        assert world.serving == "v1"
        world.end.set()
        world.hanging.clear()
        world.promote("v7")
        await until(lambda: world.serving == "v7")


@pytest.mark.usefixtures("quick_retries")
async def test_a_failed_load_is_retried_with_backoff(world):
    world.promote("v1")
    world.broken["v1"] = CorruptData("half a file")
    async with _running(world):
        await until(lambda: len(world.loads) >= 3)
        del world.broken["v1"]
        await until(lambda: world.serving == "v1")
        assert world.swapper.swap_error == ""


async def test_backoff_grows_and_keeps_a_broken_version_from_being_loaded_at_every_look(world):
    world.promote("v1")
    world.broken["v1"] = CorruptData("half a file")
    async with _running(world):
        await world.some_steps()
        assert world.loads == ["v1"]


async def test_a_new_decision_for_the_same_version_is_tried_at_once(world):
    world.promote("v1")
    world.broken["v1"] = CorruptData("half a file")
    async with _running(world):
        await until(lambda: world.swapper.swap_error != "")
        del world.broken["v1"]
        world.promote("v1")
        await until(lambda: world.serving == "v1")


async def test_an_unreachable_store_is_tried_at_every_look_so_that_no_backoff_delays(world):
    world.promote("v1")
    world.broken["v1"] = Unavailable("the store is away")
    async with _running(world):
        await until(lambda: len(world.loads) >= 5)


async def test_only_beside_a_serving_version_is_loaded_in_the_background(world):
    async with _running(world):
        for version in ("v1", "v2"):
            world.promote(version)
            await until(lambda version=version: world.serving == version)
    assert world.in_background == [False, True]


async def test_rollback_loads_nothing(world):
    async with _running(world):
        for version in ("v1", "v2"):
            world.promote(version)
            await until(lambda version=version: world.serving == version)
        world.promote("v1")
        await until(lambda: world.serving == "v1")
        world.promote("v2")
        await until(lambda: world.serving == "v2")
    assert world.loads == ["v1", "v2"]


async def test_only_the_serving_version_and_the_one_before_stay_loaded(world):
    async with _running(world):
        for version in ("v1", "v2", "v3", "v1"):
            world.promote(version)
            await until(lambda version=version: world.serving == version)
        assert world.models.versions == ["v1", "v3"]
    assert world.loads == ["v1", "v2", "v3", "v1"]


async def test_rollback_does_not_wait_for_a_slow_load(world):
    async with _running(world):
        for version in ("v1", "v2"):
            world.promote(version)
            await until(lambda version=version: world.serving == version)
        world.hold.clear()
        world.promote("v3")
        await until(lambda: "v3" in world.loads)
        world.promote("v1")
        await until(lambda: world.serving == "v1")
        world.hold.set()
        await world.some_steps()
        assert world.serving == "v1"


async def test_a_version_that_was_loaded_too_late_does_not_serve(world):
    world.promote("v1")
    async with _running(world):
        await until(lambda: world.serving == "v1")
        world.hold.clear()
        world.promote("v2")
        await until(lambda: "v2" in world.loads)
        world.promote("v3")
        await world.some_steps()
        world.hold.set()
        served = set()
        await until(lambda: served.add(world.serving) or world.serving == "v3")
    assert served == {"v1", "v3"}


async def test_registry_away_changes_nothing_and_its_return_is_noticed(world):
    world.promote("v1")
    async with _running(world):
        await until(lambda: world.serving == "v1")
        world.away = True
        world.promote("v2")
        await world.some_steps()
        assert world.serving == "v1"
        world.away = False
        await until(lambda: world.serving == "v2")


async def test_a_cold_start_without_the_registry_serves_what_served_last(world):
    world.last_served.write(VersionAtTarget("v7"))
    world.away = True
    world.promote("v8")
    async with _running(world):
        await until(lambda: world.serving == "v7")
        world.away = False
        await until(lambda: world.last_served.read() == VersionAtTarget("v8"))
    assert world.serving == "v8"


async def test_a_cold_start_on_a_broken_version_serves_what_served_last(world):
    world.last_served.write(VersionAtTarget("v7"))
    world.promote("v8")
    world.broken["v8"] = CorruptData("wrong hash")
    async with _running(world):
        await until(lambda: world.serving == "v7")
        assert world.swapper.pending_version == "v8"
        assert "wrong hash" in world.swapper.swap_error


@pytest.mark.usefixtures("quick_retries")
async def test_an_unforeseen_error_does_not_end_the_following(world):
    world.promote("v1")
    world.broken["v1"] = ZeroDivisionError("a bug")
    async with _running(world):
        await until(lambda: "ZeroDivisionError" in world.swapper.swap_error)
        assert "a bug" not in world.swapper.swap_error
        del world.broken["v1"]
        await until(lambda: world.serving == "v1")


async def test_another_operating_point_is_taken_up_without_loading_anything(world):
    world.promote("v1")
    async with _running(world):
        await until(lambda: world.serving == "v1")
        assert world.in_force == ("v1", 0.5, None, 1)
        since = world.models.serving_since
        for target, threshold, kept in ((1e-2, 0.2, 1e-2), (1e-3, 0.3, 1e-3), (1e-6, 0.3, 1e-3)):
            world.promote("v1", target)
            await until(lambda t=target: world.models.target.target_fmr == t)
            assert world.in_force[1:3] == (threshold, kept)
        world.promote("v1", 1e-6, prior=0.01)
        await until(lambda: world.models.target.prior == 0.01)
        world.promote("v1")
        await until(lambda: world.swapper.generation == 6)
        assert world.in_force == ("v1", 0.5, None, 6)
        assert (world.loads, world.models.serving_since) == (["v1"], since)


async def test_a_version_that_is_loading_leaves_the_old_operating_point_in_force(world):
    world.promote("v1", 1e-2)
    async with _running(world):
        await until(lambda: world.serving == "v1")
        seen = set()
        world.hold.clear()
        world.promote("v2", 1e-1)
        await until(lambda: seen.add(world.in_force) or "v2" in world.loads)
        await world.some_steps()
        assert world.in_force == ("v1", 0.2, 1e-2, 0)
        world.promote("v2", 1e-2)
        await world.some_steps()
        assert world.in_force == ("v1", 0.2, 1e-2, 0)
        world.hold.set()
        await until(lambda: seen.add(world.in_force) or world.serving == "v2")
        # The target that was set while it was loading, and never the one before.
        assert world.in_force == ("v2", 0.6, 1e-2, 3)
        assert seen == {("v1", 0.2, 1e-2, 1), ("v1", 0.2, 1e-2, 0), ("v2", 0.6, 1e-2, 3)}
        # A rollback with another target is one step too.
        world.promote("v1", 1e-3)
        await until(lambda: world.serving == "v1")
        assert world.in_force == ("v1", 0.3, 1e-3, 4)
        assert world.loads == ["v1", "v2"]


async def test_a_version_that_cannot_be_loaded_leaves_the_old_operating_point_in_force(world):
    world.promote("v1", 1e-2)
    world.broken["v2"] = CorruptData("NaN everywhere")
    async with _running(world):
        await until(lambda: world.serving == "v1")
        world.promote("v2", 1e-1)
        await until(lambda: world.swapper.swap_error != "")
        assert world.in_force == ("v1", 0.2, 1e-2, 0)


async def test_a_target_that_cannot_be_kept_is_logged(world, caplog):
    world.promote("v1", 1e-5)
    async with _running(world):
        await until(lambda: world.serving == "v1")
        assert "v1 keeps a false-match rate of 0.001 instead of the target of 1e-05" in caplog.text
        assert metrics.TARGET_FMR._value.get() == 1e-5
        assert metrics.KEPT_FMR._value.get() == 1e-3
        world.promote("v3", 1e-3)
        await until(lambda: world.serving == "v3")
        assert "v3 has no measured operating curve" in caplog.text
        assert metrics.KEPT_FMR._value.get() == 0
        world.promote("v1")
        await until(lambda: world.serving == "v1")
        assert metrics.TARGET_FMR._value.get() == 0


async def test_a_cold_start_without_the_registry_keeps_the_operating_point(world, tmp_path):
    world.promote("v1", 1e-1)
    async with _running(world):
        await until(lambda: world.serving == "v1")
        world.promote("v1", 1e-2, prior=0.25)
        await until(lambda: world.swapper.generation == 2)
        await until(lambda: world.last_served.read().target == FmrTarget(1e-2, 0.25))
    again = _World(tmp_path)
    again.away = True
    async with _running(again):
        await until(lambda: again.serving == "v1")
        assert again.in_force == ("v1", 0.2, 1e-2, 0)
        assert again.models.target.prior == 0.25
        # The registry has the same operating point; nothing is loaded or changed.
        again.promote("v1", 1e-2, prior=0.25)
        again.away = False
        await until(lambda: again.swapper.generation == 1)
        assert again.loads == ["v1"]


async def test_a_cold_start_on_a_broken_version_keeps_the_old_operating_point(world):
    world.last_served.write(VersionAtTarget("v1", FmrTarget(1e-3)))
    world.promote("v8", 1e-1)
    world.broken["v8"] = CorruptData("wrong hash")
    async with _running(world):
        await until(lambda: world.serving == "v1")
        assert world.in_force == ("v1", 0.3, 1e-3, 0)
