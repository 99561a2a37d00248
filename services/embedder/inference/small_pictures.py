"""Which pictures are small enough to be hashed and decoded on the event loop.

A thread that is woken for them takes the interpreter's lock from the loop, which costs more time
than hashing or decoding them does.
"""

from collections.abc import Sequence
from typing import Final

from services.embedder.inference.requests import NamedFace
from shared.model.image.align import CROP_SIZE

# SHA-256 of as many bytes takes about a tenth of a millisecond. The limit also bounds the time for
# decoding: the number of scans of a progressive JPEG grows with its bytes, not with its pixels.
_SMALL_BYTES: Final = 128 * 2**10
# A JPEG of so many pixels is decoded in a tenth of a millisecond.
SMALL_PIXELS: Final = 2 * CROP_SIZE**2


def encoded_bytes(faces: Sequence[NamedFace]) -> int:
    """Sum the sizes of the encoded pictures, in bytes."""
    return sum(len(face.data) for _, face in faces)


def are_small(faces: Sequence[NamedFace]) -> bool:
    """Whether the pictures of a call have at most 128 KiB together.

    Before one of them is decoded on the loop, its header must also show at most `SMALL_PIXELS`.
    """
    return encoded_bytes(faces) <= _SMALL_BYTES
