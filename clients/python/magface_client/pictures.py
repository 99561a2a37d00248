"""Images and stored embeddings as callers give them, and their messages."""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias

from magface_client.results import Face, FaceBox
from magface_client.stubs import embedder_pb2, feedback_pb2, image_pb2

Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
Alignment = Literal["auto", "aligned", "landmarks", "detect"]

_ALIGNMENTS: Final[dict[str, image_pb2.Alignment.ValueType]] = {
    "aligned": image_pb2.ALIGNMENT_ALIGNED,
    "landmarks": image_pb2.ALIGNMENT_LANDMARKS,
    "detect": image_pb2.ALIGNMENT_DETECT,
}
_CROP_SIZE: Final = (112, 112)
# JPEG markers that begin a frame, which has the size.
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class Picture:
    """An image with what the service should do with it.

    Attributes:
        source: Path of a file, its bytes, or a binary file object. The bytes are sent as they are.
        alignment: ``aligned`` for a face crop; ``landmarks``; ``detect`` for a photograph, of which
            one face is used; ``auto`` for ``landmarks`` if there are any, ``aligned`` for a JPEG,
            PNG, WebP or BMP of 112x112 pixels, and ``detect`` for anything else.
        landmarks: Five points ``(x, y)`` in pixels: left eye, right eye, nose, left and right mouth
            corner, as they appear in the image.
        box: Uses the detected face that overlaps it most.
        refuse_several: Refuses an image with several detected faces and no `box`.
        mark_no_face: Embeds an aligned crop without a face, with `Face.no_face`, in place of
            refusing it.
    """

    source: Source
    alignment: Alignment = "auto"
    landmarks: Sequence[tuple[float, float]] = ()
    box: FaceBox | None = None
    refuse_several: bool = False
    mark_no_face: bool = False


@dataclass(frozen=True)
class SavedEmbedding:
    """An embedding that was kept from an earlier `Face`.

    Attributes:
        embedding: `Face.embedding`.
        model_version: `Face.model_version`.
        magnitude: `Face.magnitude`; only needed with a minimum quality.
    """

    embedding: bytes
    model_version: str
    magnitude: float | None = None


@dataclass(frozen=True)
class ByHash:
    """An image that the feedback service has stored, by the SHA-256 of the bytes that were sent."""

    sha256: str


ImageInput: TypeAlias = Source | Picture
Side: TypeAlias = ImageInput | SavedEmbedding | Face
Labelled: TypeAlias = ImageInput | ByHash


def pack_image(image: ImageInput) -> image_pb2.Image:
    """Read an image and make its message.

    Raises:
        OSError: If the file cannot be read.
        TypeError: If it is no image.
        ValueError: If the alignment has no such name.
    """
    picture = image if isinstance(image, Picture) else Picture(image)
    data = _read(picture.source)
    message = image_pb2.Image(data=data, alignment=_alignment(picture, data))
    message.landmarks.extend(image_pb2.Point(x=x, y=y) for x, y in picture.landmarks)
    if picture.box is not None:
        box = picture.box
        message.box.CopyFrom(image_pb2.Box(x=box.x, y=box.y, width=box.width, height=box.height))
    if picture.refuse_several:
        message.on_several = image_pb2.ON_SEVERAL_REFUSE
    if picture.mark_no_face:
        message.on_no_face = image_pb2.ON_NO_FACE_MARK
    return message


def pack_side(side: Side) -> embedder_pb2.VerifySide:
    """Make the message of one side of a comparison; errors as for `pack_image`."""
    if isinstance(side, Face | SavedEmbedding):
        stored = embedder_pb2.StoredEmbedding(
            embedding=side.embedding, model_version=side.model_version, magnitude=side.magnitude
        )
        return embedder_pb2.VerifySide(stored=stored)
    return embedder_pb2.VerifySide(image=pack_image(side))


def pack_labelled(image: Labelled, identity: str) -> feedback_pb2.ImageRef:
    """Make the message of an image of a label; errors as for `pack_image`."""
    if isinstance(image, ByHash):
        return feedback_pb2.ImageRef(sha256=image.sha256, identity=identity)
    return feedback_pb2.ImageRef(image=pack_image(image), identity=identity)


def _read(source: Source) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        return Path(source).read_bytes()
    data = source.read() if hasattr(source, "read") else None
    if not isinstance(data, bytes):
        raise TypeError(
            f"{source!r} is no image: give a path, the bytes of a file, or a file that is open in "
            "binary mode"
        )
    return data


def _alignment(picture: Picture, data: bytes) -> image_pb2.Alignment.ValueType:
    if picture.alignment in _ALIGNMENTS:
        return _ALIGNMENTS[picture.alignment]
    if picture.alignment != "auto":
        known = ", ".join(["auto", *_ALIGNMENTS])
        raise ValueError(f"alignment {picture.alignment!r} is not one of {known}")
    if picture.landmarks:
        return image_pb2.ALIGNMENT_LANDMARKS
    detects = picture.box is not None or picture.refuse_several
    if not detects and picture_size(data) == _CROP_SIZE:
        return image_pb2.ALIGNMENT_ALIGNED
    return image_pb2.ALIGNMENT_DETECT


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Read width and height of a JPEG, PNG, WebP or BMP, in pixels; None if they are not found."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _pair(">II", data, 16)
        if data.startswith(b"\xff\xd8"):
            return _jpeg_size(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
        if data.startswith(b"BM"):
            width, height = _pair("<ii", data, 18)
            return width, abs(height)
    except (struct.error, IndexError):
        pass
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    place = 2
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in _JPEG_FRAMES:
            height, width = _pair(">HH", data, place + 5)
            return width, height
        else:
            place += 2 + _pair(">HH", data, place + 2)[0]
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        extent = data[24:30]
        return 1 + int.from_bytes(extent[:3], "little"), 1 + int.from_bytes(extent[3:], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = _pair("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _pair(form: str, data: bytes, place: int) -> tuple[int, int]:
    first, second = struct.unpack_from(form, data, place)
    return first, second
