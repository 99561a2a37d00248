"""Reader of face images: decodes and aligns to the 112x112 crop that the network takes."""

import threading
from collections.abc import Callable
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidInput, PreconditionFailed
from shared.model.image.align import CROP_SIZE, align_face
from shared.model.image.contrast import stretch_low_contrast
from shared.model.image.decode import decode_image
from shared.model.image.decoding.header import reading_picture
from shared.model.image.decoding.jpeg import decode_plain_jpeg
from shared.model.image.detection.choice import choose_face, require_whole_face
from shared.model.image.detection.detector import FaceDetector
from shared.model.image.detection.yunet import find_detector_model
from shared.model.image.face import Box, Detection, FaceCrop, FaceImage
from shared.model.image.perceptual_hash import perceptual_hash
from shared.settings import ImageLimits

NO_DETECTOR: Final = (
    "there is no face detector here: install one with "
    "`pip install 'magface-active-learning[detect]'`, or set MAGFACE_DETECTOR_MODEL to "
    "YuNet's ONNX file; images with landmarks and aligned crops do not need it"
)

RequireFace = Callable[[FaceCrop, FaceImage, str], None]


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

    def read_plain_jpeg(self, face: FaceImage, max_pixels: int, field: str) -> FaceCrop | None:
        """Read one face from a JPEG that needs neither Pillow nor the detector.

        Args:
            face: See `read`.
            max_pixels: A larger image is not decoded.
            field: See `read`.

        Returns:
            The same as `read`; None for any other face, which `read` must read.

        Raises:
            InvalidInput: The same as for `read`.
        """
        if face.alignment == "detect" or len(face.data) > self._limits.image_max_bytes:
            return None
        max_pixels = min(max_pixels, self._limits.image_max_pixels)
        return reading_picture(self._read_plain_jpeg, f"{field}.data", face, max_pixels, field)

    def crop(self, face: FaceImage, field: str = "image") -> NDArray[np.uint8]:
        """Read only the pixels of `read`: uint8 (112, 112, 3), BGR."""
        return self.read(face, field).pixels

    def read(self, face: FaceImage, field: str = "image") -> FaceCrop:
        """Decode and align one face.

        Args:
            face: The face image.
            field: Path of the face in the request, e.g. ``images[3]``; errors name
                ``images[3].data`` and so on.

        Raises:
            InvalidInput: If the image, its alignment, landmarks or box are invalid; if no face is
                found, or several and ``on_several`` is "refuse".
            PreconditionFailed: If the face must be detected and there is no detector.
        """
        # An error in cropping holds the frames that hold the picture.
        return reading_picture(self._read, f"{field}.data", face, field)

    def check(
        self, face: FaceImage, field: str = "image", *, require: RequireFace | None = None
    ) -> bytes:
        """Check that a face can be read, and hash the whole picture.

        The face of an image with alignment "detect" is not detected, unless a face is required and
        there is a detector, or the image is to be refused if it shows several.

        Args:
            face: The face image.
            field: See `read`.
            require: Raises InvalidInput for a crop without a face, given the crop, the image and
                the field; not called if `on_no_face` is "mark". None requires no face.

        Returns:
            The perceptual hash of the picture, 32 bytes.

        Raises:
            InvalidInput: If the image, its alignment, landmarks or box cannot be used, it shows
                several faces and refuses that, or it shows none and one is required.
            PreconditionFailed: If faces must be detected and there is no detector.
        """
        return reading_picture(self._check, f"{field}.data", face, field, require)

    def detect(self, data: bytes, field: str = "image") -> Detection:
        """Decode a picture and find all faces in it.

        Args:
            data: An encoded picture.
            field: Path of the picture in the request, for errors.

        Raises:
            InvalidInput: If the picture cannot be decoded.
            PreconditionFailed: If there is no detector.
        """
        return reading_picture(self._detect, f"{field}.data", data, field)

    def _read(self, face: FaceImage, field: str) -> FaceCrop:
        if face.alignment == "detect":
            # Checked before the image is decoded, which would be wasted without a detector.
            self._require_detector()
        image = decode_image(face.data, self._limits, f"{field}.data")
        return self._crop(image, face, field)

    def _read_plain_jpeg(self, face: FaceImage, max_pixels: int, field: str) -> FaceCrop | None:
        image = decode_plain_jpeg(face.data, max_pixels)
        return None if image is None else self._crop(image, face, field)

    def _check(self, face: FaceImage, field: str, require: RequireFace | None) -> bytes:
        refuses_several = face.on_several == "refuse" and face.box is None
        if face.alignment == "detect" and refuses_several:
            self._require_detector()
        image = decode_image(face.data, self._limits, f"{field}.data")
        searched = require is not None and self._detector_model is not None
        if face.alignment != "detect" or refuses_several or searched:
            crop = self._crop(image, face, field)
            if require is not None and face.on_no_face == "refuse":
                require(crop, face, field)
        else:
            self._check_detectable(image, face, field)
        return perceptual_hash(image)

    def _check_detectable(self, image: NDArray[np.uint8], face: FaceImage, field: str) -> None:
        height, width = image.shape[:2]
        if face.landmarks:
            raise InvalidInput(
                f"{field}.landmarks", "are set, but alignment detect does not use them"
            )
        if face.box is not None:
            _check_in_image(face.box, width, height, f"{field}.box")

    def _detect(self, data: bytes, field: str) -> Detection:
        detector = self._require_detector()
        image = decode_image(data, self._limits, f"{field}.data")
        height, width = image.shape[:2]
        faces = detector.find(stretch_low_contrast(image)).certain
        return Detection(width, height, faces)

    def _crop(self, image: NDArray[np.uint8], face: FaceImage, field: str) -> FaceCrop:
        match _resolve(face, image, field):
            case "aligned":
                return FaceCrop(stretch_low_contrast(_as_crop(image, field)))
            case "landmarks":
                crop = align_face(image, face.landmarks, f"{field}.landmarks")
                return FaceCrop(stretch_low_contrast(crop))
            case "detect":
                faces = self._require_detector().find(stretch_low_contrast(image))
                chosen = choose_face(faces, face, field)
                height, width = image.shape[:2]
                require_whole_face(chosen, width, height, field)
                pixels = align_face(image, chosen.landmarks, f"{field}.data")
                return FaceCrop(stretch_low_contrast(pixels), len(faces.certain), chosen)

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
    if face.alignment != "detect" and (face.box or face.on_several == "refuse"):
        name = "box" if face.box else "on_several"
        raise InvalidInput(
            f"{field}.{name}", f"is set, but the alignment is {face.alignment}: set it to detect"
        )
    if face.alignment == "detect" and face.on_no_face == "mark":
        raise InvalidInput(
            f"{field}.on_no_face",
            "is set, but the alignment is detect: without a face there is no crop to embed",
        )
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


def _check_in_image(box: Box, width: int, height: int, field: str) -> None:
    if box.x >= width or box.y >= height or box.x + box.width <= 0 or box.y + box.height <= 0:
        raise InvalidInput(field, f"lies outside the image, which is {width}x{height}")


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
