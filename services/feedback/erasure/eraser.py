"""Erases images with all that was said about them; what is asked for is done, also after a crash.

An erasure is recorded before anything is deleted, then carried out in small steps: rows of some
images with their pairs and labels in one transaction, then their objects and what trainings
reported of them, then their place on the list of removals, the last to name them. `removals.py`
says why an upload of the same image cannot end up halfway.
"""

import asyncio
import logging
import secrets
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from psycopg import AsyncConnection

from services.feedback.erasure import queries
from services.feedback.erasure.audit import Action, Erasure, audit_row
from services.feedback.erasure.row_deletion import delete_rows
from services.feedback.images.vault import ImageVault
from shared.errors import NotFound, Unavailable
from shared.registry.erasure_mark import write_erasure_mark
from shared.registry.label_reports import read_reports, remove_images
from shared.registry.lineage import versions_trained_on
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction

logger = logging.getLogger(__name__)

_STEP_IMAGES: Final = 32
_EXPIRED_AT_ONCE: Final = 1000
SWEEP: Final = ""


class Eraser:
    """Removes images with their pairs, labels and objects.

    Args:
        pool: Connections to a database with the schema `feedback`.
        vault: Where the images' bytes are.
        objects: The bucket, for its manifests and its mark of the last erasure.
        lease_s: Longer than the removal of an object can take, in seconds.
    """

    def __init__(self, pool: Pool, vault: ImageVault, objects: ObjectStore, lease_s: float) -> None:
        self._pool = pool
        self._vault = vault
        self._objects = objects
        self._lease_s = lease_s
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()

    async def erase_image(self, sha256: str, actor: str, request_id: str) -> Erasure:
        """Erase an image; when this returns, nothing of it is stored.

        Asked again under the same name it erases what came back since, and answers with the
        sum.

        Args:
            sha256: 64 hex digits.
            actor: Who asks.
            request_id: The caller's name for the request; it stays, so it must not say whom
                the image shows.

        Raises:
            Unavailable: If a store cannot be reached. Once the request is recorded, it is
                carried out later by itself; asking again tells whether it is done.
        """
        wanted = {"sha256": bytes.fromhex(sha256)}
        return await self._erase("erase_image", actor, request_id, queries.LIST_IMAGE, wanted)

    async def erase_subject(self, subject: str, actor: str, request_id: str) -> Erasure:
        """Erase all images of a person, as `erase_image` does one."""
        wanted = {"subject": subject}
        return await self._erase("erase_subject", actor, request_id, queries.LIST_SUBJECT, wanted)

    async def erase_older(self, before: datetime) -> int:
        """Erase images stored before a moment, and so all labels given before it.

        A label is never older than the images it is about.

        Returns:
            How many images there were.

        Raises:
            Unavailable: If a store cannot be reached; the rest is erased later.
        """
        erased = 0
        while await self._any_older(before):
            wanted = {"before": before, "limit": _EXPIRED_AT_ONCE}
            name = f"retention-{secrets.token_hex(8)}"
            done = await self._erase("retention", "system", name, queries.LIST_EXPIRED, wanted)
            erased += done.images
        return erased

    async def remove_orphans(self, hashes: list[str]) -> None:
        """Remove the objects of images (hex SHA-256) that have no row.

        Raises:
            Unavailable: If a store cannot be reached; the rest is removed later.
        """
        wanted = {"hashes": [bytes.fromhex(sha256) for sha256 in hashes]}
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.ORPHANS_AMONG, wanted)
            orphans = [sha256 for (sha256,) in await cursor.fetchall()]
        if not orphans:
            return
        async with transaction(self._pool) as connection:
            await connection.execute(queries.CLOSE_GATE)
            # Some may have got their row before the gate was closed.
            await connection.execute(queries.LIST_ORPHANS, {"hashes": orphans})
            await connection.execute(queries.RAISE_EPOCH)
        await self._carry_out(SWEEP)

    async def finish(self) -> None:
        """Carry out whatever was begun and not finished, here or by another process.

        Raises:
            Unavailable: If a store cannot be reached.
        """
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.UNFINISHED)
            requests = [request_id for (request_id,) in await cursor.fetchall()]
        for request_id in (*requests, SWEEP):
            try:
                await self._carry_out(request_id)
            except _TakenElsewhere as error:
                logger.info("%s", error)

    async def find(self, request_id: str) -> Erasure:
        """Say how far an erasure is.

        Raises:
            NotFound: If none of this name was asked for.
        """
        named = {"request_id": request_id}
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.ERASURE, named)
            row = await cursor.fetchone()
            cursor = await connection.execute(queries.ERASED_SNAPSHOTS, named)
            snapshots = tuple(str(snapshot_id) for (snapshot_id,) in await cursor.fetchall())
        if row is None:
            raise NotFound(f"request_id: no erasure {request_id!r} was asked for")
        versions = await asyncio.to_thread(versions_trained_on, self._objects, snapshots)
        name, action, actor, images, pairs, labels, finished_at = row
        return Erasure(
            name, action, actor, images, pairs, labels, snapshots, tuple(versions), finished_at
        )

    async def clear_reports(self) -> None:
        """Take pairs of images without a row out of what trainings reported of their labels.

        Whichever erasure they went with: a training may have written, and another erasure may
        write back, what it read before. None is done while another is under way.

        Raises:
            Unavailable: If a store cannot be reached; some reports may be done by then.
        """
        async with transaction(self._pool) as connection:
            await connection.execute(queries.LOCK_REPORTS)
            reports = read_reports(self._objects)
            while report := await asyncio.to_thread(next, reports, None):
                named = {"hashes": list(report.images)}
                cursor = await connection.execute(queries.ORPHANS_AMONG, named)
                gone = [sha256 for (sha256,) in await cursor.fetchall()]
                await asyncio.to_thread(remove_images, self._objects, report, gone)

    async def close(self) -> None:
        """Give up what is under way; it is recorded, and finished after the next start."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _erase(
        self, action: Action, actor: str, request_id: str, listing: str, wanted: dict[str, Any]
    ) -> Erasure:
        wanted = {"request_id": request_id, "action": action, "actor": actor, **wanted}
        async with transaction(self._pool) as connection:
            await connection.execute(queries.CLOSE_GATE)
            await connection.execute(queries.RECORD_ERASURE, wanted)
            await connection.execute(listing, wanted)
            await connection.execute(queries.REOPEN_ERASURE, wanted)
            await connection.execute(queries.RAISE_EPOCH)
        await self._carry_out(request_id)
        return await self.find(request_id)

    async def _any_older(self, before: datetime) -> bool:
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.ANY_EXPIRED, {"before": before})
            return await cursor.fetchone() is not None

    async def _carry_out(self, request_id: str) -> None:
        # Nobody who hangs up may stop it between two steps: the lease would have to run out.
        task = asyncio.create_task(self._carry_out_alone(request_id))
        self._running.add(task)
        task.add_done_callback(self._ended)
        await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        # Otherwise asyncio complains where the caller has gone.
        if not task.cancelled():
            task.exception()

    async def _carry_out_alone(self, request_id: str) -> None:
        async with self._turn:
            while hashes := await self._next(request_id):
                while not await self._delete_rows(request_id, hashes):
                    continue
                await self._remove_objects(request_id, hashes)
            await self._conclude(request_id)

    async def _next(self, request_id: str) -> list[bytes]:
        wanted = {"request_id": request_id, "lease_s": self._lease_s, "limit": _STEP_IMAGES}
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.NEXT_REMOVALS, wanted)
            return [sha256 for (sha256,) in await cursor.fetchall()]

    async def _delete_rows(self, request_id: str, hashes: list[bytes]) -> bool:
        if request_id == SWEEP:
            return True
        async with transaction(self._pool) as connection:
            await connection.execute(queries.CLOSE_GATE)
            return await delete_rows(connection, request_id, hashes)

    async def _remove_objects(self, request_id: str, hashes: list[bytes]) -> None:
        mine = {"request_id": request_id, "token": uuid4(), "lease_s": self._lease_s}
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.TAKE_REMOVALS, {**mine, "hashes": hashes})
            taken = [sha256 for (sha256,) in await cursor.fetchall()]
        await asyncio.gather(*(self._vault.remove(one.hex()) for one in taken))
        if request_id != SWEEP:
            await self.clear_reports()
        async with transaction(self._pool) as connection:
            await connection.execute(queries.FORGET_REMOVALS, {**mine, "hashes": taken})

    async def _conclude(self, request_id: str) -> None:
        async with transaction(self._pool) as connection:
            if await _any_left(connection, request_id):
                raise _TakenElsewhere(
                    f"erasure {request_id!r} is recorded and being carried out; ask again later"
                )
        if request_id == SWEEP:
            return
        done = await self.find(request_id)
        if done.finished_at is not None:
            return
        # Caches go after the rows, so that none is filled from them again.
        await asyncio.to_thread(write_erasure_mark, self._objects)
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.FINISH_ERASURE, {"request_id": request_id})
            if await cursor.fetchone() is not None:
                await connection.execute(queries.AUDIT, audit_row(done))


class _TakenElsewhere(Unavailable):
    """Another process, or one that died a moment ago, holds what is left."""


async def _any_left(connection: AsyncConnection, request_id: str) -> bool:
    cursor = await connection.execute(queries.REMOVALS_LEFT, {"request_id": request_id})
    return await cursor.fetchone() == (True,)
