"""Reader of the coded size in an AV1 stream, which may be another than its container declares."""

from collections.abc import Callable
from typing import Final

_SEQUENCE_HEADER: Final = 1
_TEMPORAL_DELIMITER: Final = 2
_HEADER_BYTES: Final = 256
# At most a delimiter comes before the sequence header.
_UNITS: Final = 4


def coded_size(stream: bytes | memoryview) -> tuple[int, int] | None:
    """Read the width and height of the largest frame, in pixels.

    Args:
        stream: The data of a picture, which begins with its sequence header.

    Returns:
        None if there is no sequence header.
    """
    position = 0
    for _ in range(_UNITS):
        if position + 2 >= len(stream):
            return None
        kind = stream[position] >> 3 & 15
        has_extension, has_size = stream[position] & 4, stream[position] & 2
        if kind not in (_SEQUENCE_HEADER, _TEMPORAL_DELIMITER) or not has_size:
            return None
        position += 2 if has_extension else 1
        length, shift = 0, 0
        while position < len(stream) and shift < 35:
            length |= (stream[position] & 127) << shift
            position, shift = position + 1, shift + 7
            if stream[position - 1] < 128:
                break
        if kind == _SEQUENCE_HEADER:
            return _read_size(bytes(stream[position : position + min(length, _HEADER_BYTES)]))
        position += length
    return None


def _read_size(header: bytes) -> tuple[int, int]:
    read = _bit_reader(header)
    read(4)
    if read(1):  # the header of a still picture
        read(5)
    else:
        _skip_operating_points(read, _skip_timing(read) if read(1) else 0)
    across, down = read(4) + 1, read(4) + 1
    return read(across) + 1, read(down) + 1


def _skip_timing(read: Callable[[int], int]) -> int:
    """Skip the timing of a video; gives the bits of its delays."""
    read(64)
    if read(1):
        zeros = 0
        while zeros < 32 and not read(1):
            zeros += 1
        read(zeros)
    if not read(1):
        return 0
    delay_bits = read(5) + 1
    read(42)
    return delay_bits


def _skip_operating_points(read: Callable[[int], int], delay_bits: int) -> None:
    has_delays = read(1)
    for _ in range(read(5) + 1):
        read(12)
        if read(5) > 7:
            read(1)
        if delay_bits and read(1):
            read(2 * delay_bits + 1)
        if has_delays and read(1):
            read(4)


def _bit_reader(data: bytes) -> Callable[[int], int]:
    """Make a function that reads so many bits as a number; zeros behind the end."""
    value, left = int.from_bytes(data, "big"), 8 * len(data)

    def read(bits: int) -> int:
        nonlocal left
        left -= bits
        number = value >> left if left >= 0 else value << -left
        return number & ((1 << bits) - 1)

    return read
