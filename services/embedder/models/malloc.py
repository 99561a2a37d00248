"""Keeps glibc from holding on to memory that is not used any more; elsewhere it does nothing."""

import ctypes
from typing import Final

from services.embedder.models.resident import LoadedModel

# From malloc.h. A limit that is set stays: left alone, glibc raises the one from which a block is
# mapped with the largest block freed, and weights come to lie between what lives longer.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LIMITS: Final = {
    # With a heap for each thread, what one gave back no other gets.
    _M_ARENA_MAX: 2,
    # Above a batch's arrays, below most of a network's weights.
    _M_MMAP_THRESHOLD: 2 * 2**20,
    # Where less is free at a heap's end it stays, instead of going and coming with each batch.
    _M_TRIM_THRESHOLD: 64 * 2**20,
}


def limit_heaps() -> None:
    """Let memory that models leave behind go back to the system.

    Takes effect for heaps that are not there yet, so call it before threads start.
    """
    if mallopt := _libc("mallopt"):
        for parameter, value in _LIMITS.items():
            mallopt(parameter, value)


def let_go(models: list[LoadedModel | None]) -> None:
    """Drop the last references to models, and return their memory to the system. Blocks.

    Giving back a session's memory takes long enough to be felt on the loop.
    """
    models.clear()
    if trim := _libc("malloc_trim"):
        trim(0)


def _libc(name: str) -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), name, None)
