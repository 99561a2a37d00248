"""Choice of the face to compare."""

from collections.abc import Iterable
from typing import Final

import numpy as np

from shared.errors import InvalidInput, NoFace
from shared.model.image.align import share_outside
from shared.model.image.detection.yunet import MIN_CONFIDENCE
from shared.model.image.face import Box, DetectedFace, FaceImage, Faces

# Share of its prominence that a face loses in a corner of the picture. It is small enough for a
# face with 1.5 times the area of another one to be chosen wherever both lie.
_CORNER_LOSS: Final = 0.12
# Confidence from which on a face loses no prominence.
_FULL_CONFIDENCE: Final = 0.8
# With more of its crop missing, a face is often taken for another person.
_MOST_OUTSIDE: Final = 0.3


def by_prominence(
    faces: Iterable[DetectedFace], width: int, height: int
) -> tuple[DetectedFace, ...]:
    """Sort faces by their own size, with a mild weight for the middle of the picture.

    Args:
        faces: Found in the picture.
        width: Of the picture, in pixels.
        height: The same.
    """

    def prominence(face: DetectedFace) -> float:
        box = face.box
        x, y = box.x + box.width / 2 - width / 2, box.y + box.height / 2 - height / 2
        offset = min(1.0, float(np.hypot(x, y) / (np.hypot(width, height) / 2)))
        confidence = min(1.0, face.confidence / _FULL_CONFIDENCE)
        size = float(np.sqrt(box.width * box.height))
        return size * confidence * (1 - _CORNER_LOSS * offset)

    return tuple(sorted(faces, key=prominence, reverse=True))


def choose_face(found: Faces, wanted: FaceImage, field: str) -> DetectedFace:
    """Choose the face to compare.

    Args:
        found: What the image shows.
        wanted: The request, with its box and what to do with several faces.
        field: Path of the image in the request, for the error.

    Raises:
        NoFace: If there is no face.
        InvalidInput: If there is only one whose looks disagree, none that overlaps the box, or
            several and the request refuses that.
    """
    faces = found.certain
    if not faces and found.uncertain:
        seen = max(found.uncertain, key=lambda one: one.width * one.height)
        raise InvalidInput(
            f"{field}.data",
            f"shows a face of about {seen.width:.0f}x{seen.height:.0f} pixels at x {seen.x:.0f}, "
            f"y {seen.y:.0f}, but two looks at it disagree about its position or its angle; send a "
            "sharper or an upright picture, or landmarks",
        )
    if not faces:
        raise NoFace(
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


def require_whole_face(face: DetectedFace, width: int, height: int, field: str) -> None:
    """Check that a face does not leave its picture by so much that it cannot be compared.

    Args:
        face: The face to compare.
        width: Of the picture, in pixels.
        height: The same.
        field: Path of the image in the request, for the error.

    Raises:
        InvalidInput: If too much of its crop lies outside the picture.
    """
    outside = share_outside(np.array(face.landmarks, np.float32), width, height)
    if outside > _MOST_OUTSIDE:
        raise InvalidInput(
            f"{field}.data",
            f"shows a face that is cut off by the edge of the picture: {outside:.0%} of its crop "
            f"lies outside, and at most {_MOST_OUTSIDE:.0%} can be compared; send a picture with "
            "the whole face",
        )


def _overlap(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a.width * a.height + b.width * b.height - width * height)
