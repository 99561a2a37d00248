"""The batcher, on random sequences of submissions, cancellations and takes."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.embedder.inference.batcher import Batch, Batcher
from shared.errors import Unavailable
from tests.services.embedder.standin import MODELS, number_of, numbered_request

_ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 9)),
        st.tuples(st.just("submit for another version"), st.integers(1, 3)),
        st.tuples(st.just("expired"), st.integers(1, 3)),
        st.tuples(st.just("leave"), st.integers(0, 30)),
        st.tuples(st.just("take"), st.just(0)),
    ),
    max_size=40,
)


class _History:
    """Applies actions, and records what was submitted and what was taken."""

    def __init__(self, limit: int) -> None:
        self.batcher = Batcher(limit)
        self.submitted, self.left, self.expired = [], set(), set()
        self.batches: list[Batch] = []

    def play(self, action: str, value: int) -> None:
        match action:
            case "submit" | "submit for another version" | "expired":
                of = MODELS[action == "submit for another version"]
                request = numbered_request(len(self.submitted), value, of)
                if action == "expired":
                    request.deadline = time.monotonic()
                    self.expired.add(request)
                self.submitted.append(request)
                self.batcher.submit([request])
            case "leave" if value < len(self.submitted):
                taken = {
                    request
                    for batch in self.batches
                    for request in (*batch.requests, *batch.expired)
                }
                if self.submitted[value] not in taken:
                    self.left.add(self.submitted[value])
                self.batcher.discard(self.submitted[value])
            case "take" if len(self.settled) + len(self.left) < len(self.submitted):
                self.batches.append(self.batcher.take())

    @property
    def settled(self) -> list:
        return [request for batch in self.batches for request in (*batch.requests, *batch.expired)]

    def finish(self) -> None:
        self.batcher.close()
        while (batch := self.batcher.take()) is not None:
            self.batches.append(batch)


@given(limit=st.integers(1, 8), actions=_ACTIONS)
def test_nothing_is_reordered_lost_or_handed_out_twice(limit, actions):
    history = _History(limit)
    for action, value in actions:
        history.play(action, value)
    history.finish()
    computed = [request for batch in history.batches for request in batch.requests]
    wanted = [w for w in history.submitted if w not in history.left and w not in history.expired]
    assert computed == wanted
    expired = [request for batch in history.batches for request in batch.expired]
    assert expired == [w for w in history.submitted if w in history.expired - history.left]


@given(limit=st.integers(1, 8), actions=_ACTIONS)
def test_each_batch_keeps_the_limit_and_holds_exactly_the_crops_of_its_work_for_one_version(
    limit, actions
):
    history = _History(limit)
    for action, value in actions:
        history.play(action, value)
    history.finish()
    for batch in history.batches:
        assert batch.images <= limit or len(batch.requests) == 1
        assert len({request.model.version for request in (*batch.requests, *batch.expired)}) <= 1
        expected = [number_of(crop) for request in batch.requests for crop in request.crops]
        assert [number_of(crop) for crop in batch.crops] == expected


@given(limit=st.integers(1, 8), sizes=st.lists(st.integers(1, 8), min_size=1, max_size=20))
def test_a_batch_takes_whatever_fits_of_what_waits(limit, sizes):
    batcher = Batcher(limit)
    for number, size in enumerate(sizes):
        batcher.submit([numbered_request(number, size)])
    expected, images = 0, 0
    while expected < len(sizes) and (expected == 0 or images + sizes[expected] <= limit):
        images += sizes[expected]
        expected += 1
    assert len(batcher.take().requests) == expected


@settings(max_examples=10, deadline=None)
@given(limit=st.integers(1, 8), threads=st.integers(2, 4), seed=st.integers(0, 2**16))
def test_many_submitting_threads_lose_nothing_and_keep_their_own_order(limit, threads, seed):
    batcher, taken = Batcher(limit), []

    def take() -> None:
        while (batch := batcher.take()) is not None:
            taken.extend(number_of(request.crops[0])[0] for request in batch.requests)

    def submit(thread: int) -> None:
        for step in range(30):
            batcher.submit([numbered_request(100 * thread + step, 1 + (seed + step * thread) % 3)])

    taker = threading.Thread(target=take)
    submitters = [threading.Thread(target=submit, args=(n,)) for n in range(threads)]
    for thread in (taker, *submitters):
        thread.start()
    for thread in submitters:
        thread.join()
    batcher.close()
    taker.join()
    for thread in range(threads):
        own = [number for number in taken if number // 100 == thread]
        assert own == [100 * thread + step for step in range(30)]
    assert len(taken) == 30 * threads


def test_newcomers_join_the_prepared_batch_until_the_engine_takes_it():
    batcher = Batcher(4)
    batcher.submit([numbered_request(0, 1)])
    first = batcher.take()
    batcher.submit([numbered_request(1, 1)])
    batcher.submit([numbered_request(2, 2)])
    assert (first.images, batcher.take().images) == (1, 3)


def test_work_that_left_gives_its_memory_back_though_the_engine_never_comes():
    batcher = Batcher(2)
    requests = [numbered_request(number, 2) for number in range(10)]
    for request in requests:
        batcher.submit([request])
    for request in requests:
        batcher.discard(request)
    assert not batcher._waiting


def test_a_closed_batcher_hands_out_what_it_has_and_takes_no_more():
    batcher = Batcher(4)
    batcher.submit([numbered_request(0, 1)])
    batcher.close()
    with pytest.raises(Unavailable, match="stopping"):
        batcher.submit([numbered_request(1, 1)])
    assert batcher.take().images == 1
    assert batcher.take() is None
