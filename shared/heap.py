"""Settings of glibc's malloc that return freed memory to the system.

With another C library nothing happens.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# From malloc.h. An explicit limit also stays constant: by default glibc raises the threshold for
# mapped blocks to the size of the largest freed block, and later large blocks go into the heap.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
# The largest threshold that glibc takes. The system clears each page of a mapped block, so that a
# request of 26 MB takes four times as long to receive when its copies are mapped.
_MAPPED_BYTES: Final = 32 * 2**20
# Larger than the arrays of a batch, smaller than most weights of a network.
_MAPPED_WEIGHT_BYTES: Final = 2 * 2**20
_LIMITS: Final = {
    # With an arena for each thread, memory freed by one thread is not reused by others.
    _M_ARENA_MAX: 2,
    _M_MMAP_THRESHOLD: _MAPPED_BYTES,
    # Less free memory than this stays in the heap, so that batches do not return and fetch it.
    _M_TRIM_THRESHOLD: 64 * 2**20,
}
_lock: Final = threading.Lock()
_loading = 0


def limit_heaps() -> None:
    """Set malloc's limits, so that the memory of large blocks can return to the system.

    To be called before threads start, as it has no effect on existing arenas.
    """
    for parameter, value in _LIMITS.items():
        _set_limit(parameter, value)


@contextmanager
def mapped_weights() -> Iterator[None]:
    """Give the weights of a network that is loaded in the block memory outside the heap.

    Their memory returns to the system when they are freed, and leaves no gaps in the heap. Threads
    may load networks at the same time: the limit is one of the process.
    """
    _count_loading(1)
    try:
        yield
    finally:
        _count_loading(-1)


def _count_loading(by: int) -> None:
    global _loading  # noqa: PLW0603 - malloc has one limit per process
    with _lock:
        _loading += by
        _set_limit(_M_MMAP_THRESHOLD, _MAPPED_WEIGHT_BYTES if _loading else _MAPPED_BYTES)


def trim_heap() -> None:
    """Return freed memory to the system. Blocks, long enough to delay calls on an event loop."""
    if trim := _libc("malloc_trim"):
        trim(0)


def _set_limit(parameter: int, value: int) -> None:
    if mallopt := _libc("mallopt"):
        mallopt(parameter, value)


def _libc(name: str) -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), name, None)
