"""The engine, with real networks and with a stand-in session that fails."""

import queue

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.embedder.inference.batcher import Batcher
from services.embedder.inference.engine import InferenceEngine
from services.embedder.inference.requests import EngineOutput, new_request
from services.embedder.models.resident import LoadedModel
from shared.errors import CorruptData, Overloaded
from shared.model.manifest import read_manifest
from shared.model.sessions.base import split_features
from shared.model.sessions.factory import open_session
from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.faces import crops
from tests.services.embedder.standin import model, numbered_request


class _Running:
    """An engine whose results can be waited for, in the order it delivers them."""

    def __init__(self, limit: int = 4) -> None:
        self.batcher = Batcher(limit)
        self._results: queue.Queue = queue.Queue()
        self.engine = InferenceEngine(self.batcher, self._deliver)

    def __enter__(self) -> "_Running":
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.stop()

    def _deliver(self, results) -> None:
        for each in results():
            self._results.put(each)

    def outcomes(self, count: int) -> dict:
        return dict(self._results.get(timeout=20) for _ in range(count))


@pytest.fixture(scope="module")
def loaded(tiny_versions, bare_sessions) -> dict[str, LoadedModel]:
    return {v: LoadedModel(read_manifest(f), bare_sessions[v]) for v, f in tiny_versions.items()}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8), limit=st.integers(1, 8))
def test_what_a_face_gets_does_not_depend_on_its_batch(loaded, bare_sessions, sizes, limit):
    faces = crops(sum(sizes), seed=sum(sizes))
    expected, _ = split_features(
        np.concatenate([bare_sessions[VERSIONS[0]].run(face[None]) for face in faces])
    )
    with _Running(limit) as running:
        requests, start = [], 0
        for size in sizes:
            request = new_request(loaded[VERSIONS[0]], size, lambda _: None)
            request.crops[:] = faces[start : start + size]
            requests.append((request, start))
            start += size
            running.batcher.submit([request])
        outcomes = running.outcomes(len(requests))
    for request, start in requests:
        answer = outcomes[request]
        np.testing.assert_allclose(
            answer.embeddings, expected[start : start + request.images], atol=1e-5
        )


def test_work_that_waits_together_is_answered_by_the_version_each_is_for(loaded):
    running = _Running()
    requests = [numbered_request(1, 3, loaded[version]) for version in (*VERSIONS, VERSIONS[0])]
    for request in requests:
        running.batcher.submit([request])
    with running:
        outcomes = running.outcomes(3)
    first, other, again = (outcomes[request].embeddings for request in requests)
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-2)


def test_a_failing_batch_is_reported_to_its_callers_and_the_engine_goes_on():
    with _Running() as running:
        standin = model("v1")
        standin.session.error = RuntimeError("out of memory")
        bad, good = numbered_request(0, 1, standin), numbered_request(1, 1, standin)
        running.batcher.submit([bad])
        assert str(running.outcomes(1)[bad]) == "out of memory"
        standin.session.error = None
        running.batcher.submit([good])
        assert isinstance(running.outcomes(1)[good], EngineOutput)


def test_an_unusable_row_does_not_take_its_neighbours_answers_away():
    running = _Running()
    standin = model("v1")
    run = standin.session.run

    def run_with_nan(batch: np.ndarray) -> np.ndarray:
        raw = run(batch)
        raw[1] = np.nan
        return raw

    standin.session.run = run_with_nan
    requests = [numbered_request(number, 1, standin) for number in range(3)]
    for request in requests:
        running.batcher.submit([request])
    with running:
        outcomes = running.outcomes(3)
    kinds = [type(outcomes[request]) for request in requests]
    assert kinds == [EngineOutput, CorruptData, EngineOutput]


def test_work_past_its_deadline_is_told_so_and_not_computed():
    running = _Running()
    standin = model("v1")
    late, fresh = numbered_request(0, 1, standin), numbered_request(1, 1, standin)
    late.deadline = 0.0
    running.batcher.submit([late])
    running.batcher.submit([fresh])
    with running:
        outcomes = running.outcomes(2)
    assert isinstance(outcomes[late], Overloaded)
    assert standin.session.computed == [(1, 0)]


def test_stopping_computes_what_is_queued():
    running = _Running(limit=1)
    slow = model("v1", seconds=0.01)
    requests = [numbered_request(number, 1, slow) for number in range(5)]
    for request in requests:
        running.batcher.submit([request])
    running.engine.start()
    running.engine.stop()
    assert set(running.outcomes(5)) == set(requests)


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_a_call_larger_than_a_batch_is_computed_in_parts_by_one_version(tiny_versions, engine):
    folder, limit = tiny_versions[VERSIONS[0]], 4
    session = open_session(folder, engine, threads=1, batch_images=limit)
    runs, run = [], session._run_batch

    def record_and_run(batch: np.ndarray) -> np.ndarray:
        runs.append(len(batch))
        return run(batch)

    session._run_batch = record_and_run
    running = _Running(limit)
    request = numbered_request(0, 10, LoadedModel(read_manifest(folder), session))
    running.batcher.submit([request])
    with running:
        answer = running.outcomes(1)[request]
    assert runs == [4, 4, 2]
    expected, _ = split_features(open_session(folder, engine, threads=1).run(request.crops))
    np.testing.assert_allclose(answer.embeddings, expected, atol=1e-5)
