"""Remembers embeddings, so that an image that comes again costs a hash and a look."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from services.embedder import metrics
from services.embedder.inference.requests import EmbeddedFace
from shared.model.image.face import FaceImage

# What an entry weighs beside its floats: the key with its hash, the objects, the dictionary's
# share. Measured with tracemalloc, rounded up; landmarks are five pairs of boxed floats.
_ENTRY_BYTES: Final = 760
_LANDMARK_BYTES: Final = 180


class CacheKey(NamedTuple):
    """All that an embedding depends on."""

    sha256: bytes
    model_version: str
    alignment: str
    landmarks: tuple[tuple[float, float], ...]


def cache_key(face: FaceImage, model_version: str) -> CacheKey:
    """Name what a version says of a face; hashes its bytes."""
    digest = hashlib.sha256(face.data).digest()
    return CacheKey(digest, model_version, face.alignment, face.landmarks)


Found: TypeAlias = dict[CacheKey, EmbeddedFace]
Compute: TypeAlias = Callable[[Sequence[CacheKey]], Awaitable[Sequence[EmbeddedFace]]]
_Computation: TypeAlias = "asyncio.Future[Mapping[CacheKey, EmbeddedFace]]"


class EmbeddingCache:
    """Least recently used goes first; belongs to the loop's thread.

    What is being computed is not computed again beside it: who asks for the same waits for
    the first, and computes it after all when the first fails, leaves or comes too late.

    Args:
        max_bytes: Memory for embeddings; with 0 nothing is kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[CacheKey, EmbeddedFace] = OrderedDict()
        self._computing: dict[CacheKey, _Computation] = {}
        metrics.CACHE_BYTES.set_function(lambda: self._bytes)

    @property
    def bytes(self) -> int:
        """Memory taken by what is kept."""
        return self._bytes

    def find(self, keys: Sequence[CacheKey]) -> list[EmbeddedFace] | None:
        """Look faces up; None unless all of them are here."""
        found = self._look_up(keys)
        if len(found) < len(set(keys)):
            return None
        metrics.CACHE_HITS.inc(len(keys))
        return [found[key] for key in keys]

    async def fill(self, keys: Sequence[CacheKey], compute: Compute) -> list[EmbeddedFace]:
        """Give faces, computing those that are neither here nor on their way.

        Args:
            keys: Of the faces, in the order of the answer; one may stand there twice.
            compute: Gives the faces of some of the keys, in their order. What it raises
                is raised here, and concerns no one else who waits.
        """
        found = self._look_up(keys)
        missing = _without(keys, found)
        joined = sum(key in self._computing for key in missing)
        metrics.CACHE_HITS.inc(len(found))
        metrics.CACHE_JOINED.inc(joined)
        metrics.CACHE_MISSES.inc(len(missing) - joined)
        while missing:
            found |= await self._compute_or_join(missing, compute)
            if missing := _without(missing, found):
                # Where the one that was joined failed, another may have computed it meanwhile.
                found |= self._look_up(missing)
                missing = _without(missing, found)
        return [found[key] for key in keys]

    def clear(self) -> None:
        """Forget everything, also what is being computed now: it will not be kept."""
        self._kept.clear()
        self._computing.clear()
        self._bytes = 0

    def _look_up(self, keys: Sequence[CacheKey]) -> Found:
        found = {}
        for key in keys:
            if face := self._kept.get(key):
                self._kept.move_to_end(key)
                found[key] = face
        return found

    async def _compute_or_join(self, keys: Sequence[CacheKey], compute: Compute) -> Found:
        joined = {key: self._computing[key] for key in keys if key in self._computing}
        own = [key for key in keys if key not in joined]
        found = await self._compute(own, compute) if own else {}
        if joined:
            # Not awaited itself: who leaves would cancel it for the others.
            await asyncio.wait(set(joined.values()))
        for key, computation in joined.items():
            if face := computation.result().get(key):
                found[key] = face
        return found

    async def _compute(self, keys: Sequence[CacheKey], compute: Compute) -> Found:
        computation: _Computation = asyncio.get_running_loop().create_future()
        self._computing |= dict.fromkeys(keys, computation)
        found: Found = {}
        try:
            found = dict(zip(keys, await compute(keys), strict=True))
        finally:
            for key in keys:
                # Cleared in between, it is no longer there, or another's.
                if self._computing.get(key) is computation:
                    del self._computing[key]
                    if key in found:
                        self._keep(key, found[key])
            computation.set_result(found)
        return found

    def _keep(self, key: CacheKey, face: EmbeddedFace) -> None:
        # A row of its batch's array would keep the whole array.
        embedding = face.embedding.copy()
        embedding.flags.writeable = False
        self._kept[key] = EmbeddedFace(embedding, face.magnitude, face.quality)
        self._bytes += _weight(key, face)
        while self._bytes > self._max_bytes:
            self._bytes -= _weight(*self._kept.popitem(last=False))


def _without(keys: Sequence[CacheKey], found: Found) -> list[CacheKey]:
    return [key for key in dict.fromkeys(keys) if key not in found]


def _weight(key: CacheKey, face: EmbeddedFace) -> int:
    return _ENTRY_BYTES + _LANDMARK_BYTES * len(key.landmarks) + face.embedding.nbytes
