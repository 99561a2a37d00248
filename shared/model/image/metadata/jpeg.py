"""JPEG: its tables, scans and orientation, without other segments and what follows its end."""

import re
from typing import Final

from shared.model.image.decoding.header import BadPicture
from shared.model.image.decoding.jpeg_header import METADATA, JpegMarkers, read_markers
from shared.model.image.decoding.orientation import UPRIGHT, find_orientation
from shared.model.image.metadata.exif import orientation_block

_START: Final = b"\xff\xd8"
_END: Final = b"\xff\xd9"
_APP0: Final = 0xE0
_APP1: Final = 0xE1
_APP14: Final = 0xEE
_JFIF: Final = b"JFIF\x00"
# Without the previews behind it.
_JFIF_BYTES: Final = 12
_ADOBE_BYTES: Final = 12
# The next marker in coded data: no escaped byte, restart marker or filler.
_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


def strip_jpeg(data: bytes) -> bytes:
    """Give the file without its metadata.

    Raises:
        BadPicture: If its segments are damaged or cut short.
    """
    markers = read_markers(data)
    head = [kept for segment in markers.needed if (kept := _plain(bytes(segment)))]
    at = markers.scan_start + len(markers.needed[-1])
    return b"".join([_START, _exif(markers), *head, *_scans(data, at), _END])


def _exif(markers: JpegMarkers) -> bytes:
    orientation = find_orientation(markers.exif, markers.xmp)
    if orientation == UPRIGHT:
        return b""
    return _segment(_APP1, b"Exif\x00\x00" + orientation_block(orientation))


def _plain(segment: bytes) -> bytes:
    """Give a segment without previews; empty if nothing of it is needed."""
    kind, body = segment[1], segment[4:]
    if kind == _APP0:
        if not body.startswith(_JFIF) or len(body) < _JFIF_BYTES:
            return b""
        return _segment(kind, body[:_JFIF_BYTES] + bytes(2))
    if kind == _APP14:
        return _segment(kind, body[:_ADOBE_BYTES]) if body.startswith(b"Adobe") else b""
    return segment


def _scans(data: bytes, at: int) -> list[bytes]:
    """Give the coded data from a place on, and the tables and scans behind it, up to the end."""
    parts: list[bytes] = []
    while (found := _MARKER.search(data, at)) is not None:
        parts.append(data[at : found.start()])
        kind = data[found.start() + 1]
        if kind == _END[1]:
            return parts
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        end = found.end() + length
        if length < 2 or end > len(data):
            break
        if kind not in METADATA and kind not in (_APP0, _APP14):
            parts.append(data[found.start() : end])
        at = end
    raise BadPicture("is a JPEG file that is cut short: its end is missing")


def _segment(kind: int, body: bytes) -> bytes:
    return bytes((0xFF, kind)) + (len(body) + 2).to_bytes(2, "big") + body
