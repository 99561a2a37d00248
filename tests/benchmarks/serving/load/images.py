"""JPEG crops to send: every file is unique, while the faces repeat."""

import secrets
import struct
from collections.abc import Iterator
from itertools import count

import cv2

from cli.rendering.renderer import render_person

FACES = 64
_START_OF_IMAGE = b"\xff\xd8"
_COMMENT = b"\xff\xfe"


def faces() -> list[bytes]:
    """Render 64 faces as JPEG crops of 112x112, the same ones each time."""
    return [
        cv2.imencode(".jpg", render_person(person, 0), [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
        for person in range(FACES)
    ]


def with_comment(jpeg: bytes, comment: bytes) -> bytes:
    """Insert a comment into a JPEG, which makes another file with the same pixels."""
    segment = _COMMENT + struct.pack(">H", len(comment) + 2) + comment
    return _START_OF_IMAGE + segment + jpeg[len(_START_OF_IMAGE) :]


def fresh(jpegs: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """Cycle through the faces forever, with a new file each time.

    Yields:
        The face's number, and its file.
    """
    prefix = secrets.token_bytes(8)
    for number in count():
        face = number % len(jpegs)
        yield face, with_comment(jpegs[face], prefix + number.to_bytes(8, "big"))


def repeated(jpegs: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """Cycle through the same files forever."""
    for number in count():
        face = number % len(jpegs)
        yield face, jpegs[face]
