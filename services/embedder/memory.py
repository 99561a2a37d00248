"""Keeps glibc from holding on to memory that is not used any more; elsewhere it does nothing."""

import ctypes
from typing import Final

from services.embedder.resident import LoadedModel

# From malloc.h.
_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2


def limit_arenas() -> None:
    """Let the threads share two heaps: with one each, what one gave back no other gets.

    Takes effect for heaps that are not there yet, so call it before threads start.
    """
    if mallopt := _libc("mallopt"):
        mallopt(_M_ARENA_MAX, _ARENAS)


def let_go(models: list[LoadedModel | None]) -> None:
    """Drop the last references to models, and return their memory to the system. Blocks.

    Giving back a session's memory takes long enough to be felt on the loop.
    """
    models.clear()
    if trim := _libc("malloc_trim"):
        trim(0)


def _libc(name: str) -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), name, None)
