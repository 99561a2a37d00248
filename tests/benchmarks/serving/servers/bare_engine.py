"""The upper bound: onnxruntime called in a loop, without a server."""

import time
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.model.sessions.base import network_input
from shared.model.sessions.cpu import cpu_threads
from shared.settings import ImageLimits
from tests.benchmarks.serving.load.images import faces

BATCHES = (1, 4, 8, 16, 32)


class BareEngine:
    """A network in onnxruntime with its default options, except the number of threads.

    Args:
        network: The ONNX file.
    """

    def __init__(self, network: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = cpu_threads()
        options.log_severity_level = 3
        self._session = ort.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._reader = FaceReader(ImageLimits())
        self._jpegs = faces()
        self._images = network_input(np.stack([self._crop(n) for n in range(max(BATCHES))]), "bgr")

    def images_per_second(self, batch: int, seconds: float) -> float:
        """Run batches of prepared input for so many seconds, and give the throughput."""
        images, done, start = self._images[:batch], 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds or not done:
            self._session.run(None, {self._input: images})
            done += batch
        return done / elapsed if done and elapsed else 0.0

    def best_batch(self, seconds: float) -> tuple[int, dict[str, float]]:
        """Give the batch size with the highest throughput, and the throughput of each size."""
        self.images_per_second(1, 0)
        speeds = {batch: self.images_per_second(batch, seconds) for batch in BATCHES}
        return max(speeds, key=speeds.__getitem__), {str(k): v for k, v in speeds.items()}

    def decode_and_run_ms(self, seconds: float) -> float:
        """Median milliseconds from a JPEG to its features, decoded as the server does."""
        took, number, end = [], 0, time.perf_counter() + seconds
        while (start := time.perf_counter()) < end or not took:
            crop = self._crop(number % len(self._jpegs))
            self._session.run(None, {self._input: network_input(crop[None], "bgr")})
            took.append(time.perf_counter() - start)
            number += 1
        return 1000 * median(took)

    def _crop(self, number: int) -> np.ndarray:
        return self._reader.crop(FaceImage(self._jpegs[number], "aligned"))
