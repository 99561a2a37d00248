"""Settings of decoding: its processes, its time and the memory of the service."""

from typing import Final

from pydantic import Field

from shared.model.sessions.cpu import cpu_threads
from shared.settings import ImageLimits

# Each takes some 50 MB, and decoding is seldom the bottleneck.
_MAX_DEFAULT_PROCESSES: Final = 4

_SHARES: Final = 16
_PICTURES_IN_FLIGHT: Final = 16


def memory_share(memory_bytes: int) -> int:
    """Give the part of a service's memory that one of its budgets has by default, in bytes."""
    return memory_bytes // _SHARES


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
        memory_bytes: Memory that the service and its decode processes may take together. The
            budgets for decoded pixels, for encoded pictures in flight and for the cache follow
            from it.
        decode_processes: Processes that decode pictures, beside one of low priority for slow
            pictures; by default the CPUs of the cgroup's quota, at most 4.
        decode_cpu_s: Processor time that one picture may take, in seconds.
    """

    memory_bytes: int = Field(default=2**30, ge=2**28)
    decode_processes: int = Field(default_factory=_default_processes, ge=1)
    decode_cpu_s: float = Field(default=5.0, gt=0)
