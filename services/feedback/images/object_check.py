"""Check that the object of every image with a row is there and has the right content."""

import asyncio
from typing import Final, NoReturn

from services.feedback.images import queries
from services.feedback.images.damaged import DamagedImages
from shared.errors import CorruptData, NotFound
from shared.runtime import repeat
from shared.storage.objects import IMAGES_PREFIX, ObjectStore, image_key
from shared.storage.postgres import Pool, fetch

_PREFIXES: Final = 256


class ObjectCheck:
    """Looks for all objects at intervals, and reads back one image after the other.

    Args:
        pool: Connections to a database with the schema `feedback`.
        objects: The bucket.
        damaged: Gets the images that are found to be damaged.
    """

    def __init__(self, pool: Pool, objects: ObjectStore, damaged: DamagedImages) -> None:
        self._pool = pool
        self._objects = objects
        self._damaged = damaged
        self._last_read = b""

    async def run(self, sweep_every_s: float, read_every_s: float) -> NoReturn:
        """Check until cancelled.

        Args:
            sweep_every_s: Pause between two looks for all objects, in seconds.
            read_every_s: Pause between two images that are read back, in seconds.
        """
        await asyncio.gather(
            repeat("look for the objects of images", self.sweep, sweep_every_s),
            repeat("reading back of images", self.read_next, read_every_s),
        )
        raise AssertionError("the loops do not end")

    async def sweep(self) -> None:
        """Look for the object of every image, and compare its size.

        Raises:
            Unavailable: If a store does not answer; the next sweep starts again.
        """
        for first in range(_PREFIXES):
            await self._sweep_prefix(f"{first:02x}")

    async def read_next(self) -> None:
        """Read back the image after the last one, and compare its hash.

        Raises:
            Unavailable: If a store does not answer.
        """
        rows = await fetch(self._pool, queries.NEXT_IMAGE, {"after": self._last_read})
        if not rows:
            self._last_read = b""
            return
        ((sha256,),) = rows
        await self._read(sha256.hex())
        self._last_read = sha256

    async def _sweep_prefix(self, prefix: str) -> None:
        sizes = await self._sizes(prefix)
        found = await asyncio.to_thread(self._list, f"{IMAGES_PREFIX}{prefix}/") if sizes else {}
        suspects = {
            sha256 for sha256, size in sizes.items() if found.get(image_key(sha256)) != size
        }
        if suspects:
            # Some may have been erased or written again meanwhile.
            suspects &= (await self._sizes(prefix)).keys()
        gone = [sha256 for sha256 in suspects if not await self._has_size(sha256, sizes[sha256])]
        self._damaged.add(*gone)
        for sha256 in self._damaged.starting_with(prefix):
            if sha256 not in sizes:
                self._damaged.discard(sha256)
            elif sha256 not in gone:
                # The operator may have restored it.
                await self._read(sha256)

    async def _sizes(self, prefix: str) -> dict[str, int]:
        """Read the sizes of the images whose hash starts with two digits."""
        first = bytes.fromhex(prefix)
        rows = await fetch(
            self._pool, queries.IMAGE_SIZES, {"first": first, "last": first + b"\xff" * 32}
        )
        return {sha256.hex(): size for sha256, size in rows}

    def _list(self, prefix: str) -> dict[str, int]:
        return {found.key: found.size for found in self._objects.list(prefix)}

    async def _has_size(self, sha256: str, size: int) -> bool:
        try:
            return (await asyncio.to_thread(self._objects.stat, image_key(sha256))).size == size
        except NotFound:
            return False

    async def _read(self, sha256: str) -> None:
        wanted = await fetch(self._pool, queries.OBJECT_HASH, {"sha256": bytes.fromhex(sha256)})
        if not wanted:
            return
        ((stored_sha256,),) = wanted
        try:
            await asyncio.to_thread(
                self._objects.get, image_key(sha256), sha256=stored_sha256.hex()
            )
        except (NotFound, CorruptData):
            if sha256 in await self._sizes(sha256[:2]):
                self._damaged.add(sha256)
        else:
            self._damaged.discard(sha256)
