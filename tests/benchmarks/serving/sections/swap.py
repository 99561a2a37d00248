"""Version swaps under full load; every answer is compared with its version's embeddings."""

import time
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np

from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.model.sessions.base import Device
from shared.settings import ImageLimits
from tests.benchmarks.progress import log
from tests.benchmarks.serving.load.connections import Address
from tests.benchmarks.serving.load.images import faces
from tests.benchmarks.serving.load.measurement import ClientProcess, Figures, LoadReport, rate
from tests.benchmarks.serving.plan import Plan, machine
from tests.benchmarks.serving.servers.embedder import Embedder, running_embedder
from tests.benchmarks.serving.servers.versions import BenchVersions, reference_vectors

_IMAGES_A_CALL = 4
_CALLERS = 8
# Largest difference of one value of an embedding. On a GPU it depends on the size of the batch. The
# versions differ by the signs of half of their values, which are about 0.04.
_TOLERANCES: Mapping[Device, float] = {"cpu": 1e-5, "cuda": 1e-4, "cuda-fp16": 5e-3}

Span = tuple[float, float]


def swap(plan: Plan, folder: Path, versions: BenchVersions) -> Figures:
    """Swap between three versions of iResNet-18."""
    return measure_swaps(plan, folder, versions, versions.iresnet18())


def measure_swaps(
    plan: Plan, folder: Path, versions: BenchVersions, first: Path, device: Device = "cpu"
) -> Figures:
    """Swap between three versions. Two are resident, so each swap loads a version.

    Each round measures steady load, then load during back-to-back swaps. The cache is off: its
    growth would look like a memory leak.

    Args:
        plan: Durations.
        folder: For the embedder.
        versions: Makes the other two versions.
        first: Folder of one of the versions, with 512 values for a face.
        device: Device of the embedder.
    """
    loaded = [first, *(versions.differing(first, f"{first.name}-signs{n}", n) for n in (1, 2))]
    references = folder / "references.npz"
    folder.mkdir(parents=True, exist_ok=True)
    crops = _crops()
    np.savez(references, **{each.name: reference_vectors(each, crops, device) for each in loaded})
    with (
        running_embedder(folder, loaded, cache_bytes="0", device=device) as embedder,
        ClientProcess(
            Address("grpc", embedder.address),
            "checked",
            callers=_CALLERS,
            images=_IMAGES_A_CALL,
            references=str(references.absolute()),
            tolerance=_TOLERANCES[device],
        ) as client,
    ):
        names = cycle([each.name for each in (*loaded[1:], first)])
        # The first measurement of memory is of a server with two resident versions.
        for _ in range(3):
            embedder.swap_to(next(names))
        time.sleep(plan.warm_s)
        steady, swapping, memory = _rounds(plan, embedder, names)
        seen = client.finish()
    return _figures(plan, seen, steady, swapping, memory) | {"device": device}


def _rounds(
    plan: Plan, embedder: Embedder, names: "cycle[str]"
) -> tuple[list[Span], list[Span], list[int]]:
    steady: list[Span] = []
    swapping: list[Span] = []
    memory: list[int] = []
    for number in range(plan.rounds + 1):
        start = time.monotonic()
        time.sleep(plan.slow_s)
        steady.append((start, time.monotonic()))
        memory.append(embedder.rss_bytes)
        if number == plan.rounds:
            break
        start = time.monotonic()
        for _ in range(plan.swaps):
            embedder.swap_to(next(names))
        swapping.append((start, time.monotonic()))
        log(f"swap, round {number + 1} of {plan.rounds}: {plan.swaps} swaps")
    return steady, swapping, memory


def _figures(
    plan: Plan, seen: LoadReport, steady: list[Span], swapping: list[Span], memory: list[int]
) -> Figures:
    before = [_images_per_second(seen, span) for span in steady]
    during = [_images_per_second(seen, span) for span in swapping]
    # Each round of swaps is compared with the steady load before and after it.
    # Without an answer in steady load there is nothing to compare with, and the target is missed.
    ratios = [
        2 * d / (a + b) if a + b else 0.0
        for d, a, b in zip(during, before, before[1:], strict=False)
    ]
    return {
        "swaps": plan.rounds * plan.swaps + 3,
        "answers": seen.codes.get("OK", 0),
        "failed": sum(seen.codes.values()) - seen.codes.get("OK", 0),
        "mixed": seen.faults.get("mixed", 0),
        "wrong": seen.faults.get("wrong", 0),
        "throughput_ratio": median(ratios),
        "memory_growth": memory[-1] / memory[0] - 1,
        "images_a_call": _IMAGES_A_CALL,
        "callers": _CALLERS,
        "cache_bytes": 0,
        "seconds_a_swap": median((end - start) / plan.swaps for start, end in swapping),
        "raw": {
            "steady_images_per_second": before,
            "swapping_images_per_second": during,
            "rss_bytes": memory,
            "codes": seen.codes,
        },
        "machine": machine(),
    }


def _images_per_second(seen: LoadReport, span: Span) -> float:
    start, end = span
    return _IMAGES_A_CALL * rate([each for each in seen.ended if start <= each <= end])


def _crops() -> np.ndarray:
    reader = FaceReader(ImageLimits())
    return np.stack([reader.crop(FaceImage(jpeg, "aligned")) for jpeg in faces()])
