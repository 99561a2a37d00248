"""Which picture format, or what else, some bytes are, by how they begin."""

import base64
import binascii
import re
from typing import Final

from shared.model.image.decoding.header import BadPicture, PictureFormat
from shared.model.image.decoding.heif import heif_format

READABLE: Final = "JPEG, PNG, WebP, HEIC, AVIF or BMP"
_SEND: Final = f"send a {READABLE} picture"
_CONVERT: Final = f"save it as one of {READABLE} and send that"
_LOOKED_AT: Final = 1024

# What files of other kinds begin with, what they are called, and what to do.
_OTHERS: Final = (
    (b"GIF87a", "a GIF picture", _CONVERT),
    (b"GIF89a", "a GIF picture", _CONVERT),
    (b"II*\x00", "a TIFF or camera raw picture", _CONVERT),
    (b"MM\x00*", "a TIFF or camera raw picture", _CONVERT),
    (b"II+\x00", "a TIFF picture", _CONVERT),
    (b"MM\x00+", "a TIFF picture", _CONVERT),
    (b"\xff\x0a", "a JPEG XL picture", _CONVERT),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture", _CONVERT),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture", _CONVERT),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture", _CONVERT),
    (b"8BPS", "a Photoshop file", _CONVERT),
    (b"\x00\x00\x01\x00", "an icon file", _CONVERT),
    (b"%PDF", "a PDF file", "send the picture that is in it"),
    (b"%!PS", "a PostScript file", _CONVERT),
    (b"PK\x03\x04", "a zip archive", "unpack it and send each picture alone"),
    (b"PK\x05\x06", "an empty zip archive", _SEND),
    (b"\x1f\x8b", "a gzip file", "unpack it and send the picture"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and send each picture alone"),
    (b"Rar!", "a RAR archive", "unpack it and send each picture alone"),
    (b"BZh", "a bzip2 file", "unpack it and send the picture"),
    (b"\xfd7zXZ\x00", "an xz file", "unpack it and send the picture"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it and send the picture"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska video", "send one of its frames as a picture"),
    (b"\x93NUMPY", "a NumPy array", "encode it as PNG and send that"),
    (b"\x80\x04", "a Python pickle", "encode the picture as PNG and send that"),
    (b"\xef\xbf\xbd\xef\xbf\xbd", "a file that was read as text, which destroyed it", _SEND),
    (
        b"\xc3\xbf\xc3\x98\xc3\xbf",
        "a JPEG that was encoded as UTF-8 text",
        "send the bytes of the file unchanged",
    ),
)
_DATA_URI: Final = re.compile(rb"data:[\w/+.-]*[;,]", re.IGNORECASE)
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]{8,}={0,2}")
_HEX: Final = re.compile(rb"(?:[0-9a-fA-F]{2}){8,}")


def picture_format(data: bytes) -> PictureFormat:
    """Tell the format by the first bytes.

    Args:
        data: Any bytes, not empty.

    Raises:
        BadPicture: If it is none that is read; says what it is instead and what to do.
    """
    found = _known_format(data)
    if found is not None:
        return found
    for start, name, advice in _OTHERS:
        if data.startswith(start):
            raise BadPicture(f"is {name}; {advice}")
    _refuse_container(data)
    _refuse_text(data)
    if not data.strip(b"\x00"):
        raise BadPicture(f"has nothing but zeros in its {len(data)} bytes; {_SEND}")
    raise BadPicture(
        f"is not a {READABLE} picture (it starts with bytes {data[:8].hex(' ')}); {_SEND}"
    )


def _known_format(data: bytes) -> PictureFormat | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    # The four bytes after the size are reserved and zero, so that no text passes for a BMP.
    if data.startswith(b"BM") and not any(data[6:10]):
        return "BMP"
    return heif_format(data) if data[4:8] == b"ftyp" else None


def _refuse_container(data: bytes) -> None:
    if data[4:8] == b"ftyp":
        raise BadPicture("is a video (MP4 or QuickTime); send one of its frames as a picture")
    if data.startswith(b"RIFF"):
        raise BadPicture(f"is a RIFF file but no WebP picture; {_SEND}")


def _refuse_text(data: bytes) -> None:
    head = data[:_LOOKED_AT].removeprefix(b"\xef\xbb\xbf").lstrip()
    if _DATA_URI.match(head):
        raise BadPicture("is a data URI; decode the base64 text after its comma and send the bytes")
    lower = head.lower()
    if b"<svg" in lower and lower.startswith(b"<"):
        raise BadPicture(f"is an SVG drawing; {_CONVERT}")
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<!--")):
        raise BadPicture(
            "is a web page (HTML), often an error page in place of a picture; "
            "send the picture itself"
        )
    if lower.startswith(b"<"):
        raise BadPicture(f"is XML or HTML text; {_SEND}")
    if lower.startswith((b"http://", b"https://", b"file://")):
        raise BadPicture("is an address; fetch the picture and send its bytes")
    if (encoded := _encoded_picture(head)) is not None:
        raise BadPicture(f"is {encoded} text; decode it and send the bytes")
    if lower.startswith((b"{", b"[")):
        raise BadPicture(f"is JSON text; {_SEND}")
    if _is_text(head):
        start = head[:40].decode("utf-8", "ignore")
        raise BadPicture(f"is text, which starts with {start!r}; {_SEND}")


def _encoded_picture(head: bytes) -> str | None:
    """Name the encoding if the text is an encoded picture, or nothing but base64 or hex digits."""
    joined = b"".join(head.strip(b"'\"").removeprefix(b"b'").split())
    if _HEX.fullmatch(joined[: len(joined) // 2 * 2]):
        return "hexadecimal"
    match = _BASE64.match(joined)
    if match is None:
        return None
    text = match[0].rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        start = base64.b64decode(text[: len(text) // 4 * 4])
    except binascii.Error:
        return None
    is_picture = _known_format(start) is not None or start[4:8] == b"ftyp"
    return "base64" if is_picture or (match[0] == joined and len(joined) >= 64) else None


def _is_text(head: bytes) -> bool:
    try:
        # A character may be cut at the end of what is looked at.
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3 or error.start < 8:
            return False
        text = head[: error.start].decode("utf-8")
    return bool(text) and all(character.isprintable() or character.isspace() for character in text)
