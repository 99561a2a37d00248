"""Settings of decoding: its processes, its time and the memory of the service."""

from math import ceil
from typing import Any, Final

from pydantic import Field

from shared.errors import PreconditionFailed
from shared.model.sessions.cpu import cpu_threads
from shared.settings import ImageLimits

# Each takes some 50 MB, and decoding is seldom the bottleneck.
_MAX_DEFAULT_PROCESSES: Final = 4

# For a pixel of a picture that is being decoded, whatever its format.
BYTES_PER_PIXEL: Final = 7.5
_SHARES: Final = 16
_UPLOAD_SHARES: Final = 8
# The uploads, the encoded pictures in flight and the cache take a quarter of the memory.
_DECODE_SHARE: Final = 0.75
# What an idle service takes with its decode processes and the bundled network, of some 20 MB.
_IDLE_BYTES: Final = 200 * 10**6
# A photograph of fewer pixels never waits for the process of low priority.
_MIN_QUICK_PIXELS: Final = 4_000_000
_PICTURES_IN_FLIGHT: Final = 16


def memory_share(memory_bytes: int) -> int:
    """Give the part of a service's memory that one of its budgets has by default, in bytes."""
    return memory_bytes // _SHARES


def upload_share(settings: dict[str, Any]) -> int:
    """Give the part of a service's memory that unfinished requests and streams have by default.

    Args:
        settings: Those that are known, with ``memory_bytes``.

    Returns:
        Bytes.
    """
    return int(settings["memory_bytes"]) // _UPLOAD_SHARES


def quick_pixels(settings: "DecodingSettings") -> int:
    """Give the most pixels that are decoded at a time beside one largest picture.

    Raises:
        PreconditionFailed: If the memory is too small for the largest picture.
    """
    largest = settings.image_max_pixels
    left = int((settings.memory_bytes * _DECODE_SHARE - _IDLE_BYTES) / BYTES_PER_PIXEL) - largest
    if left < _MIN_QUICK_PIXELS:
        pixels = largest + _MIN_QUICK_PIXELS
        needed = (_IDLE_BYTES + BYTES_PER_PIXEL * pixels) / _DECODE_SHARE
        raise PreconditionFailed(
            f"MAGFACE_MEMORY_BYTES is {settings.memory_bytes}, and pictures of "
            f"MAGFACE_IMAGE_MAX_PIXELS ({largest}) need at least {ceil(needed)}: raise the one or "
            "lower the other"
        )
    return min(left, max(largest // 2, _MIN_QUICK_PIXELS))


def pixels_in_flight(limits: ImageLimits) -> int:
    """Give the most pixels of pictures that a service admits: those of 16 largest pictures.

    Only some of them are decoded at a time, so this bounds how long a picture waits, and not the
    memory.
    """
    return _PICTURES_IN_FLIGHT * limits.image_max_pixels


def _default_processes() -> int:
    return min(cpu_threads(), _MAX_DEFAULT_PROCESSES)


class DecodingSettings(ImageLimits):
    """Settings of a service that decodes pictures.

    Attributes:
        memory_bytes: Memory that the service and its decode processes may take together with the
            bundled network. The pixels that are decoded at a time, and the budgets for uploads,
            for encoded pictures in flight and for the cache follow from it.
        decode_processes: Processes that decode pictures, beside one of low priority for slow
            pictures; by default the CPUs of the cgroup's quota, at most 4.
        decode_cpu_s: Processor time that one picture may take, in seconds.
    """

    memory_bytes: int = Field(default=2**30, ge=1)
    decode_processes: int = Field(default_factory=_default_processes, ge=1)
    decode_cpu_s: float = Field(default=5.0, gt=0)
