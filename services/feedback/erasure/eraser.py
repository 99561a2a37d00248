"""Eraser: removes images with their pairs, labels, objects and derived data, crash-safely.

An erasure is recorded before anything is deleted. It is then executed in small steps: first the
rows of some images with their pairs and labels, in one transaction; then their objects; then their
entries in table `removals`, the last table that names them. Afterwards the images are taken out of
the objects that are derived from images, which `shared/registry/image_data.py` lists. The erasure
is finished when the jobs that had copies of the images have ended. After a crash any process
continues. `upload_fence.py` explains why a concurrent upload of the same image cannot leave half an
image.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from services.feedback.erasure import queries
from services.feedback.erasure.audit import Erasure, ErasureAction, audit_row
from services.feedback.erasure.row_deletion import delete_rows
from services.feedback.images.vault import ImageVault
from shared.errors import AlreadyExists, NotFound, Unavailable
from shared.registry.erasure_mark import write_erasure_mark
from shared.registry.image_copies import list_holders, may_hold
from shared.registry.image_data import read_derived, remove_images
from shared.registry.lineage import versions_trained_on
from shared.storage.objects import ObjectStore
from shared.storage.postgres import BoundedConnection, Pool, fetch, transaction

logger = logging.getLogger(__name__)

_IMAGES_PER_STEP: Final = 32
_EXPIRED_AT_ONCE: Final = 1000
# A name can be guessed, so that guessing is made slow: tens of milliseconds and 16 MiB each.
_SCRYPT: Final = {"n": 2**14, "r": 8, "p": 1, "dklen": 32}
# The request id of removals by the sweep; they have no row in table `erasures`.
_SWEEP: Final = ""


class _RemovalInProgress(Unavailable):
    """Another process, which may have died a moment ago, holds the lease of what is left."""


class _CopiesLeft(Unavailable):
    """Only jobs of the trainer have copies of the images left, until they end."""


class Eraser:
    """Erases images.

    Args:
        pool: Connections to a database with the schema `feedback`.
        vault: Deletes the objects.
        objects: The bucket, for manifests, derived objects, announced copies and the erasure mark.
        lease_s: How long a process owns the removal of an object, in seconds. Must be longer than
            the deletion of an object can take.
        tombstone_days: Days for which images and labels that were erased on request are not
            stored again; 0 for none.
    """

    def __init__(
        self,
        pool: Pool,
        vault: ImageVault,
        objects: ObjectStore,
        lease_s: float,
        tombstone_days: int,
    ) -> None:
        self._pool = pool
        self._vault = vault
        self._objects = objects
        self._lease_s = lease_s
        self._tombstone_days = tombstone_days
        self._lock = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, str] = {}

    async def erase_image(self, sha256: str, requested_by: str, request_id: str) -> Erasure:
        """Erase an image; when this returns, nothing of it is stored.

        Tombstones keep the image and its labels from being stored again for `tombstone_days`.
        Repeated with the same request id, it erases the image again if it was stored
        since, and returns the sum.

        Args:
            sha256: 64 hex digits.
            requested_by: Who requests the erasure.
            request_id: Idempotency key chosen by the caller. It stays stored, so it must not
                identify whom the image shows.

        Raises:
            NotFound: If the image is not stored, and the request id was not used before.
            AlreadyExists: If the request id was used to erase something else.
            Unavailable: If a store does not answer, or a job of the trainer has copies of the
                image until it ends. Once the request is recorded, it is executed in the background;
                repeat the call to learn whether it is finished.
        """
        # A crashed upload leaves an object without a row, which is erased too.
        without_row = await self._without_row([bytes.fromhex(sha256)])
        has_object = bool(without_row) and await self._vault.holds(sha256)
        image = {"sha256": bytes.fromhex(sha256), "has_object": has_object}
        asked_for = await self._digest("erase_image", sha256, request_id)
        return await self._erase(
            "erase_image",
            requested_by,
            request_id,
            queries.LIST_IMAGE,
            image | {"asked_for": asked_for},
            missing=f"sha256: image {sha256} is not stored",
        )

    async def erase_subject(self, subject: str, requested_by: str, request_id: str) -> Erasure:
        """Erase all images that have the name of a person, as `erase_image` erases one.

        Args:
            subject: The name, normalised; an image may have others too.
            requested_by: Who requests the erasure.
            request_id: As in `erase_image`.
        """
        asked_for = await self._digest("erase_subject", subject, request_id)
        return await self._erase(
            "erase_subject",
            requested_by,
            request_id,
            queries.LIST_SUBJECT,
            {"subject": subject, "asked_for": asked_for},
            missing="subject: no stored image has this name; case and accents distinguish names",
        )

    async def erase_older(self, before: datetime) -> int:
        """Erase images stored before a moment, and with them all labels given before it.

        A label is never older than the images of its pair.

        Returns:
            The number of erased images.

        Raises:
            Unavailable: If a store does not answer; call again to erase the rest.
        """
        erased = 0
        while await fetch(self._pool, queries.ANY_EXPIRED, {"before": before}):
            expired = {"before": before, "limit": _EXPIRED_AT_ONCE, "asked_for": None}
            request_id = f"retention-{secrets.token_hex(8)}"
            try:
                erasure = await self._erase(
                    "retention", "system", request_id, queries.LIST_EXPIRED, expired
                )
            except _CopiesLeft:
                # `finish` goes on with it; there may be more to erase.
                erasure = await self.find(request_id)
            erased += erasure.images
        return erased

    async def remove_orphans(self, hashes: Sequence[str]) -> None:
        """Remove the objects of those images (hex SHA-256) that have no row.

        Raises:
            Unavailable: If a store does not answer; the rest is removed later.
        """
        orphans = await self._without_row([bytes.fromhex(sha256) for sha256 in hashes])
        if not orphans:
            return
        async with transaction(self._pool) as connection:
            await connection.execute(queries.LOCK_REMOVALS)
            # Images that got a row before the lock was granted are left out here.
            await connection.execute(queries.LIST_ORPHANS, {"hashes": orphans})
            await connection.execute(queries.INCREMENT_EPOCH)
        await self._execute(_SWEEP)

    async def finish(self) -> None:
        """Execute what this or another process recorded and did not finish.

        Raises:
            Unavailable: If a store does not answer.
        """
        unfinished = await fetch(self._pool, queries.UNFINISHED, {})
        for request_id in (*(request_id for (request_id,) in unfinished), _SWEEP):
            try:
                await self._execute(request_id)
            except (_RemovalInProgress, _CopiesLeft) as error:
                self._log_wait(request_id, str(error))
            else:
                self._waiting.pop(request_id, None)

    async def find(self, request_id: str) -> Erasure:
        """Look up an erasure.

        Raises:
            NotFound: If there is no erasure of this request id.
            Unavailable: If a store does not answer.
        """
        wanted = {"request_id": request_id}
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.ERASURE, wanted)
            row = await cursor.fetchone()
            cursor = await connection.execute(queries.ERASED_SNAPSHOTS, wanted)
            snapshots = tuple(str(snapshot_id) for (snapshot_id,) in await cursor.fetchall())
        if row is None:
            raise NotFound(f"request_id: there is no erasure {request_id!r}")
        versions = await asyncio.to_thread(versions_trained_on, self._objects, snapshots)
        name, action, actor, images, pairs, labels, finished_at = row
        return Erasure(
            name, action, actor, images, pairs, labels, snapshots, tuple(versions), finished_at
        )

    async def clear_derived(self) -> None:
        """Take images without a row out of all objects that are derived from images.

        This covers every erasure, not only the current one: a training, or another erasure, may
        have written back what it read before. A lock admits one process at a time.

        Raises:
            Unavailable: If a store does not answer; some objects may be cleared.
        """
        async with transaction(self._pool) as connection:
            await connection.execute(queries.LOCK_DERIVED)
            derived = read_derived(self._objects)
            while found := await asyncio.to_thread(next, derived, None):
                named = {"hashes": list(found.images)}
                cursor = await connection.execute(queries.WITHOUT_ROW, named)
                erased = [sha256 for (sha256,) in await cursor.fetchall()]
                await asyncio.to_thread(remove_images, self._objects, found, erased)

    async def forget_tombstones(self) -> None:
        """Remove the tombstones that are older than `tombstone_days`.

        Raises:
            Unavailable: If the database does not answer.
        """
        async with transaction(self._pool) as connection:
            await connection.execute(queries.FORGET_TOMBSTONES, {"days": self._tombstone_days})

    async def close(self) -> None:
        """Cancel running erasures; they are recorded, and finished after the next start."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _digest(self, action: ErasureAction, what: str, request_id: str) -> bytes:
        """Make the digest by which a repeated request is known, without storing a name."""
        ((key,),) = await fetch(self._pool, queries.ERASURE_KEY, {})
        salt = key + request_id.encode()
        content = f"{action} {what}".encode()
        return await asyncio.to_thread(hashlib.scrypt, content, salt=salt, **_SCRYPT)

    async def _without_row(self, hashes: list[bytes]) -> list[bytes]:
        rows = await fetch(self._pool, queries.WITHOUT_ROW, {"hashes": hashes})
        return [sha256 for (sha256,) in rows]

    async def _erase(
        self,
        action: ErasureAction,
        requested_by: str,
        request_id: str,
        list_query: str,
        what: dict[str, Any],
        *,
        missing: str = "",
    ) -> Erasure:
        """Record an erasure of the images that a query adds to `removals`, and execute it.

        Args:
            action: What is done.
            requested_by: Who requests it.
            request_id: Of the erasure.
            list_query: Adds images to `removals`.
            what: Its parameters, and `asked_for`.
            missing: The error of a new erasure that the query adds no image for; empty for none.
        """
        values = {"request_id": request_id, "action": action, "actor": requested_by, **what}
        async with transaction(self._pool) as connection:
            await connection.execute(queries.LOCK_REMOVALS)
            recorded = await connection.execute(queries.RECORD_ERASURE, values)
            if not recorded.rowcount:
                await _check_same_request(connection, values)
            listed = await connection.execute(list_query, values)
            if missing and recorded.rowcount and not listed.rowcount:
                raise NotFound(missing)
            await connection.execute(queries.REOPEN_ERASURE, values)
            await connection.execute(queries.INCREMENT_EPOCH)
        await self._execute(request_id)
        return await self.find(request_id)

    async def _execute(self, request_id: str) -> None:
        # A caller that hangs up must not cancel it between two steps: the rest would have to
        # wait until the lease ends.
        task = asyncio.create_task(self._execute_locked(request_id))
        self._running.add(task)
        task.add_done_callback(self._done)
        await asyncio.shield(task)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        # Marks the exception as retrieved, in case the caller has hung up.
        if not task.cancelled():
            task.exception()

    async def _execute_locked(self, request_id: str) -> None:
        async with self._lock:
            while hashes := await self._next_removals(request_id):
                while not await self._delete_rows(request_id, hashes):
                    continue
                await self._remove_objects(request_id, hashes)
            await self._conclude(request_id)

    async def _next_removals(self, request_id: str) -> list[bytes]:
        wanted = {"request_id": request_id, "lease_s": self._lease_s, "limit": _IMAGES_PER_STEP}
        return [sha256 for (sha256,) in await fetch(self._pool, queries.NEXT_REMOVALS, wanted)]

    async def _delete_rows(self, request_id: str, hashes: list[bytes]) -> bool:
        if request_id == _SWEEP:
            return True
        async with transaction(self._pool) as connection:
            await connection.execute(queries.LOCK_REMOVALS)
            tombstones = self._tombstone_days > 0
            return await delete_rows(connection, request_id, hashes, tombstones=tombstones)

    async def _remove_objects(self, request_id: str, hashes: list[bytes]) -> None:
        lease = {"request_id": request_id, "token": uuid4(), "lease_s": self._lease_s}
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.TAKE_REMOVALS, {**lease, "hashes": hashes})
            taken = [sha256 for (sha256,) in await cursor.fetchall()]
        await asyncio.gather(*(self._vault.remove(sha256.hex()) for sha256 in taken))
        async with transaction(self._pool) as connection:
            await connection.execute(queries.FORGET_REMOVALS, {**lease, "hashes": taken})

    async def _conclude(self, request_id: str) -> None:
        """Mark an erasure as finished and write it to the audit log.

        Raises:
            _RemovalInProgress: If some of its removals are left.
            _CopiesLeft: If jobs have copies of the images.
        """
        wanted = {"request_id": request_id}
        if await fetch(self._pool, queries.REMOVALS_LEFT, wanted) == [(True,)]:
            raise _RemovalInProgress(
                f"erasure {request_id!r} is recorded and being executed; ask again later"
            )
        if request_id == _SWEEP:
            return
        erasure = await self.find(request_id)
        if erasure.finished_at is not None:
            return
        await self._clear_and_wait_for_copies(erasure)
        # After the rows are gone, so that no embedder fills its cache from them again.
        await asyncio.to_thread(write_erasure_mark, self._objects)
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.FINISH_ERASURE, wanted)
            if await cursor.fetchone() is not None:
                await connection.execute(queries.AUDIT, audit_row(erasure))

    async def _clear_and_wait_for_copies(self, erasure: Erasure) -> None:
        """Clear derived objects, at once and after the last holder of copies has ended.

        A holder writes its results before it withdraws its copies, so nothing can be derived from
        the images after the second time. Holders that are announced after the rows were deleted
        cannot have the images.

        Raises:
            _CopiesLeft: If a holder has not ended.
        """
        ((holders,),) = await fetch(
            self._pool, queries.COPY_HOLDERS, {"request_id": erasure.request_id}
        )
        is_first = holders is None
        if is_first:
            holders = await asyncio.to_thread(list_holders, self._objects)
        snapshots = frozenset(erasure.snapshot_ids)
        left = [
            holder
            for holder in holders
            if await asyncio.to_thread(may_hold, self._objects, holder, snapshots)
        ]
        if is_first or not left:
            await self.clear_derived()
        if is_first or left != holders:
            await self._set_holders(erasure.request_id, left)
        if left:
            raise _CopiesLeft(
                f"erasure {erasure.request_id!r} is recorded, and all that is stored is erased;"
                f" copies are left in the working folders of trainers until these jobs end:"
                f" {', '.join(left)}. Ask again later with the same request id"
            )

    async def _set_holders(self, request_id: str, holders: list[str]) -> None:
        async with transaction(self._pool) as connection:
            await connection.execute(
                queries.SET_COPY_HOLDERS, {"request_id": request_id, "holders": holders}
            )

    def _log_wait(self, request_id: str, message: str) -> None:
        if self._waiting.get(request_id) != message:
            logger.info("%s", message)
        self._waiting[request_id] = message


async def _check_same_request(connection: BoundedConnection, values: Mapping[str, Any]) -> None:
    """Check that a request id that is recorded was recorded for the same.

    Raises:
        AlreadyExists: If it was not. An erasure recorded by an earlier version of the service does
            not say whom it was for, and is taken for the same if its action is.
    """
    cursor = await connection.execute(queries.ASKED_FOR, values)
    ((action, asked_for),) = await cursor.fetchall()
    if action != values["action"] or asked_for not in (None, values["asked_for"]):
        raise AlreadyExists(
            f"request_id: {values['request_id']!r} was used for another erasure; give each"
            " erasure an id of its own"
        )
