"""Speed of decoding photographs of 12 megapixels: in decode processes, and in threads."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2

from shared.decoding.pool import DecodePool
from shared.decoding.settings import DecodingSettings
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.settings import ImageLimits
from tests.benchmarks.serving.load.measurement import Figures, alternate, ratio_of
from tests.benchmarks.serving.plan import Plan
from tests.benchmarks.serving.servers.versions import BenchVersions
from tests.support.photographs import encode_jpeg, photograph


def photographs(plan: Plan, folder: Path, versions: BenchVersions) -> Figures:
    """Photographs a second whose face is detected, over as many threads of one process.

    The threads are what the embedder had before: OpenCV uses all processors in each of them.
    """
    del folder, versions
    scene = photograph((5, 0, 1100, 500, 1600), width=4000, height=3000)
    face = FaceImage(encode_jpeg(scene), "detect")
    settings = DecodingSettings()
    reader = FaceReader(ImageLimits())
    processors = cv2.getNumThreads()
    with (
        _running_pool(settings) as pool,
        ThreadPoolExecutor(settings.decode_processes) as threads,
    ):
        raw = alternate(
            {
                "processes": lambda: asyncio.run(_in_processes(pool, face, plan.slow_s)),
                "threads": lambda: _in_threads(threads, lambda: reader.read(face), plan.slow_s),
            },
            plan.rounds,
            "photographs",
        )
    return ratio_of(raw, "processes", "threads") | {
        "unit": "photographs/s",
        "decode_processes": settings.decode_processes,
        "opencv_threads": processors,
    }


@contextmanager
def _running_pool(settings: DecodingSettings) -> Iterator[DecodePool]:
    pool = DecodePool(settings)
    pool.start()
    try:
        yield pool
    finally:
        pool.stop()


async def _in_processes(pool: DecodePool, face: FaceImage, seconds: float) -> float:
    """Read with 8 callers, and give the photographs a second."""
    start, done = time.perf_counter(), 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() - start < seconds:
            await pool.read(face, "image")
            done += 1

    await asyncio.gather(*(caller() for _ in range(8)))
    return done / (time.perf_counter() - start)


def _in_threads(threads: ThreadPoolExecutor, read: Callable[[], object], seconds: float) -> float:
    start = time.perf_counter()

    def caller() -> int:
        done = 0
        while time.perf_counter() - start < seconds:
            read()
            done += 1
        return done

    # The executor runs as many of them at a time as it has threads.
    counts = [threads.submit(caller) for _ in range(8)]
    return sum(each.result() for each in counts) / (time.perf_counter() - start)
