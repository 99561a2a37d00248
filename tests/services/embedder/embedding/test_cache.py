"""The cache, with computations that take time, fail, and are cancelled."""

import asyncio
import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.embedder.embedding.cache import CacheKey, EmbeddingCache, cache_key
from services.embedder.inference.requests import EmbeddedFace
from shared.model.image.face import Box, DetectedFace, FaceImage
from tests.support.waiting import until

SIZE = 16
# Bytes of an entry with SIZE floats.
ENTRY = 800 + 4 * SIZE
POINTS = tuple((float(x), float(x) + 0.5) for x in range(5))


def _key(number: int, version: str = "v1") -> CacheKey:
    return CacheKey(number.to_bytes(32), version, "aligned", (), "largest", None, "refuse")


def _face(key: CacheKey) -> EmbeddedFace:
    """An embedding that is different for every key."""
    number = int.from_bytes(key.sha256)
    return EmbeddedFace(np.full(SIZE, number, np.float32), float(number), len(key.model_version))


def _is_right(keys, faces) -> bool:
    pairs = zip(keys, faces, strict=True)
    return all(face.magnitude == int.from_bytes(key.sha256) for key, face in pairs)


class _Computer:
    """Computes once `go_on` is set, and counts."""

    def __init__(self) -> None:
        self.computed: Counter[CacheKey] = Counter()
        self.running: Counter[CacheKey] = Counter()
        self.go_on = asyncio.Event()
        self.errors: list[Exception] = []

    async def __call__(self, keys) -> list[EmbeddedFace]:
        self.running.update(keys)
        assert max(self.running.values()) == 1, "computed twice at the same time"
        try:
            await self.go_on.wait()
            if self.errors:
                raise self.errors.pop()
            self.computed.update(keys)
            return [_face(key) for key in keys]
        finally:
            self.running.subtract(keys)


@pytest.mark.parametrize(
    "other",
    [
        FaceImage(b"other", "landmarks", POINTS),
        FaceImage(b"bytes", "aligned", POINTS),
        FaceImage(b"bytes", "landmarks", POINTS[::-1]),
        FaceImage(b"bytes", "landmarks"),
        FaceImage(b"bytes", "landmarks", POINTS, "refuse"),
        FaceImage(b"bytes", "landmarks", POINTS, box=Box(1, 2, 3, 4)),
    ],
)
def test_a_key_tells_apart_all_that_an_embedding_depends_on(other):
    face = FaceImage(b"bytes", "landmarks", POINTS)
    assert cache_key(face, "v1") == cache_key(FaceImage(b"bytes", "landmarks", POINTS), "v1")
    assert cache_key(face, "v1") not in (cache_key(other, "v1"), cache_key(face, "v2"))


@settings(max_examples=50, deadline=None)
@given(
    entries=st.integers(0, 6),
    calls=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), max_size=20),
)
async def test_it_keeps_what_was_asked_for_last_and_never_more_than_its_bytes(entries, calls):
    limit = entries * ENTRY + ENTRY // 2
    cache, computer = EmbeddingCache(limit), _Computer()
    computer.go_on.set()
    for numbers in calls:
        keys = [_key(number) for number in numbers]
        assert _is_right(keys, await cache.get_or_compute(keys, computer))
        assert cache.bytes <= limit
    # With one face a call the order of use is certain.
    last_used = list(range(10))
    for number in last_used:
        await cache.get_or_compute([_key(number)], computer)
    kept = [number for number in range(10) if cache.find([_key(number)])]
    assert kept == last_used[len(last_used) - entries :]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), entries=st.integers(0, 20), calls=st.integers(2, 12))
async def test_callers_that_fail_leave_and_share_all_get_what_is_theirs(seed, entries, calls):
    cache, computer, choose = EmbeddingCache(entries * ENTRY), _Computer(), random.Random(seed)
    faults = [ValueError("a fault") for _ in range(choose.randrange(3))]
    computer.errors = list(faults)

    async def call() -> None:
        keys = [_key(choose.randrange(8)) for _ in range(choose.randrange(1, 5))]
        assert _is_right(keys, await cache.get_or_compute(keys, computer))

    tasks = [asyncio.create_task(call()) for _ in range(calls)]
    await asyncio.sleep(0)
    left = [task for task in tasks if choose.random() < 0.3]
    for task in left:
        task.cancel()
    await asyncio.sleep(0)
    computer.go_on.set()
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    failed = [outcome for outcome in outcomes if isinstance(outcome, ValueError)]
    assert len(failed) <= len(faults)
    for task, outcome in zip(tasks, outcomes, strict=True):
        assert outcome is None or outcome in failed or task in left


async def test_who_asks_for_what_is_being_computed_waits_for_it():
    cache, computer = EmbeddingCache(10 * ENTRY), _Computer()
    keys = [_key(1), _key(2)]
    calls = [asyncio.create_task(cache.get_or_compute(keys, computer)) for _ in range(20)]
    other = asyncio.create_task(cache.get_or_compute([_key(2), _key(3)], computer))
    await until(lambda: computer.running[_key(3)])
    computer.go_on.set()
    for call in calls:
        assert _is_right(keys, await call)
    assert _is_right([_key(2), _key(3)], await other)
    assert set(computer.computed.values()) == {1}


