"""A face image as a caller sends it: encoded bytes, alignment and landmarks."""

from dataclasses import dataclass
from typing import Literal

Alignment = Literal["unspecified", "aligned", "landmarks", "detect"]


@dataclass(frozen=True, slots=True)
class FaceImage:
    """An image of one face, not decoded or checked yet.

    Attributes:
        data: A JPEG, PNG, WebP or BMP file.
        alignment: How to get the aligned crop. ``unspecified`` uses the landmarks if there are
            any, and otherwise treats an image of exactly 112x112 pixels as aligned.
        landmarks: Five (x, y) points in pixels after EXIF rotation, in the order of the
            ArcFace template; empty if unknown.
    """

    data: bytes
    alignment: Alignment = "unspecified"
    landmarks: tuple[tuple[float, float], ...] = ()
