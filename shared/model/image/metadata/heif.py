"""HEIC and AVIF: metadata is overwritten in its place, since the file is full of offsets.

Their orientation is a property of the picture, not metadata.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from shared.model.image.decoding.header import BadPicture

_KEPT_IN_META: Final = frozenset(
    (b"hdlr", b"dinf", b"pitm", b"iinf", b"iloc", b"iref", b"iprp", b"idat", b"grpl")
)
_METADATA_ITEMS: Final = frozenset((b"Exif", b"mime", b"uri "))
_FULL_BOX_BYTES: Final = 4
_MOST: Final = 4000
_IN_FILE, _IN_IDAT = 0, 1
# The decoder takes a run of zeros for damage.
_FILLER: Final = b"\xff"
# AVIF's decoder refuses an EXIF block that is none: one without a tag.
_EMPTY_EXIF: Final = bytes(4) + b"II*\x00\x08\x00\x00\x00" + bytes(6)


class _Box(NamedTuple):
    """A box: its kind, where it starts in the file, and where its body starts and ends."""

    kind: bytes
    start: int
    body: int
    end: int


class _Extent(NamedTuple):
    """A part of an item's data; `start` counts from the file's or idat's start."""

    item: int
    method: int
    start: int
    length: int


class _Metadata(NamedTuple):
    """An item that is no picture: its kind, and where it starts and ends in the file."""

    kind: bytes
    start: int
    end: int


def strip_heif(data: bytes) -> bytes:
    """Give the file with its metadata, and all that belongs to no picture, overwritten.

    Raises:
        BadPicture: If its boxes are damaged or cut short.
    """
    kept, pixels = bytearray(data), bytearray(len(data))
    metadata: list[_Metadata] = []
    boxes = list(_boxes(data, 0, len(data)))
    try:
        for box in boxes:
            if box.kind == b"meta":
                metadata += _strip_meta(data, box, kept, pixels)
    except (IndexError, struct.error) as error:
        raise BadPicture("has a damaged table of its pictures") from error
    for box in boxes:
        if box.kind == b"mdat":
            _keep_pixels(kept, pixels, box)
        elif box.kind not in (b"ftyp", b"meta"):
            _free(kept, box)
    for place in metadata:
        _overwrite(kept, place)
    return bytes(kept)


def _strip_meta(data: bytes, meta: _Box, kept: bytearray, pixels: bytearray) -> list[_Metadata]:
    """Free boxes of metadata inside `meta`, and mark the bytes of pictures outside of it.

    Returns:
        Where the metadata is that is an item.
    """
    inner = {box.kind: box for box in _boxes(data, meta.body + _FULL_BOX_BYTES, meta.end)}
    for box in _boxes(data, meta.body + _FULL_BOX_BYTES, meta.end):
        if box.kind not in _KEPT_IN_META:
            _free(kept, box)
    if b"iloc" not in inner or b"iinf" not in inner:
        raise BadPicture("has no table of its pictures")
    kinds = dict(_metadata_items(data, inner[b"iinf"]))
    idat = inner.get(b"idat")
    found: list[_Metadata] = []
    for extent in _extents(data, inner[b"iloc"]):
        first, last = (
            (idat.body, idat.end) if extent.method == _IN_IDAT and idat else (0, len(data))
        )
        start = first + extent.start
        end = min(start + extent.length, last) if extent.length else last
        if extent.method not in (_IN_FILE, _IN_IDAT) or start >= end:
            continue
        if extent.item in kinds:
            found.append(_Metadata(kinds[extent.item], start, end))
        else:
            pixels[start:end] = b"\x01" * (end - start)
    return found


def _overwrite(kept: bytearray, place: _Metadata) -> None:
    _fill(kept, place.start, place.end)
    if place.kind == b"Exif" and place.end - place.start >= len(_EMPTY_EXIF):
        kept[place.start : place.start + len(_EMPTY_EXIF)] = _EMPTY_EXIF


def _metadata_items(data: bytes, iinf: _Box) -> Iterator[tuple[int, bytes]]:
    """Give number and kind of the items that are no pictures."""
    wide = data[iinf.body] > 0
    first = iinf.body + _FULL_BOX_BYTES + (4 if wide else 2)
    for entry in _boxes(data, first, iinf.end):
        version = data[entry.body]
        at = entry.body + _FULL_BOX_BYTES
        id_bytes = 4 if version == 3 else 2
        # Entries of versions 0 and 1 have no type: their items are no pictures.
        kind = data[at + id_bytes + 2 : at + id_bytes + 6] if version >= 2 else b"mime"
        if kind in _METADATA_ITEMS:
            yield int.from_bytes(data[at : at + id_bytes], "big"), kind


def _extents(data: bytes, iloc: _Box) -> Iterator[_Extent]:
    version, sizes = data[iloc.body], struct.unpack_from(">H", data, iloc.body + _FULL_BOX_BYTES)[0]
    offset_bytes, length_bytes = sizes >> 12, sizes >> 8 & 15
    base_bytes, index_bytes = sizes >> 4 & 15, sizes & 15 if version else 0
    at = iloc.body + _FULL_BOX_BYTES + 2

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > iloc.end:
            raise BadPicture("has a damaged table of its pictures")
        return int.from_bytes(data[at - size : at], "big")

    for _ in range(number(2 if version < 2 else 4)):
        item = number(2 if version < 2 else 4)
        method = number(2) & 15 if version else _IN_FILE
        number(2)
        base = number(base_bytes)
        for _ in range(number(2)):
            number(index_bytes)
            offset = number(offset_bytes)
            yield _Extent(item, method, base + offset, number(length_bytes))


def _keep_pixels(kept: bytearray, pixels: bytearray, mdat: _Box) -> None:
    at = mdat.body
    while at < mdat.end:
        start = pixels.find(b"\x00", at, mdat.end)
        if start < 0:
            return
        at = pixels.find(b"\x01", start, mdat.end)
        at = mdat.end if at < 0 else at
        _fill(kept, start, at)


def _free(kept: bytearray, box: _Box) -> None:
    """Make a box one that readers skip."""
    kept[box.start + 4 : box.start + 8] = b"free"
    _fill(kept, box.body, box.end)


def _fill(kept: bytearray, start: int, end: int) -> None:
    if start < end:
        kept[start:end] = _FILLER * (end - start)


def _boxes(data: bytes, at: int, end: int) -> Iterator[_Box]:
    for _ in range(_MOST):
        if at + 8 > end:
            return
        length, body = int.from_bytes(data[at : at + 4], "big"), at + 8
        if length == 1:
            length, body = int.from_bytes(data[body : body + 8], "big"), body + 8
        # A length of zero means: to the end of the file.
        stop = at + length if length else end
        if not body <= stop <= end:
            raise BadPicture("has a damaged box")
        yield _Box(data[at + 4 : at + 8], at, body, stop)
        at = stop
    raise BadPicture(f"has more than {_MOST} boxes")
