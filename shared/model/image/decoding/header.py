"""What a picture's header tells before anything is decompressed."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, TypeVarTuple

from shared.errors import InvalidInput, MagFaceError, without_frames

_Ts = TypeVarTuple("_Ts")
_R = TypeVar("_R")

_OBJECT: Final = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")

PictureFormat = Literal["JPEG", "PNG", "WEBP", "BMP", "HEIC", "AVIF"]

MEDIA_TYPES: Final[dict[PictureFormat, str]] = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "HEIC": "image/heic",
    "AVIF": "image/avif",
}


class BadPicture(Exception):
    """A picture that is refused; its message completes the sentence "<field> …"."""


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """Size of a picture and what decoding it costs.

    Attributes:
        format: Of the file.
        width: As stored, before the EXIF rotation, in pixels.
        height: The same.
        decode_bytes: Upper estimate of the memory that decoding takes at its peak, beside the file
            itself and including the decoded pixels.
        scans: How often the decoder passes over the pixels; above 1 for progressive JPEGs.
    """

    format: PictureFormat
    width: int
    height: int
    decode_bytes: int
    scans: int = 1

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def work(self) -> int:
        """Pixels times scans: about one to ten nanoseconds of processor time each."""
        return self.pixels * self.scans


def reading_picture(work: Callable[[*_Ts], _R], field: str, *args: *_Ts) -> _R:
    """Call a function that reads a picture; whatever it raises becomes the picture's own error.

    The error leaves without the frames in which it arose, nor their errors, because a caller who
    keeps it would keep the pixels in memory.

    Args:
        work: Takes ``args``.
        field: Path of the picture in the request.
        args: Of ``work``.

    Raises:
        MagFaceError: As raised by ``work``.
        InvalidInput: In place of any other exception.
    """
    try:
        return work(*args)
    except MagFaceError as error:
        raised = without_frames(error)
    except Exception as error:
        raised = _refusal(without_frames(error), field)
    # Outside of the except block, so that the error gets no context.
    try:
        raise raised
    finally:
        del raised


def _refusal(error: Exception, field: str) -> InvalidInput:
    if isinstance(error, BadPicture):
        return InvalidInput(field, str(error))
    if isinstance(error, MemoryError):
        return InvalidInput(field, "takes more memory to decode than there is; reduce the picture")
    # Pillow names the Python object that it reads.
    why = _OBJECT.sub("it", f"{type(error).__name__}: {error}")
    return InvalidInput(field, f"is damaged or cut short: {why}")
