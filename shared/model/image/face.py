"""A face image as a caller sends it, and what is found in it; imports no OpenCV."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Alignment = Literal["unspecified", "aligned", "landmarks", "detect"]
# What to do with several faces: compare the most prominent one, or refuse the image.
OnSeveral = Literal["largest", "refuse"]
# What to do with a crop that shows no face: refuse the image, or embed it and mark the result.
OnNoFace = Literal["refuse", "mark"]
Landmarks = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Box:
    """An upright rectangle, in pixels of the image after EXIF rotation.

    Attributes:
        x: Left edge; negative if the rectangle begins outside the image.
        y: Top edge.
    """

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class DetectedFace:
    """A face that the detector found.

    Attributes:
        box: Around the face.
        landmarks: Five (x, y) points in pixels after EXIF rotation, in the order of the ArcFace
            template as the face would look upright.
        confidence: Of the detector, 0..1.
    """

    box: Box
    landmarks: Landmarks
    confidence: float


@dataclass(frozen=True, slots=True)
class Faces:
    """What a picture shows.

    Attributes:
        certain: The faces that a second look confirmed, the most prominent one first.
        uncertain: Boxes of faces that two looks saw, but at different places or angles.
    """

    certain: tuple[DetectedFace, ...]
    uncertain: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Detection:
    """The faces of one image.

    Attributes:
        width: Of the image after EXIF rotation, in pixels.
        height: The same.
        faces: The most prominent one first; may be empty.
    """

    width: int
    height: int
    faces: tuple[DetectedFace, ...]


@dataclass(frozen=True, slots=True)
class FaceImage:
    """An image of one face, not decoded or checked yet.

    Attributes:
        data: An encoded picture, for example a JPEG file.
        alignment: How to get the aligned crop. ``unspecified`` uses the landmarks if there are
            any, and otherwise treats an image of exactly 112x112 pixels as aligned.
        landmarks: Five (x, y) points in pixels after EXIF rotation, in the order of the
            ArcFace template; empty if unknown.
        on_several: For ``detect``: what to do if several faces are found and there is no box.
        box: For ``detect``: takes the face that overlaps this box most; None takes the most
            prominent one.
        on_no_face: For an aligned crop, or one that is cut out by landmarks: what to do if it shows
            no face. Only the embedder looks.
    """

    data: bytes
    alignment: Alignment = "unspecified"
    landmarks: Landmarks = ()
    on_several: OnSeveral = "largest"
    box: Box | None = None
    on_no_face: OnNoFace = "refuse"


@dataclass(frozen=True, slots=True)
class FaceCrop:
    """The aligned crop of one face.

    Attributes:
        pixels: uint8, (112, 112, 3), BGR.
        faces_found: Faces that the detector found in the image; 0 if it did not run.
        face: The detected face that the crop shows; None if the detector did not run.
    """

    pixels: NDArray[np.uint8]
    faces_found: int = 0
    face: DetectedFace | None = None
