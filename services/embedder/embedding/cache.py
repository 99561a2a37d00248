"""Cache of embeddings: least recently used, bounded in bytes, with one computation per key."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, TypeAlias

from services.embedder import metrics
from services.embedder.inference.requests import EmbeddedFace
from shared.model.image.face import Box, FaceImage

# Bytes of an entry beside its floats: the key with its hash, the objects, the dictionary's share.
# Measured with tracemalloc and rounded up; landmarks are pairs of boxed floats.
_ENTRY_BYTES: Final = 800
_LANDMARK_BYTES: Final = 180
_BOX_BYTES: Final = 180
_DETECTED_BYTES: Final = 880


class CacheKey(NamedTuple):
    """All that an embedding depends on."""

    sha256: bytes
    model_version: str
    alignment: str
    landmarks: tuple[tuple[float, float], ...]
    on_several: str
    box: Box | None
    on_no_face: str


def cache_key(face: FaceImage, model_version: str) -> CacheKey:
    """Give the key of a face's embedding; hashes the picture."""
    digest = hashlib.sha256(face.data).digest()
    return CacheKey(
        digest,
        model_version,
        face.alignment,
        face.landmarks,
        face.on_several,
        face.box,
        face.on_no_face,
    )


CachedFaces: TypeAlias = dict[CacheKey, EmbeddedFace]
ComputeFaces: TypeAlias = Callable[[Sequence[CacheKey]], Awaitable[Sequence[EmbeddedFace]]]
_Computation: TypeAlias = "asyncio.Future[Mapping[CacheKey, EmbeddedFace]]"


class EmbeddingCache:
    """Evicts the least recently used entries; belongs to the loop's thread.

    A key that is being computed is not computed a second time: other callers wait for the first
    computation, and compute the key themselves if that fails, is cancelled or expires.

    Args:
        max_bytes: Memory for embeddings; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[CacheKey, EmbeddedFace] = OrderedDict()
        self._computing: dict[CacheKey, _Computation] = {}
        metrics.CACHE_BYTES.set_function(lambda: self._bytes)

    @property
    def bytes(self) -> int:
        """Memory that the entries take."""
        return self._bytes

    def find(self, keys: Sequence[CacheKey]) -> list[EmbeddedFace] | None:
        """Look faces up; None unless all of them are cached."""
        found = self._look_up(keys)
        if len(found) < len(set(keys)):
            return None
        metrics.CACHE_HITS.inc(len(keys))
        return [found[key] for key in keys]

    async def get_or_compute(
        self, keys: Sequence[CacheKey], compute: ComputeFaces
    ) -> list[EmbeddedFace]:
        """Look faces up, wait for those that are being computed, and compute the rest.

        Args:
            keys: Of the faces, in the order of the answer; keys may repeat.
            compute: Gives the faces of some of the keys, in their order. Its errors are raised
                here; other callers that wait for the same keys do not get them.
        """
        found = self._look_up(keys)
        missing = _missing(keys, found)
        joined = sum(key in self._computing for key in missing)
        metrics.CACHE_HITS.inc(len(found))
        metrics.CACHE_JOINED.inc(joined)
        metrics.CACHE_MISSES.inc(len(missing) - joined)
        while missing:
            found |= await self._compute_or_join(missing, compute)
            if missing := _missing(missing, found):
                # A joined computation failed; another caller may have computed the key meanwhile.
                found |= self._look_up(missing)
                missing = _missing(missing, found)
        return [found[key] for key in keys]

    def clear(self) -> None:
        """Drop all entries; what is being computed now will not be cached either."""
        self._entries.clear()
        self._computing.clear()
        self._bytes = 0

    def _look_up(self, keys: Sequence[CacheKey]) -> CachedFaces:
        found = {}
        for key in keys:
            if face := self._entries.get(key):
                self._entries.move_to_end(key)
                found[key] = face
        return found

    async def _compute_or_join(
        self, keys: Sequence[CacheKey], compute: ComputeFaces
    ) -> CachedFaces:
        joined = {key: self._computing[key] for key in keys if key in self._computing}
        own = [key for key in keys if key not in joined]
        found = await self._compute(own, compute) if own else {}
        if joined:
            # asyncio.wait, because awaiting a future passes a cancellation on to it.
            await asyncio.wait(set(joined.values()))
        for key, computation in joined.items():
            if face := computation.result().get(key):
                found[key] = face
        return found

    async def _compute(self, keys: Sequence[CacheKey], compute: ComputeFaces) -> CachedFaces:
        computation: _Computation = asyncio.get_running_loop().create_future()
        self._computing |= dict.fromkeys(keys, computation)
        found: CachedFaces = {}
        try:
            found = dict(zip(keys, await compute(keys), strict=True))
        finally:
            for key in keys:
                # After a `clear` the key is absent, or belongs to a later computation.
                if self._computing.get(key) is computation:
                    del self._computing[key]
                    if key in found:
                        self._store(key, found[key])
            computation.set_result(found)
        return found

    def _store(self, key: CacheKey, face: EmbeddedFace) -> None:
        # A view of the batch's array would keep the whole array in memory.
        embedding = face.embedding.copy()
        embedding.flags.writeable = False
        self._entries[key] = replace(face, embedding=embedding)
        self._bytes += _entry_bytes(key, face)
        while self._bytes > self._max_bytes:
            self._bytes -= _entry_bytes(*self._entries.popitem(last=False))


def _missing(keys: Sequence[CacheKey], found: CachedFaces) -> list[CacheKey]:
    return [key for key in dict.fromkeys(keys) if key not in found]


def _entry_bytes(key: CacheKey, face: EmbeddedFace) -> int:
    size = _ENTRY_BYTES + _LANDMARK_BYTES * len(key.landmarks) + face.embedding.nbytes
    if key.box is not None:
        size += _BOX_BYTES
    if face.detected is not None:
        size += _DETECTED_BYTES
    return size
