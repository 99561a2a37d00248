"""The pool of decode processes: what a picture costs, it costs itself alone."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from math import inf

import numpy as np
import psutil
import pytest

from shared.decoding.pool import DecodePool
from shared.decoding.settings import DecodingSettings
from shared.errors import InvalidInput, Overloaded
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.settings import ImageLimits
from tests.shared.decoding.hostile import flat_png, slow_jpeg, small_png
from tests.support.photographs import GROUP, encode_jpeg, photograph
from tests.support.waiting import until, wait_until

SMALL = FaceImage(small_png(), "aligned")
LARGE = FaceImage(flat_png(8100, 6000), "landmarks", ((1.0, 1.0), (9.0, 1.0)))
# About ten seconds of work.
SLOW = FaceImage(slow_jpeg(7000, 7000, 300), "aligned")


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    pool = DecodePool(DecodingSettings(decode_processes=2, decode_cpu_s=0.5))
    pool.start()
    yield pool
    pool.stop()


def _processes() -> list[psutil.Process]:
    """Decode processes of the newest pool of this process, without the one that forks them."""
    servers = [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE
        and "shared.decoding.fork_server" in child.cmdline()
    ]
    return max(servers, key=psutil.Process.create_time).children() if servers else []


async def test_it_gives_what_a_reader_gives(pool):
    reader = FaceReader(ImageLimits())
    face = FaceImage(encode_jpeg(photograph(*GROUP)), "detect")
    got, wanted = await pool.read(face, "image"), reader.read(face)
    assert np.array_equal(got.pixels, wanted.pixels)
    assert (got.faces_found, got.face) == (wanted.faces_found, wanted.face)
    assert await pool.detect(face.data, "image") == reader.detect(face.data)
    await pool.check(face, "image")


@pytest.mark.parametrize(
    "face",
    [
        FaceImage(b"", "aligned"),
        FaceImage(b"no picture", "aligned"),
        FaceImage(small_png()[:-30], "aligned"),
        FaceImage(small_png(), "landmarks", ((1.0, float("nan")),) * 5),
    ],
)
async def test_its_errors_are_those_of_a_reader(pool, face):
    with pytest.raises(InvalidInput) as wanted:
        FaceReader(ImageLimits()).read(face, "images[3]")
    with pytest.raises(InvalidInput) as got:
        await pool.read(face, "images[3]")
    assert (got.value.field, got.value.reason) == (wanted.value.field, wanted.value.reason)
    assert got.value.__traceback__.tb_next is None or got.value.__context__ is None


async def test_a_picture_that_takes_too_long_is_refused_and_others_go_on(pool, monkeypatch):
    monkeypatch.setattr("shared.model.image.decoding.inspector._MAX_SCANS", inf)
    slow = asyncio.create_task(pool.read(SLOW, "images[1]"))
    await asyncio.gather(*(pool.read(SMALL, "image") for _ in range(50)))
    with pytest.raises(InvalidInput, match=r"^images\[1\].data: "):
        await slow
    await pool.read(SMALL, "image")


async def test_the_deadline_and_the_caller_end_the_work(pool):
    started = time.monotonic()
    with pytest.raises(Overloaded, match="deadline"):
        await pool.read(LARGE, "image", time.monotonic() + 0.1)
    given_up = asyncio.create_task(pool.read(LARGE, "image"))
    await asyncio.sleep(0.1)
    given_up.cancel()
    # The lane of large pictures is free again.
    with pytest.raises(InvalidInput):
        await pool.read(LARGE, "image")
    assert time.monotonic() - started < 30


async def test_a_killed_process_costs_no_picture(pool):
    await pool.read(SMALL, "image")
    outcomes = asyncio.gather(*(pool.read(SMALL, "image") for _ in range(400)))
    for _ in range(3):
        await asyncio.sleep(0.02)
        for process in _processes()[:1]:
            process.send_signal(signal.SIGKILL)
    assert all(crop.pixels.shape == (112, 112, 3) for crop in await outcomes)


async def test_after_the_fork_server_was_killed_there_is_another(pool):
    await pool.read(SMALL, "image")
    (server,) = {process.parent() for process in _processes()}
    server.kill()
    crops = await asyncio.gather(*(pool.read(SMALL, "image") for _ in range(10)))
    assert len(crops) == 10


async def test_processes_that_are_killed_together_cost_no_picture(pool):
    await pool.read(SMALL, "image")
    for _ in range(10):
        for process in _processes():
            process.send_signal(signal.SIGKILL)
        crops = await asyncio.gather(*(pool.read(SMALL, "image") for _ in range(4)))
        assert len(crops) == 4


async def test_a_picture_that_crashes_its_process_is_its_own_error(pool):
    await pool.read(SMALL, "image")
    crashing = asyncio.create_task(pool.read(LARGE, "images[2]"))
    nice = await asyncio.to_thread(_slow_process)
    await until(lambda: nice.cpu_times().user > 0.05)
    nice.send_signal(signal.SIGSEGV)
    with pytest.raises(InvalidInput, match=r"^images\[2\].data: could not be decoded: it ended"):
        await crashing
    await pool.read(SMALL, "image")


def _slow_process() -> psutil.Process:
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [each for each in _processes() if each.nice() == 19]
        return bool(found)

    wait_until(look, 20)
    return found[0]


async def test_many_large_pictures_are_decoded_one_at_a_time_and_small_ones_pass_them(pool):
    done: list[str] = []

    async def read(name: str, face: FaceImage) -> None:
        with contextlib.suppress(InvalidInput):
            await pool.read(face, "image")
        done.append(name)

    large = [asyncio.create_task(read("large", LARGE)) for _ in range(4)]
    small = [asyncio.create_task(read("small", SMALL)) for _ in range(20)]
    most = 0
    while not all(task.done() for task in large + small):
        most = max(most, _resident(_processes()))
        await asyncio.sleep(0.02)
    assert "small" not in done[done.index("large") + 1 :]
    assert most < 900 * 2**20


def _resident(processes: list[psutil.Process]) -> int:
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def test_stopping_decodes_what_was_submitted_and_ends_the_processes():
    pool = DecodePool(DecodingSettings(decode_processes=1))
    pool.start()
    got: list[int] = []
    pool.submit("read", [("image", SMALL)] * 30, lambda number, _: got.append(number))
    pool.stop()
    assert sorted(got) == list(range(30))
    assert not any(thread.is_alive() for thread in pool._threads)


def test_the_processes_end_with_a_killed_service():
    code = (
        "import time\n"
        "from tests.support.decoding import decode_pool\n"
        "decode_pool()\n"
        "time.sleep(100)\n"
    )
    service = subprocess.Popen([sys.executable, "-c", code])
    try:

        def family() -> list[psutil.Process]:
            return psutil.Process(service.pid).children(recursive=True)

        wait_until(lambda: len(family()) == 4, 60)
        left = family()
    finally:
        os.kill(service.pid, signal.SIGKILL)
        service.wait()
    _, alive = psutil.wait_procs(left, 20)
    assert not alive
