"""A face image as a caller sends it: encoded bytes, alignment and landmarks."""

from dataclasses import dataclass
from typing import Literal

Alignment = Literal["unspecified", "aligned", "landmarks", "detect"]


@dataclass(frozen=True, slots=True)
class FaceImage:
    """One picture of one face, not yet looked at.

    Attributes:
        data: A JPEG, PNG, WebP or BMP file.
        alignment: How the face lies in it. ``unspecified`` takes landmarks when there
            are some, and otherwise the picture as aligned when it is exactly 112x112.
        landmarks: Five (x, y) points in pixels after EXIF rotation, in the order of the
            ArcFace template; empty when not known.
    """

    data: bytes
    alignment: Alignment = "unspecified"
    landmarks: tuple[tuple[float, float], ...] = ()
