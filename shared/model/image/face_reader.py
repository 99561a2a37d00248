"""Reader of face images: decodes and aligns to the 112x112 crop that the network takes."""

import threading
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidInput, PreconditionFailed
from shared.model.image.align import CROP_SIZE, align_face
from shared.model.image.decode import decode_image
from shared.model.image.detector import FaceDetector, find_detector_model
from shared.model.image.face import FaceImage
from shared.model.image.jpeg import decode_plain_jpeg
from shared.settings import ImageLimits

NO_DETECTOR: Final = (
    "there is no face detector here: install one with "
    "`pip install 'magface-active-learning[detect]'`, or set MAGFACE_DETECTOR_MODEL to "
    "YuNet's ONNX file; images with landmarks and aligned crops do not need it"
)


class FaceReader:
    """Reads aligned crops from face images; threads may share it.

    Args:
        limits: Limits on the size of an image, and the path of the detector model.

    Raises:
        PreconditionFailed: If ``limits`` names a detector model that does not exist.
    """

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._detector_model = find_detector_model(limits)
        self._detector: FaceDetector | None = None
        self._lock = threading.Lock()

    def crop_plain_jpeg(
        self, face: FaceImage, max_pixels: int, field: str
    ) -> NDArray[np.uint8] | None:
        """Read one face from a JPEG that needs neither Pillow nor the detector.

        Args:
            face: See `crop`.
            max_pixels: A larger image is not decoded.
            field: See `crop`.

        Returns:
            The same as `crop`; None for any other face, which `crop` must read.

        Raises:
            InvalidInput: The same as for `crop`.
        """
        if face.alignment == "detect" or len(face.data) > self._limits.image_max_bytes:
            return None
        max_pixels = min(max_pixels, self._limits.image_max_pixels)
        image = decode_plain_jpeg(face.data, max_pixels, f"{field}.data")
        return None if image is None else self._crop(image, face, field)

    def crop(self, face: FaceImage, field: str = "image") -> NDArray[np.uint8]:
        """Decode and align one face.

        Args:
            face: The face image.
            field: Path of the face in the request, e.g. ``images[3]``; errors name
                ``images[3].data`` and so on.

        Returns:
            uint8 of shape (112, 112, 3), BGR.

        Raises:
            InvalidInput: If the image, its alignment or its landmarks are invalid.
            PreconditionFailed: If the face must be detected and there is no detector.
        """
        if face.alignment == "detect":
            # Checked before the image is decoded, which would be wasted without a detector.
            self._require_detector()
        image = decode_image(face.data, self._limits, f"{field}.data")
        return self._crop(image, face, field)

    def _crop(self, image: NDArray[np.uint8], face: FaceImage, field: str) -> NDArray[np.uint8]:
        match _resolve(face, image, field):
            case "aligned":
                return _as_crop(image, field)
            case "landmarks":
                return align_face(image, face.landmarks, f"{field}.landmarks")
            case "detect":
                points = self._require_detector().landmarks(image, f"{field}.data")
                return align_face(image, points, f"{field}.data")

    def _require_detector(self) -> FaceDetector:
        if self._detector_model is None:
            raise PreconditionFailed(NO_DETECTOR)
        with self._lock:
            if self._detector is None:
                self._detector = FaceDetector(self._detector_model)
            return self._detector


def _resolve(
    face: FaceImage, image: NDArray[np.uint8], field: str
) -> Literal["aligned", "landmarks", "detect"]:
    if face.alignment == "unspecified":
        if face.landmarks:
            return "landmarks"
        height, width = image.shape[:2]
        if (height, width) == (CROP_SIZE, CROP_SIZE):
            return "aligned"
        raise InvalidInput(
            f"{field}.alignment",
            f"is unspecified and the image is {width}x{height}, not 112x112: set it to "
            "aligned or detect, or send landmarks",
        )
    if face.landmarks and face.alignment != "landmarks":
        raise InvalidInput(
            f"{field}.landmarks",
            f"are given, but the alignment is {face.alignment}, which does not use them",
        )
    return face.alignment


def _as_crop(image: NDArray[np.uint8], field: str) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if height != width:
        raise InvalidInput(
            f"{field}.data",
            f"is {width}x{height}; an aligned crop must be square, preferably 112x112",
        )
    if height == CROP_SIZE:
        return image
    method = cv2.INTER_AREA if height > CROP_SIZE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (CROP_SIZE, CROP_SIZE), interpolation=method), np.uint8)
