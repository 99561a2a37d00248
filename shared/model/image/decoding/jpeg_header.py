"""Reader of a JPEG's markers: size, scans and the segments that matter; decodes nothing."""

import struct
from dataclasses import dataclass, field
from typing import Final

from shared.model.image.decoding.header import BadPicture, PictureHeader

_START_OF_SCAN: Final = 0xDA
_END_OF_IMAGE: Final = 0xD9
# Markers without a length: TEM, RST0 to RST7 and SOI.
_BARE: Final = frozenset((0x01, *range(0xD0, 0xD9)))
# SOF0 to SOF15 without DHT, JPG and DAC, which are in the same range.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_APP1: Final = 0xE1
_APP14: Final = 0xEE
_EXIF: Final = b"Exif\0"
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"
# Comments and APP0 to APP15, without JFIF's and Adobe's, which tell the colour space.
METADATA: Final = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))
# A camera writes some tens; ICC profiles and extended XMP have up to 255 segments.
_MAX_SEGMENTS: Final = 2000


@dataclass(slots=True)
class JpegMarkers:
    """What the markers in front of the first scan say.

    Attributes:
        components: Number of colour components.
        samples: Stored samples for one pixel, e.g. 1.5 for colour of half the resolution.
        multiple_scans: Whether the decoder keeps all coefficients and reads further scans.
        scan_start: Where the first scan begins, in bytes.
        exif: Body of the EXIF segment after its name; None without one.
        xmp: Body of the XMP segment after its name; None without one.
        needed: The segments that a decoder needs, without metadata, each with its marker.
        inverted: Whether Adobe's marker is there, whose CMYK values are inverted.
    """

    width: int = 0
    height: int = 0
    components: int = 0
    samples: float = 0.0
    progressive: bool = False
    multiple_scans: bool = False
    scan_start: int = 0
    exif: memoryview | None = None
    xmp: memoryview | None = None
    needed: list[memoryview] = field(default_factory=list)
    inverted: bool = False


def read_jpeg_header(data: bytes) -> PictureHeader:
    """Read size and scans of a JPEG.

    Raises:
        BadPicture: If the header is damaged or cut short.
    """
    markers = read_markers(data)
    scans = 1
    decode_bytes = 3.0 if markers.components < 4 else 7.0
    if markers.multiple_scans:
        # Entropy-coded data never holds this pair; a metadata segment behind the first scan may,
        # and then counts as a scan.
        scans = data.count(b"\xff\xda", markers.scan_start)
        decode_bytes += 2 * markers.samples
    pixels = markers.width * markers.height
    return PictureHeader("JPEG", markers.width, markers.height, round(decode_bytes * pixels), scans)


def read_markers(data: bytes) -> JpegMarkers:
    """Read the segments in front of the first scan.

    Raises:
        BadPicture: If they are damaged or cut short.
    """
    markers = JpegMarkers()
    position = 2
    for _ in range(_MAX_SEGMENTS):
        # Bytes that belong to no segment are skipped, as libjpeg does.
        position = data.find(b"\xff", position)
        if position < 0 or position + 4 > len(data):
            break
        kind = data[position + 1]
        if kind in (0x00, 0xFF) or kind in _BARE:
            position += 1 if kind == 0xFF else 2
            continue
        if kind == _END_OF_IMAGE:
            raise BadPicture("is a JPEG file without pixels")
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = memoryview(data)[position + 4 : position + 2 + length]
        if length < 2 or position + 2 + length > len(data):
            break
        _read_segment(markers, kind, body)
        if kind not in METADATA:
            markers.needed.append(memoryview(data)[position : position + 2 + length])
        if kind == _START_OF_SCAN:
            markers.scan_start = position
            return _check_scan(markers, body)
        position += 2 + length
    else:
        raise BadPicture(f"has more than {_MAX_SEGMENTS} segments before its pixels")
    raise BadPicture("is a JPEG file that is cut short: it ends in its header")


def _read_segment(markers: JpegMarkers, kind: int, body: memoryview) -> None:
    if kind in _FRAMES:
        _read_frame(markers, kind, body)
    elif kind == _APP1 and markers.exif is None and bytes(body[:5]) == _EXIF:
        markers.exif = body[6:]
    elif kind == _APP1 and markers.xmp is None and bytes(body[: len(_XMP)]) == _XMP:
        markers.xmp = body[len(_XMP) :]
    elif kind == _APP14 and bytes(body[:5]) == b"Adobe":
        markers.inverted = True


def _read_frame(markers: JpegMarkers, kind: int, body: memoryview) -> None:
    if markers.components:
        raise BadPicture("is a damaged JPEG file: it has two headers")
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise BadPicture("is a damaged JPEG file: its header is too short")
    _, markers.height, markers.width, markers.components = struct.unpack(">BHHB", body[:6])
    factors = [(body[at] >> 4, body[at] & 15) for at in range(7, 6 + 3 * body[5], 3)]
    most = max((x for x, _ in factors), default=0) * max((y for _, y in factors), default=0)
    if not most:
        raise BadPicture("is a damaged JPEG file: a component has no samples")
    markers.samples = sum(x * y for x, y in factors) / most
    markers.progressive = kind in _PROGRESSIVE


def _check_scan(markers: JpegMarkers, body: memoryview) -> JpegMarkers:
    if not markers.components or not body:
        raise BadPicture("is a damaged JPEG file: it has pixels before their size")
    markers.multiple_scans = markers.progressive or body[0] < markers.components
    return markers
