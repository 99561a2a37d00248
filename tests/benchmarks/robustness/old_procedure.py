"""The procedure of commit 7da27a4, which found faces in one pass; for comparison."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidInput
from shared.model.image.face import Box, DetectedFace
from tests.benchmarks.robustness.people import Picture

_LONGEST_SIDE = 640


class SinglePassDetector:
    """YuNet on the whole picture, shrunk to 640 pixels; the first face is the most prominent one.

    Args:
        path: YuNet's ONNX file.
    """

    def __init__(self, path: Path) -> None:
        self._yunet = cv2.FaceDetectorYN.create(str(path), "", (320, 320), 0.6, 0.3, 500)

    def find(self, image: Picture) -> tuple[DetectedFace, ...]:
        """Find all faces, the most prominent one first."""
        height, width = image.shape[:2]
        shrink = min(1.0, _LONGEST_SIDE / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        if shrink < 1.0:
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        self._yunet.setInputSize(size)
        _, found = self._yunet.detect(image)
        if found is None:
            return ()
        rows = np.asarray(found, np.float32)
        ratio = np.array([width / size[0], height / size[1]], dtype=np.float32)
        return tuple(_face(rows[index], ratio) for index in np.argsort(-_prominence(rows, size)))

    def choose(self, image: Picture) -> DetectedFace:
        """Return the most prominent face.

        Raises:
            InvalidInput: If no face is found.
        """
        faces = self.find(image)
        if not faces:
            raise InvalidInput("image.data", "shows no face")
        return faces[0]


def _face(row: NDArray[np.float32], ratio: NDArray[np.float32]) -> DetectedFace:
    points = (row[4:14].reshape(5, 2) + 0.5) * ratio - 0.5
    x, y, width, height = (row[:4].reshape(2, 2) * ratio).ravel().tolist()
    return DetectedFace(
        Box(x, y, width, height), tuple((x, y) for x, y in points.tolist()), float(row[14])
    )


def _prominence(rows: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the area of each box less twice its squared distance to the centre."""
    boxes = rows[:, :4]
    offset = boxes[:, :2] + boxes[:, 2:] / 2 - np.array(size, dtype=np.float32) / 2
    return np.asarray(boxes[:, 2] * boxes[:, 3] - 2.0 * (offset**2).sum(axis=1), np.float32)
