"""JPEG crops of which no two are the same file, while they are the same few faces."""

import secrets
import struct
from collections.abc import Iterator
from itertools import count

import cv2

from cli.demo.rendering.renderer import render_person

FACES = 64
_START_OF_IMAGE = b"\xff\xd8"
_COMMENT = b"\xff\xfe"


def faces() -> list[bytes]:
    """Rendered faces as JPEG crops of 112x112, the same ones each time."""
    return [
        cv2.imencode(".jpg", render_person(person, 0), [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
        for person in range(FACES)
    ]


def with_comment(jpeg: bytes, comment: bytes) -> bytes:
    """Insert a comment into a JPEG: another file with the same pixels and the same work."""
    segment = _COMMENT + struct.pack(">H", len(comment) + 2) + comment
    return _START_OF_IMAGE + segment + jpeg[len(_START_OF_IMAGE) :]


def fresh(jpegs: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """Go round the faces for ever; each file is new to every server.

    Yields:
        The face's number, and its file.
    """
    who = secrets.token_bytes(8)
    for number in count():
        face = number % len(jpegs)
        yield face, with_comment(jpegs[face], who + number.to_bytes(8, "big"))


def repeated(jpegs: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """Go round the same files for ever."""
    for number in count():
        face = number % len(jpegs)
        yield face, jpegs[face]
