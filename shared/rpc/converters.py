"""The one place where the contract's images and the domain's faces meet."""

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
    """Unpack an Image; its bytes and landmarks are looked at later, by FaceReader.

    Args:
        image: The message.
        field: Where it stands in the request, e.g. ``images[3]``.

    Raises:
        InvalidInput: If the alignment is a number this contract does not have.
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
    """Unpack an ImageRef: a face sent along, or the hash of a stored one, in lower case.

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
    """Pack an aware moment."""
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