@pytest.mark.parametrize("how", ["leaves", "fails"])
async def test_a_first_that_does_not_finish_costs_the_others_nothing_but_time(how):
    cache, computer = EmbeddingCache(10 * ENTRY), _Computer()
    first = asyncio.create_task(cache.get_or_compute([_key(1)], computer))
    await until(lambda: computer.running[_key(1)])
    others = [asyncio.create_task(cache.get_or_compute([_key(1)], computer)) for _ in range(5)]
    await asyncio.sleep(0)
    if how == "leaves":
        first.cancel()
    else:
        computer.errors.append(TimeoutError("the first's deadline"))
    computer.go_on.set()
    for other in others:
        assert _is_right([_key(1)], await other)
    with pytest.raises((asyncio.CancelledError, TimeoutError)):
        await first
    assert computer.computed[_key(1)] == 1


async def test_one_who_waits_can_leave_without_harm_to_the_others():
    cache, computer = EmbeddingCache(10 * ENTRY), _Computer()
    calls = [asyncio.create_task(cache.get_or_compute([_key(1)], computer)) for _ in range(3)]
    await until(lambda: computer.running[_key(1)])
    await asyncio.sleep(0)
    calls[1].cancel()
    await asyncio.sleep(0)
    computer.go_on.set()
    assert _is_right([_key(1)], await calls[0])
    assert _is_right([_key(1)], await calls[2])
    assert calls[1].cancelled()
    assert computer.computed[_key(1)] == 1


async def test_what_was_being_computed_when_it_was_cleared_is_answered_and_not_kept():
    cache, computer = EmbeddingCache(10 * ENTRY), _Computer()
    computer.go_on.set()
    await cache.get_or_compute([_key(0)], computer)
    computer.go_on.clear()
    before = asyncio.create_task(cache.get_or_compute([_key(1)], computer))
    await until(lambda: computer.running[_key(1)])
    cache.clear()
    computer.go_on.set()
    assert _is_right([_key(1)], await before)
    assert cache.find([_key(0)]) is None
    assert cache.find([_key(1)]) is None
    assert cache.bytes == 0
    await cache.get_or_compute([_key(1)], computer)
    assert cache.find([_key(1)]) is not None


async def test_what_is_kept_cannot_be_changed_by_who_gets_it():
    cache, computer = EmbeddingCache(10 * ENTRY), _Computer()
    computer.go_on.set()
    await cache.get_or_compute([_key(1)], computer)
    with pytest.raises(ValueError, match="read-only"):
        cache.find([_key(1)])[0].embedding[0] = 2


def test_boxes_that_differ_are_other_keys():
    first, second = (
        cache_key(FaceImage(b"bytes", "detect", box=Box(1, 2, 3, height)), "v1")
        for height in (4, 5)
    )
    assert first != second


async def test_what_was_detected_is_kept_with_the_embedding():
    cache, detected = EmbeddingCache(2**20), _detected(7)

    async def compute(keys) -> list[EmbeddedFace]:
        return [EmbeddedFace(np.ones(SIZE, np.float32), 1.0, 0.5, 3, detected) for _ in keys]

    await cache.get_or_compute([_key(1)], compute)
    (found,) = cache.find([_key(1)])
    assert (found.faces_found, found.detected) == (3, detected)


def _detected(number: int) -> DetectedFace:
    points = tuple((x + number, y + number) for x, y in POINTS)
    return DetectedFace(_box(number), points, 1 / (number + 2))


def _box(number: int) -> Box:
    return Box(number + 0.1, number + 0.2, number + 0.3, number + 0.4)


@pytest.mark.parametrize(
    ("size", "landmarks", "boxed", "detected"),
    [
        (512, (), False, False),
        (512, POINTS, False, False),
        (8, POINTS, False, False),
        (8, (), False, True),
        (8, (), True, True),
        (512, (), True, True),
    ],
)
async def test_its_memory_is_bounded_by_its_bytes_as_the_process_sees_it(
    size, landmarks, boxed, detected
):
    limit = 2**20

    async def compute(keys) -> list[EmbeddedFace]:
        rows = np.ones((32, size), np.float32)
        found = _detected(int.from_bytes(keys[0].sha256[:2])) if detected else None
        return [EmbeddedFace(rows[0], float(len(keys)), 0.5, 1, found) for _ in keys]

    def key(number: int) -> CacheKey:
        points = tuple((x + number, y) for x, y in landmarks)
        box = _box(number) if boxed else None
        return cache_key(FaceImage(number.to_bytes(8), "landmarks", points, box=box), "v1")

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache = EmbeddingCache(limit)
        for number in range(3000):
            await cache.get_or_compute([key(number)], compute)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert cache.bytes > 0.9 * limit
    assert 0.4 * limit < taken <= limit
