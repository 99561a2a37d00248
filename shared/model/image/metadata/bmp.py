"""BMP: its headers, palette and pixels, without a colour profile and what follows them."""

from typing import Final

from shared.model.image.decoding.bmp import pixels_end

_SIZE: Final = slice(2, 6)
_HEADER_BYTES: Final = slice(14, 18)
# The header with a profile, and the place of the profile in it.
_WITH_PROFILE: Final = 124
_PROFILE: Final = slice(14 + 112, 14 + 120)


def strip_bmp(data: bytes) -> bytes:
    """Give the file without its colour profile and trailing bytes.

    Raises:
        BadPicture: If its header is damaged, or it is cut short.
    """
    kept = bytearray(data[: pixels_end(data)])
    kept[_SIZE] = len(kept).to_bytes(4, "little")
    if int.from_bytes(kept[_HEADER_BYTES], "little") >= _WITH_PROFILE:
        kept[_PROFILE] = bytes(8)
    return bytes(kept)
