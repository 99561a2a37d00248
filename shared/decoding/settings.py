"""Settings of decoding: its processes, its time and the memory of the service."""

from typing import Final

from pydantic import Field

from shared.model.sessions.cpu import cpu_threads
from shared.settings import ImageLimits

# Each takes some 50 MB, and decoding is seldom the bottleneck.
_MAX_DEFAULT_PROCESSES: Final = 4


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
