"""A stand-in session without a network, and requests for it."""

import threading
import time

import numpy as np
from numpy.typing import NDArray

from services.embedder.inference.requests import InferenceRequest, new_request
from services.embedder.models.resident import LoadedModel
from shared.model.manifest import FileEntry, GoldenCrop, Manifest

SIZE = 8


def features_of(crops: NDArray[np.uint8], version: str) -> NDArray[np.float32]:
    """Features of the stand-in: the first bytes of each crop, rotated by the version's name."""
    turn = sum(version.encode())
    return np.roll(crops.reshape(len(crops), -1)[:, :SIZE].astype(np.float32) + 1, turn, axis=1)


class StandInSession:
    engine = "onnxruntime"
    device = "cpu"
    embedding_size = SIZE

    def __init__(self, version: str, seconds: float = 0.0) -> None:
        self.version = version
        self.seconds = seconds
        self.computed: list[tuple[int, ...]] = []
        self.batches: list[int] = []
        self.error: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self._busy = False

    def run(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert not self._busy, "two batches at once"
        self._busy = True
        self.batches.append(len(crops))
        self.computed += [number_of(crop) for crop in crops]
        assert self.go_on.wait(timeout=30)
        time.sleep(self.seconds)
        self._busy = False
        if self.error:
            raise self.error
        return features_of(crops, self.version)


def model(
    version: str, seconds: float = 0.0, compatible: tuple[str, ...] = (), **fields: object
) -> LoadedModel:
    """A model with a stand-in session, and further fields of its manifest."""
    changed = manifest(version, compatible).model_copy(update=fields)
    return LoadedModel(changed, StandInSession(version, seconds))


async def load(version: str) -> LoadedModel:
    return model(version)


def manifest(version: str, compatible: tuple[str, ...] = ()) -> Manifest:
    return Manifest(
        model_version=version,
        architecture="standin",
        embedding_size=SIZE,
        channel_order="bgr",
        threshold=0.5,
        magnitude_quantiles=(0.1, 1000.0),
        parent_version=None,
        job_id="job",
        data_snapshot=None,
        created_at="2026-01-01T00:00:00Z",
        compatible_versions=compatible,
        files={"model.onnx": FileEntry(sha256="0" * 64, size=1)},
        golden=(GoldenCrop(png="", embedding="", magnitude=1.0),),
    )


MODELS = (model("v1"), model("v2"))


def numbered_request(number: int, images: int, of: LoadedModel = MODELS[0]) -> InferenceRequest:
    """A request whose crops carry its number and their index."""
    request = new_request(of, images, lambda _: None)
    request.crops[:] = 0
    for index, crop in enumerate(request.crops):
        crop.reshape(-1)[:4] = (number % 256, number // 256, index, 0)
    return request


def number_of(crop: NDArray[np.uint8]) -> tuple[int, int]:
    low, high, index = (int(value) for value in crop.reshape(-1)[:3])
    return low + 256 * high, index
