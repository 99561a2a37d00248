"""Conversion of the contract's images and timestamps to and from domain types."""

import math
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from magface.v1 import feedback_pb2, image_pb2

from shared.errors import InvalidInput
from shared.model.image.face import (
    Alignment,
    Box,
    DetectedFace,
    FaceImage,
    Landmarks,
    OnNoFace,
    OnSeveral,
)

_ALIGNMENTS: Final[dict[image_pb2.Alignment.ValueType, Alignment]] = {
    image_pb2.ALIGNMENT_UNSPECIFIED: "unspecified",
    image_pb2.ALIGNMENT_ALIGNED: "aligned",
    image_pb2.ALIGNMENT_LANDMARKS: "landmarks",
    image_pb2.ALIGNMENT_DETECT: "detect",
}
_ALIGNMENT_NUMBERS: Final = {alignment: number for number, alignment in _ALIGNMENTS.items()}
_ON_SEVERAL: Final[dict[image_pb2.OnSeveral.ValueType, OnSeveral]] = {
    image_pb2.ON_SEVERAL_UNSPECIFIED: "largest",
    image_pb2.ON_SEVERAL_LARGEST: "largest",
    image_pb2.ON_SEVERAL_REFUSE: "refuse",
}
_ON_SEVERAL_NUMBERS: Final[dict[OnSeveral, image_pb2.OnSeveral.ValueType]] = {
    "largest": image_pb2.ON_SEVERAL_UNSPECIFIED,
    "refuse": image_pb2.ON_SEVERAL_REFUSE,
}

_ON_NO_FACE: Final[dict[image_pb2.OnNoFace.ValueType, OnNoFace]] = {
    image_pb2.ON_NO_FACE_UNSPECIFIED: "refuse",
    image_pb2.ON_NO_FACE_REFUSE: "refuse",
    image_pb2.ON_NO_FACE_MARK: "mark",
}
_ON_NO_FACE_NUMBERS: Final[dict[OnNoFace, image_pb2.OnNoFace.ValueType]] = {
    "refuse": image_pb2.ON_NO_FACE_UNSPECIFIED,
    "mark": image_pb2.ON_NO_FACE_MARK,
}


def face_from_proto(image: image_pb2.Image, field: str) -> FaceImage:
    """Unpack an Image; FaceReader checks its bytes, landmarks and alignment later.

    Args:
        image: The message.
        field: Path of the message in the request, e.g. ``images[3]``.

    Raises:
        InvalidInput: If the alignment, on_several or on_no_face is not a value of its enum, or the
            box is not finite or has no size.
    """
    alignment = _ALIGNMENTS.get(image.alignment)
    if alignment is None:
        raise InvalidInput(f"{field}.alignment", f"is {image.alignment}, which is not an Alignment")
    on_several = _ON_SEVERAL.get(image.on_several)
    if on_several is None:
        raise InvalidInput(
            f"{field}.on_several", f"is {image.on_several}, which is not an OnSeveral"
        )
    on_no_face = _ON_NO_FACE.get(image.on_no_face)
    if on_no_face is None:
        raise InvalidInput(
            f"{field}.on_no_face", f"is {image.on_no_face}, which is not an OnNoFace"
        )
    landmarks = tuple((p.x, p.y) for p in image.landmarks) if image.landmarks else ()
    box = _box_from_proto(image.box, f"{field}.box") if image.HasField("box") else None
    return FaceImage(image.data, alignment, landmarks, on_several, box, on_no_face)


def face_to_proto(face: FaceImage) -> image_pb2.Image:
    """Pack a face as an Image."""
    return image_pb2.Image(
        data=face.data,
        alignment=_ALIGNMENT_NUMBERS[face.alignment],
        landmarks=_points(face.landmarks),
        on_several=_ON_SEVERAL_NUMBERS[face.on_several],
        box=None if face.box is None else _box_to_proto(face.box),
        on_no_face=_ON_NO_FACE_NUMBERS[face.on_no_face],
    )


def detected_face_to_proto(face: DetectedFace) -> image_pb2.DetectedFace:
    """Pack a face that was detected."""
    return image_pb2.DetectedFace(
        box=_box_to_proto(face.box),
        landmarks=_points(face.landmarks),
        confidence=face.confidence,
    )


def face_or_hash_from_proto(ref: feedback_pb2.ImageRef, field: str) -> FaceImage | str:
    """Unpack an ImageRef: a face, or the lower-case SHA-256 of a stored one.

    Raises:
        InvalidInput: If neither is set.
    """
    match ref.WhichOneof("ref"):
        case "image":
            return face_from_proto(ref.image, f"{field}.image")
        case "sha256":
            return ref.sha256.lower()
        case _:
            raise InvalidInput(field, "is not set; send an image, or the sha256 of a stored one")


def pack_timestamp(moment: datetime) -> Timestamp:
    """Pack a datetime that has a time zone."""
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def _box_from_proto(box: image_pb2.Box, field: str) -> Box:
    unpacked = Box(box.x, box.y, box.width, box.height)
    for name in ("x", "y", "width", "height"):
        if not math.isfinite(value := getattr(unpacked, name)):
            raise InvalidInput(f"{field}.{name}", f"is {value}; it must be a finite number")
    for name in ("width", "height"):
        if (value := getattr(unpacked, name)) <= 0:
            raise InvalidInput(f"{field}.{name}", f"is {value:g}; it must be above 0 pixels")
    return unpacked


def _box_to_proto(box: Box) -> image_pb2.Box:
    return image_pb2.Box(x=box.x, y=box.y, width=box.width, height=box.height)


def _points(landmarks: Landmarks) -> list[image_pb2.Point]:
    return [image_pb2.Point(x=x, y=y) for x, y in landmarks]
