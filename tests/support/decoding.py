"""A pool of decode processes that tests of one process share."""

import functools

from shared.decoding.pool import DecodePool
from shared.decoding.settings import DecodingSettings


@functools.cache
def decode_pool() -> DecodePool:
    """A running pool; its processes end with this one."""
    pool = DecodePool(DecodingSettings(decode_processes=2))
    pool.start()
    return pool
