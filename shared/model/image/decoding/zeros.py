"""Search for overwritten parts in data without checksums."""

from typing import Final

# Arithmetic coding gives no such run in the middle of a picture; a lost block of a disk or of an
# upload is at least twice as long.
_RUN: Final = bytes(256)


def has_zero_run(data: bytes | memoryview) -> bool:
    """Whether at least 256 bytes of zero stand in a row before the last byte that is not zero.

    Args:
        data: Arithmetic-coded pixels, whose decoders do not notice that parts are lost.
    """
    found = bytes(data).rstrip(b"\x00")
    return _RUN in found
