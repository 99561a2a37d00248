"""Settings of glibc's malloc that return freed memory to the system.

With another C library nothing happens.
"""

import ctypes
from typing import Final

# From malloc.h. An explicit limit also stays constant: by default glibc raises the threshold for
# mapped blocks to the size of the largest freed block, and later large blocks go into the heap.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LIMITS: Final = {
    # With an arena for each thread, memory freed by one thread is not reused by others.
    _M_ARENA_MAX: 2,
    # Larger than the arrays of a batch, smaller than most weights of a network.
    _M_MMAP_THRESHOLD: 2 * 2**20,
    # Less free memory than this stays in the heap, so that batches do not return and fetch it.
    _M_TRIM_THRESHOLD: 64 * 2**20,
}


def limit_heaps() -> None:
    """Set malloc's limits, so that the memory of large blocks can return to the system.

    To be called before threads start, as it has no effect on existing arenas.
    """
    if mallopt := _libc("mallopt"):
        for parameter, value in _LIMITS.items():
            mallopt(parameter, value)


def trim_heap() -> None:
    """Return freed memory to the system. Blocks, long enough to delay calls on an event loop."""
    if trim := _libc("malloc_trim"):
        trim(0)


def _libc(name: str) -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), name, None)
