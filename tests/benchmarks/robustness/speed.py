"""Time of decoding, detecting and aligning, per photograph."""

import time
from contextlib import suppress
from typing import Any

import cv2

from shared.errors import InvalidInput
from shared.model.image.align import align_face
from shared.model.image.decode import decode_image
from shared.settings import ImageLimits
from tests.benchmarks.robustness.judgement import Choose
from tests.benchmarks.robustness.people import Person

_ROUNDS = 7
_QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 92)


def time_per_photograph(people: list[Person], procedures: dict[str, Choose]) -> dict[str, Any]:
    """Measure the procedures alternately; `ms` is that of the quickest round."""
    limits = ImageLimits()
    files = [cv2.imencode(".jpg", p.photograph, _QUALITY)[1].tobytes() for p in people]
    seconds: dict[str, list[float]] = {name: [] for name in procedures}
    for turn in range(_ROUNDS + 1):
        for name in sorted(procedures, reverse=bool(turn % 2)):
            start = time.perf_counter()
            for file in files:
                image = decode_image(file, limits)
                # Refusing a picture takes its time as well.
                with suppress(InvalidInput):
                    align_face(image, procedures[name](image).landmarks)
            seconds[name].append((time.perf_counter() - start) / len(files))
    # The first round warms up.
    return {name: {"ms": 1e3 * min(times[1:])} for name, times in seconds.items()}
