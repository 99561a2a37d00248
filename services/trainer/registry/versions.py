"""Which model versions there are, and which one serves, in Postgres.

The history of serving only grows: a promotion and a rollback each add the next
generation. Of two made at the same time one gets it, and the other a `Conflict`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation
from psycopg.rows import DictRow, class_row, dict_row

from services.trainer.evaluation.gate import GateVerdict, verdict_from_json, verdict_to_json
from services.trainer.registry.kept_results import KEPT_RESULTS
from shared.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from shared.model.manifest import Manifest
from shared.storage.idempotency import IdempotencyKey
from shared.storage.postgres import Pool, transaction


@dataclass(frozen=True)
class Version:
    """A model version whose files are complete in the object store.

    Attributes:
        seq: Rises with every version.
        gate: None for an import, which nobody judged.
        job_id: The job that made it.
    """

    seq: int
    manifest: Manifest
    gate: GateVerdict | None
    job_id: UUID

    @property
    def name(self) -> str:
        return self.manifest.model_version


@dataclass(frozen=True)
class Serving:
    """One entry of the serving history; the latest says what serves now.

    Attributes:
        generation: 1 for the first, then one more with every promotion and rollback.
        who: Who asked.
        why: Their reason.
        gate_overridden: Promoted although the gate had refused it.
        restores: For a rollback, the earlier generation that it brought back.
    """

    generation: int
    model_version: str
    who: str
    why: str
    gate_overridden: bool
    restores: int | None
    at: datetime


class Versions:
    """Lists versions and decides which one serves.

    Every method raises `Unavailable` when Postgres cannot be reached.

    Args:
        pool: Connections to a database with the schema `trainer`.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def get(self, model_version: str) -> Version:
        """Give a version.

        Raises:
            NotFound: If there is none of that name.
        """
        async with transaction(self._pool) as connection:
            return await read_version(connection, model_version)

    async def list(self, size: int, before: int | None = None) -> Sequence[Version]:
        """List up to `size` versions, newest first, those with a `seq` under `before` only."""
        async with transaction(self._pool) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(
                "SELECT * FROM trainer.versions"
                " WHERE %(before)s::bigint IS NULL OR seq < %(before)s"
                " ORDER BY seq DESC LIMIT %(size)s",
                {"before": before, "size": size},
            )
            return [_version(row) async for row in cursor]

    async def serving(self) -> Serving | None:
        """Say what serves; None before the first promotion."""
        async with transaction(self._pool) as connection:
            return await read_serving(connection)

    async def history(self) -> Sequence[Serving]:
        """Give every promotion and rollback, the latest first."""
        async with transaction(self._pool) as connection:
            cursor = connection.cursor(row_factory=class_row(Serving))
            await cursor.execute("SELECT * FROM trainer.serving_history ORDER BY generation DESC")
            return await cursor.fetchall()

    async def promote(
        self,
        model_version: str,
        *,
        who: str,
        why: str,
        override_gate: bool = False,
        expected_generation: int | None = None,
        key: str | None = None,
    ) -> Serving:
        """Make a version the serving one; nothing changes if it is so already.

        Args:
            model_version: The version.
            who: Who asks.
            why: Their reason.
            override_gate: Promote it although its gate refused it.
            expected_generation: The generation that must serve; any when None.
            key: Idempotency key; when it was used before, the entry made then is given.

        Raises:
            InvalidInput: If the gate is overridden without a reason.
            NotFound: If there is no such version.
            PreconditionFailed: If its gate refused it and `override_gate` is false.
            Conflict: If the generation is not `expected_generation`, or another promotion
                or rollback is made at the same time.
            AlreadyExists: If the key was used for something else.
        """
        if override_gate and not why:
            raise InvalidInput("reason", "is empty; overriding the gate needs one")
        once = IdempotencyKey.of(
            who,
            key,
            "promote",
            model_version=model_version,
            why=why,
            override_gate=override_gate,
            expected_generation=expected_generation,
        )
        async with transaction(self._pool) as connection:
            if kept := await KEPT_RESULTS.claim(connection, once):
                return await _kept_entry(connection, kept)
            version = await read_version(connection, model_version)
            overridden = version.gate is not None and not version.gate.passed
            if overridden and not override_gate:
                raise PreconditionFailed(
                    f"the gate refused {model_version} ({describe_refusal(version.gate)}); to"
                    " promote it all the same, override the gate and say why"
                )
            now = await read_serving(connection)
            _check_generation(now, expected_generation)
            if now is None or now.model_version != model_version:
                now = await append_serving(
                    connection, now, model_version, who=who, why=why, gate_overridden=overridden
                )
            await KEPT_RESULTS.save(connection, once, {"generation": now.generation})
            return now

    async def rollback(
        self,
        *,
        who: str,
        why: str,
        expected_generation: int | None = None,
        key: str | None = None,
    ) -> Serving:
        """Make the version serve that served before the present one did.

        Rolling back again goes further back, not forth.

        Args:
            who: Who asks.
            why: Their reason.
            expected_generation: The generation that must serve; any when None.
            key: Idempotency key; when it was used before, the entry made then is given.

        Raises:
            PreconditionFailed: If nothing served before.
            Conflict: If the generation is not `expected_generation`, or a promotion or
                rollback is made at the same time.
            AlreadyExists: If the key was used for something else.
        """
        once = IdempotencyKey.of(
            who, key, "rollback", why=why, expected_generation=expected_generation
        )
        async with transaction(self._pool) as connection:
            if kept := await KEPT_RESULTS.claim(connection, once):
                return await _kept_entry(connection, kept)
            now = await read_serving(connection)
            _check_generation(now, expected_generation)
            before = await _generation(
                connection, (now.restores or now.generation) - 1 if now else 0
            )
            if now is None or before is None:
                raise PreconditionFailed("no version served before the present one")
            made = await append_serving(
                connection,
                now,
                before.model_version,
                who=who,
                why=why,
                gate_overridden=before.gate_overridden,
                restores=before.restores or before.generation,
            )
            await KEPT_RESULTS.save(connection, once, {"generation": made.generation})
            return made


