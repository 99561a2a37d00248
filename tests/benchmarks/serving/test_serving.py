"""Parts of the serving benchmark; `make bench-serving` runs all of it."""

import asyncio
import hashlib
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from shared.model.golden import check_golden
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.model.manifest import ONNX_FILE, read_manifest
from shared.model.sessions.factory import open_session
from shared.settings import ImageLimits
from tests.benchmarks.serving.load.connections import Address, connect_clients, http_request
from tests.benchmarks.serving.load.images import fresh, repeated, with_comment
from tests.benchmarks.serving.load.measurement import rate, ratio_of, run_load
from tests.benchmarks.serving.load.patterns import find_fault
from tests.benchmarks.serving.plan import make_plan
from tests.benchmarks.serving.section_store import SectionStore
from tests.benchmarks.serving.servers.embedder import running_embedder, sum_samples
from tests.benchmarks.serving.servers.versions import (
    BenchVersions,
    reference_vectors,
    with_signs,
    write_version,
)
from tests.benchmarks.serving.targets import TARGETS, compare_with_targets
from tests.services.embedder.faces import crops

JPEGS = [b"\xff\xd8first", b"\xff\xd8second"]


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version with the almost-free network."""
    return BenchVersions(tmp_path_factory.mktemp("versions"), quick=True).almost_free()


def _jpeg(crop: np.ndarray) -> bytes:

    return cv2.imencode(".jpg", crop)[1].tobytes()


def test_every_fresh_picture_is_a_new_file_with_the_same_pixels() -> None:
    jpeg, reader = _jpeg(crops(1)[0]), FaceReader(ImageLimits())
    files = [data for _, data in islice(fresh([jpeg]), 50)]
    assert len({hashlib.sha256(data).digest() for data in files}) == 50
    pixels = [reader.crop(FaceImage(data, "aligned")) for data in (jpeg, files[0], files[-1])]
    assert np.array_equal(pixels[0], pixels[1])
    assert np.array_equal(pixels[0], pixels[2])
    assert with_comment(jpeg, b"a") != with_comment(jpeg, b"b")


def test_pictures_say_which_face_they_show() -> None:
    assert [face for face, _ in islice(fresh(JPEGS), 4)] == [0, 1, 0, 1]
    assert [data for _, data in islice(repeated(JPEGS), 3)] == [JPEGS[0], JPEGS[1], JPEGS[0]]


@pytest.mark.parametrize("phase", [0.0, 0.4, 1.1])
@pytest.mark.parametrize("bursts", [[(32, 1.2)], [(1, 0.05), (31, 1.15)], [(1, 0.01)]])
def test_the_rate_does_not_depend_on_where_a_window_cuts_batches(
    bursts: list[tuple[int, float]], phase: float
) -> None:
    ended, now = [], phase
    while now < 9:
        for calls, seconds in bursts:
            now += seconds
            ended += [now] * calls
    within = [each for each in ended if 1.5 <= each <= 8.5]
    expected = sum(calls for calls, _ in bursts) / sum(seconds for _, seconds in bursts)
    assert rate(within) == pytest.approx(expected, rel=0.01)


def test_a_ratio_is_the_median_over_rounds_and_keeps_what_was_measured() -> None:
    found = ratio_of({"ours": [3.0, 8.0, 1.0], "theirs": [1.0, 2.0, 2.0]}, "ours", "theirs")
    assert (found["value"], found["medians"]) == (3.0, {"ours": 3.0, "theirs": 2.0})
    assert found["raw"]["ours"] == [3.0, 8.0, 1.0]
    assert {"cores", "load_average"} <= set(found["machine"])


def test_the_almost_free_version_passes_the_embedders_own_check(free: Path) -> None:
    session, manifest = open_session(free), read_manifest(free)
    check_golden(session, manifest)
    black = session.run(np.zeros((3, 112, 112, 3), np.uint8))
    assert black.shape == (3, 512)
    assert (np.linalg.norm(black, axis=1) > 0).all()


def test_versions_that_differ_only_in_signs_answer_differently(free: Path, tmp_path: Path) -> None:
    write_version(tmp_path / "other", with_signs(onnx.load(free / ONNX_FILE), seed=1))
    faces = crops(2)
    first, other = reference_vectors(free, faces), reference_vectors(tmp_path / "other", faces)
    np.testing.assert_allclose(np.abs(first), np.abs(other), atol=1e-6)
    assert np.abs(first - other).max() > 0.01


def test_an_answer_is_right_mixed_or_wrong() -> None:
    references = {"a": np.eye(3, 512, dtype=np.float32), "b": -np.eye(3, 512, dtype=np.float32)}
    a, b = references["a"], references["b"]
    assert find_fault(a[[2, 0]], "a", [2, 0], references, tolerance=1e-5) == ""
    assert find_fault(b[[2, 0]], "a", [2, 0], references, tolerance=1e-5) == "wrong"
    assert find_fault(np.stack([a[2], b[0]]), "a", [2, 0], references, tolerance=1e-5) == "mixed"
    assert find_fault(a[[0, 2]], "a", [2, 0], references, tolerance=1e-5) == "wrong"


def test_samples_are_chosen_by_their_labels() -> None:
    page = 'calls_total{code="OK",method="/a/Embed"} 3.0\ncalls_total{code="X",method="/a/Embed"} 2'
    assert sum_samples(page, "calls_total", {}) == 5
    assert sum_samples(page, "calls_total", {"code": "OK"}) == 3
    assert sum_samples("images_sum 7.5", "images_sum", {}) == 7.5


def test_pictures_travel_to_triton_with_their_length() -> None:
    address = Address("triton", "host:1", "/v2/models/faces/infer")
    head, _, body = http_request(address, b"jpeg").partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head
    assert body.endswith(b"\x04\x00\x00\x00jpeg")
    assert b'"shape": [1, 1]' in body


async def test_an_http_answer_may_come_in_pieces() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"jpeg"):
            for piece in (b"HTTP/1.1 200 OK\r\nContent-", b"Length: 2049\r\n\r\n{", bytes(2048)):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with connect_clients(Address("http", f"{host}:{port}"), 1) as (caller,):
        assert [await caller.embed(b"jpeg") for _ in range(2)] == [bytes(2048)] * 2
    server.close()


def test_finished_sections_are_found_again_but_not_those_of_a_quick_run(tmp_path: Path) -> None:
    file = tmp_path / "sections.json"
    SectionStore(file, quick=True).put("engine", {"value": 1})
    assert SectionStore(file, quick=True).get("engine") == {"value": 1}
    assert SectionStore(file, quick=False).get("engine") is None
    assert SectionStore(file, quick=True).get("swap") is None


def test_each_bar_is_held_or_missed_by_its_figure() -> None:
    found = compare_with_targets(
        {
            "engine": {"value": 0.94},
            "latency": {"value": 1.05},
            "peers": {
                "fastapi": {"installed": "fastapi 1", "almost_free": {"value": 1.2}},
                "kserve": {"installed": "kserve 1", "iresnet18": {"reason": "did not start"}},
                "bentoml": {"reason": "no network"},
                "machine_at_start": {},
            },
        }
    )
    assert not found["engine_ratio"]["held"]
    assert found["latency_ratio"]["held"]
    assert found["peers.fastapi.almost_free"] == {"value": 1.2, "bar": "above 1", "held": True}
    assert found["peers.kserve.iresnet18"] == {"reason": "did not start"}
    assert found["peers.bentoml.installed"]["reason"] == "no network"
    assert len(found) == 5 < len(TARGETS)


def test_a_quick_run_is_told_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERVING_QUICK", raising=False)
    assert make_plan().rounds >= 5
    assert not make_plan().quick
    monkeypatch.setenv("SERVING_QUICK", "1")
    assert make_plan().quick


@pytest.mark.slow
def test_a_client_process_asks_a_real_embedder(free: Path, tmp_path: Path) -> None:
    with running_embedder(tmp_path, [free]) as embedder:
        report = run_load(Address("grpc", embedder.address), 0.5, callers=4)
        computed = embedder.metric("magface_embedder_batch_images_sum")
    assert report.codes == {"OK": len(report.ended)}
    assert report.calls_per_second() > 0
    # The cache had no hits.
    assert computed == len(report.ended)
