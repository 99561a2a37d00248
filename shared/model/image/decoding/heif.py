"""HEIC and AVIF: reader of the boxes in front of the pixels, and decoding.

Neither codec notices damage in the middle of its data; cut files and overwritten parts are told.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
import pi_heif
from numpy.typing import NDArray
from PIL import _avif

from shared.model.image.decoding.av1 import coded_size
from shared.model.image.decoding.header import BadPicture, PictureFormat, PictureHeader
from shared.model.image.decoding.zeros import has_zero_run

_HEIC_BRANDS: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_AVIF_BRANDS: Final = (b"avif", b"avis")
_BRANDS_LOOKED_AT: Final = 256
_MAX_BOXES: Final = 4000
_FULL_BOX_BYTES: Final = 4
# Frames and tiles may be wider and higher than the picture by as many pixels.
_CODED_MARGIN: Final = 64
# Orientation by quarter turns against the clock, without and with a mirror behind them: about the
# horizontal axis, and about the vertical one.
_TURNED: Final = {None: (1, 8, 3, 6), 0: (4, 5, 2, 7), 1: (2, 7, 4, 5)}

_THREADS: Final = 1
_WITH_ARTICLE: Final = {"HEIC": "a HEIC", "AVIF": "an AVIF"}

pi_heif.options.DECODE_THREADS = _THREADS
pi_heif.options.THUMBNAILS = False
pi_heif.options.DEPTH_IMAGES = False
pi_heif.options.AUX_IMAGES = False


@dataclass(slots=True)
class HeifBoxes:
    """What the boxes say of the primary picture.

    Attributes:
        primary: Number of the primary picture.
        properties: Kind and body of every property of the file.
        used: Numbers of the primary picture's properties, from 1.
        places: Where the data of each picture begins in the file.
    """

    primary: int = 0
    properties: list[tuple[bytes, memoryview]] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)

    def find(self, kind: bytes) -> memoryview | None:
        """Give a property of the primary picture."""
        for number in self.used:
            if 0 < number <= len(self.properties) and self.properties[number - 1][0] == kind:
                return self.properties[number - 1][1]
        return None

    def anywhere(self, kind: bytes) -> memoryview | None:
        """Give a property that may belong to a tile of the primary picture."""
        return next((body for name, body in self.properties if name == kind), None)

    @property
    def orientation(self) -> int:
        """From the rotation and the mirror, 1..8."""
        turn, mirror = self.find(b"irot"), self.find(b"imir")
        axis = mirror[0] & 1 if mirror else None
        return _TURNED[axis][turn[0] & 3 if turn else 0]


def heif_format(data: bytes) -> PictureFormat | None:
    """Tell HEIC from AVIF by the brands; None for other files of the kind, such as MP4."""
    length = min(int.from_bytes(data[:4], "big"), _BRANDS_LOOKED_AT)
    brands = [data[at : at + 4] for at in (8, *range(16, length, 4))]
    if any(brand in _AVIF_BRANDS for brand in brands):
        return "AVIF"
    return "HEIC" if any(brand in _HEIC_BRANDS for brand in brands) else None


def read_heic_header(data: bytes) -> PictureHeader:
    """Read the size of a HEIC.

    Raises:
        BadPicture: If it has no still picture, or is damaged or cut short.
    """
    boxes = read_heif_boxes(data, "HEIC")
    samples, sample_bytes = 1.5, 1
    if (config := boxes.anywhere(b"hvcC")) is not None and len(config) > 17:
        samples = (1.0, 1.5, 2.0, 3.0)[config[16] & 3]
        sample_bytes = 2 if config[17] & 7 else 1
    # The decoder's planes and half as much for its buffers, and the pixels.
    return _header(boxes, "HEIC", 1.5 * samples * sample_bytes + 3)


def read_avif_header(data: bytes) -> PictureHeader:
    """Read the size of an AVIF.

    Raises:
        BadPicture: If it has no still picture, or is damaged or cut short.
    """
    boxes = read_heif_boxes(data, "AVIF")
    samples, sample_bytes = 1.5, 1
    if (config := boxes.anywhere(b"av1C")) is not None and len(config) > 2:
        across, down = config[2] >> 3 & 1, config[2] >> 2 & 1
        samples = 1 + 2 / ((1 + across) * (1 + down))
        sample_bytes = 2 if config[2] & 0x40 else 1
    # The decoder's planes, the pixels and one copy of them.
    header = _header(boxes, "AVIF", samples * sample_bytes + 6.5)
    # The decoder would scale larger frames down. That of HEIC has its own limit.
    most = (header.width + _CODED_MARGIN) * (header.height + _CODED_MARGIN)
    for place in boxes.places:
        width, height = coded_size(memoryview(data)[place:]) or (0, 0)
        if width * height > most:
            raise BadPicture(
                f"is a damaged AVIF file: it declares {header.width}x{header.height} pixels, "
                f"but holds {width}x{height}"
            )
    return header


def decode_heic(data: bytes, header: PictureHeader) -> NDArray[np.uint8]:
    """Decode the primary picture, already turned upright; uint8 (height, width, 3), BGR.

    Raises:
        BadPicture: If its pixels are damaged.
        Exception: Almost any, if the file is damaged.
    """
    _check_pixels(data, "HEIC")
    file = pi_heif.open_heif(data, convert_hdr_to_8bit=True, bgr_mode=True)
    width, height = file.size
    mode, samples = file.mode, file.data
    # The decoder's own copy is not needed any more.
    del file
    _check_size((width, height), header)
    if mode not in ("BGR", "BGRA", "L"):
        raise BadPicture(f"is a HEIC file of mode {mode}, which is not read; save it as JPEG")
    return _to_bgr(samples, width, height, mode)


def decode_avif(data: bytes, header: PictureHeader) -> NDArray[np.uint8]:
    """Decode the primary picture, as stored; uint8 (height, width, 3), BGR.

    Raises:
        BadPicture: If its pixels are damaged.
        Exception: Almost any, if the file is damaged.
    """
    _check_pixels(data, "AVIF")
    # Not through Pillow's own class, which rewrites all EXIF tags and copies the pixels once more.
    decoder = _avif.AvifDecoder(data, "auto", _THREADS)
    (width, height), _, mode, *_ = decoder.get_info()
    _check_size((width, height), header)
    samples = decoder.get_frame(0)[0]
    del decoder
    return _to_bgr(samples, width, height, mode)


def read_heif_boxes(data: bytes, form: str) -> HeifBoxes:
    """Read the boxes of the metadata.

    Raises:
        BadPicture: If there are none, or they are damaged or cut short.
    """
    boxes = HeifBoxes()
    for kind, body in _boxes(memoryview(data), form):
        if kind == b"meta":
            for inner, content in _boxes(body[_FULL_BOX_BYTES:], form):
                _read_meta(boxes, inner, content, form)
    return boxes


def _header(boxes: HeifBoxes, form: PictureFormat, bytes_a_pixel: float) -> PictureHeader:
    size = boxes.find(b"ispe")
    if size is None or len(size) < 12:
        raise BadPicture(
            f"is {_WITH_ARTICLE[form]} file without a still picture, or with a damaged header"
        )
    width = int.from_bytes(size[4:8], "big")
    height = int.from_bytes(size[8:12], "big")
    return PictureHeader(form, width, height, round(bytes_a_pixel * width * height))


def _read_meta(boxes: HeifBoxes, kind: bytes, body: memoryview, form: str) -> None:
    if kind == b"pitm" and len(body) >= 6:
        boxes.primary = int.from_bytes(body[4:6] if body[0] == 0 else body[4:8], "big")
    elif kind == b"iloc":
        boxes.places = _places(body)
    elif kind == b"iprp":
        for inner, content in _boxes(body, form):
            if inner == b"ipco":
                boxes.properties = list(_boxes(content, form))
            elif inner == b"ipma":
                boxes.used += _properties_of(content, boxes.primary)


def _properties_of(body: memoryview, wanted: int) -> list[int]:
    """Give the numbers of the properties of one picture."""
    wide, long_ids = body[3] & 1, body[0] > 0
    at, id_bytes = 8, 4 if long_ids else 2
    for _ in range(min(int.from_bytes(body[4:8], "big"), _MAX_BOXES)):
        number = int.from_bytes(body[at : at + id_bytes], "big")
        at += id_bytes
        if at >= len(body):
            break
        count, size = body[at], 2 if wide else 1
        places = range(at + 1, at + 1 + count * size, size)
        if number == wanted:
            mask = 0x7FFF if wide else 0x7F
            return [int.from_bytes(body[place : place + size], "big") & mask for place in places]
        at += 1 + count * size
    return []


def _places(body: memoryview) -> list[int]:
    """Give where each part of the data begins, from a table of pictures."""
    version, position = body[0], 6
    offset_bytes, length_bytes, base_bytes = body[4] >> 4, body[4] & 15, body[5] >> 4
    index_bytes = body[5] & 15 if version else 0

    def number(size: int) -> int:
        nonlocal position
        position += size
        return int.from_bytes(body[position - size : position], "big")

    places: list[int] = []
    for _ in range(min(number(2 if version < 2 else 4), _MAX_BOXES)):
        # The number of the picture, how it is stored, and the file.
        number(2 if version < 2 else 4)
        number(4 if version else 2)
        base = number(base_bytes)
        for _ in range(number(2)):
            if position >= len(body) or len(places) == _MAX_BOXES:
                return places
            number(index_bytes)
            places.append(base + number(offset_bytes))
            number(length_bytes)
    return places


def _boxes(view: memoryview, form: str) -> Iterator[tuple[bytes, memoryview]]:
    """Read kind and body of each box."""
    position = 0
    for _ in range(_MAX_BOXES):
        if position + 8 > len(view):
            return
        length, start = int.from_bytes(view[position : position + 4], "big"), position + 8
        if length == 1:
            length = int.from_bytes(view[start : start + 8], "big")
            start += 8
        # A length of zero means: to the end of the file.
        end = position + length if length else len(view)
        if end > len(view):
            raise BadPicture(f"is {_WITH_ARTICLE[form]} file that is cut short")
        if end < start:
            raise BadPicture(f"is a damaged {form} file: a box has a length of {length}")
        yield bytes(view[position + 4 : position + 8]), view[start:end]
        position = end


def _check_pixels(data: bytes, form: str) -> None:
    for kind, body in _boxes(memoryview(data), form):
        if kind == b"mdat" and has_zero_run(body):
            raise BadPicture(
                f"is a damaged {form} file: a part of its pixels was overwritten with zeros"
            )


def _check_size(size: tuple[int, int], header: PictureHeader) -> None:
    width, height = size
    if width * height != header.pixels:
        raise BadPicture(f"is a damaged {header.format} file: it has two sizes")


def _to_bgr(samples: bytes, width: int, height: int, mode: str) -> NDArray[np.uint8]:
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    pixels = np.frombuffer(samples, np.uint8).reshape(shape)
    if mode == "BGR":
        return pixels
    code = {
        "L": cv2.COLOR_GRAY2BGR,
        "RGB": cv2.COLOR_RGB2BGR,
        "RGBA": cv2.COLOR_RGBA2BGR,
        "BGRA": cv2.COLOR_BGRA2BGR,
    }[mode]
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)
