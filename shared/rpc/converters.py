"""Conversion of the contract's images and timestamps to and from domain types."""

from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from magface.v1 import feedback_pb2, image_pb2

from shared.errors import InvalidInput
from shared.model.image.face import Alignment, FaceImage

_TO_DOMAIN: Final[dict[image_pb2.Alignment.ValueType, Alignment]] = {
    image_pb2.ALIGNMENT_UNSPECIFIED: "unspecified",
    image_pb2.ALIGNMENT_ALIGNED: "aligned",
    image_pb2.ALIGNMENT_LANDMARKS: "landmarks",
    image_pb2.ALIGNMENT_DETECT: "detect",
}
_TO_PROTO: Final = {alignment: number for number, alignment in _TO_DOMAIN.items()}


def face_from_proto(image: image_pb2.Image, field: str) -> FaceImage:
    """Unpack an Image; FaceReader checks its bytes and landmarks later.

    Args:
        image: The message.
        field: Path of the message in the request, e.g. ``images[3]``.

    Raises:
        InvalidInput: If the alignment is not a value of the enum.
    """
    alignment = _TO_DOMAIN.get(image.alignment)
    if alignment is None:
        raise InvalidInput(f"{field}.alignment", f"is {image.alignment}, which is not an Alignment")
    landmarks = tuple((p.x, p.y) for p in image.landmarks) if image.landmarks else ()
    return FaceImage(image.data, alignment, landmarks)


def face_to_proto(face: FaceImage) -> image_pb2.Image:
    """Pack a face as an Image."""
    return image_pb2.Image(
        data=face.data,
        alignment=_TO_PROTO[face.alignment],
        landmarks=[image_pb2.Point(x=x, y=y) for x, y in face.landmarks],
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