async def add_version(
    connection: AsyncConnection, manifest: Manifest, gate: GateVerdict | None, job_id: UUID
) -> None:
    """Add a version, whose files are stored, within the caller's transaction."""
    await connection.execute(
        "INSERT INTO trainer.versions (model_version, manifest, gate, job_id)"
        " VALUES (%s, %s, %s, %s)",
        (manifest.model_version, manifest.model_dump_json(), verdict_to_json(gate), job_id),
    )


async def read_serving(connection: AsyncConnection) -> Serving | None:
    """Say what serves, within the caller's transaction."""
    cursor = connection.cursor(row_factory=class_row(Serving))
    await cursor.execute("SELECT * FROM trainer.serving_history ORDER BY generation DESC LIMIT 1")
    return await cursor.fetchone()


async def append_serving(
    connection: AsyncConnection,
    now: Serving | None,
    model_version: str,
    *,
    who: str,
    why: str,
    gate_overridden: bool = False,
    restores: int | None = None,
) -> Serving:
    """Add the generation after `now`, within the caller's transaction.

    Raises:
        Conflict: If another transaction has added it.
    """
    values: Mapping[str, Any] = {
        "generation": now.generation + 1 if now else 1,
        "model_version": model_version,
        "who": who,
        "why": why,
        "gate_overridden": gate_overridden,
        "restores": restores,
    }
    cursor = connection.cursor(row_factory=class_row(Serving))
    try:
        await cursor.execute(
            "INSERT INTO trainer.serving_history"
            " (generation, model_version, who, why, gate_overridden, restores)"
            " VALUES (%(generation)s, %(model_version)s, %(who)s, %(why)s, %(gate_overridden)s,"
            " %(restores)s) RETURNING *",
            values,
        )
        return (await cursor.fetchall())[0]
    except UniqueViolation as error:
        raise Conflict(
            f"generation {values['generation']} was taken by another promotion at the same time"
        ) from error


def _check_generation(now: Serving | None, expected: int | None) -> None:
    generation = now.generation if now else 0
    if expected not in (None, generation):
        raise Conflict(
            f"generation {generation} serves, not {expected}: another promotion came first"
        )


async def _kept_entry(connection: AsyncConnection, kept: Mapping[str, Any]) -> Serving:
    made = await _generation(connection, kept["generation"])
    assert made is not None  # noqa: S101 - the history only grows
    return made


async def _generation(connection: AsyncConnection, generation: int) -> Serving | None:
    cursor = connection.cursor(row_factory=class_row(Serving))
    await cursor.execute(
        "SELECT * FROM trainer.serving_history WHERE generation = %s", (generation,)
    )
    return await cursor.fetchone()


async def read_version(connection: AsyncConnection, model_version: str) -> Version:
    """Give a version, within the caller's transaction.

    Raises:
        NotFound: If there is none of that name.
    """
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(
        "SELECT * FROM trainer.versions WHERE model_version = %s", (model_version,)
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(f"there is no model version {model_version}")
    return _version(row)


def _version(row: DictRow) -> Version:
    return Version(
        seq=row["seq"],
        manifest=Manifest.model_validate(row["manifest"]),
        gate=verdict_from_json(row["gate"]),
        job_id=row["job_id"],
    )


def describe_refusal(gate: GateVerdict | None) -> str:
    """List the checks that a candidate failed, with their figures."""
    failed = [check for check in (gate.checks if gate else ()) if not check.passed]
    if not failed:
        return "nothing was checked"
    return "; ".join(f"{check.name} {check.value:g} against {check.limit:g}" for check in failed)
