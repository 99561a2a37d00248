"""What a picture's header tells before anything is decompressed."""

from dataclasses import dataclass
from typing import Final, Literal

from shared.errors import InvalidInput

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


def refusal(error: Exception, field: str) -> InvalidInput:
    """Make the error of a picture from whatever its bytes made a decoder raise.

    It refers to no other error, whose frames would keep the pixels in memory. Raise it outside of
    the except block.
    """
    if isinstance(error, BadPicture):
        return InvalidInput(field, str(error))
    if isinstance(error, MemoryError):
        return InvalidInput(field, "takes more memory to decode than there is; reduce the picture")
    return InvalidInput(field, f"is damaged: {type(error).__name__}: {error}")
