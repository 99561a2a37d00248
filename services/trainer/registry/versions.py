"""Model versions and the serving history in Postgres: list, promote, roll back.

The serving history only grows: each promotion or rollback adds the next generation. Of two that
are made at the same time, one gets the generation and the other a `Conflict`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation
from psycopg.rows import DictRow, class_row, dict_row

from services.trainer.evaluation.gate import (
    GateCheck,
    GateOutcome,
    GateVerdict,
    verdict_from_json,
    verdict_to_json,
)
from services.trainer.registry import queries
from services.trainer.registry.idempotency import CALL_RESULTS
from shared.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from shared.model.manifest import Manifest
from shared.storage.idempotency import IdempotencyKey
from shared.storage.postgres import Pool, transaction


@dataclass(frozen=True)
class ModelVersion:
    """A model version whose files are complete in the object store.

    Attributes:
        seq: Number of the version, rising.
        gate: Verdict of the gate; None for an import of a release that did not measure imports.
        job_id: The job that made it.
    """

    seq: int
    manifest: Manifest
    gate: GateVerdict | None
    job_id: UUID

    @property
    def name(self) -> str:
        """The version's name."""
        return self.manifest.model_version


@dataclass(frozen=True)
class ServingDecision:
    """An entry of the serving history; the latest one is in force.

    Attributes:
        generation: Number of the entry, from 1.
        model_version: The version that serves from this entry on.
        requested_by: Who asked.
        reason: Their reason.
        gate_overridden: Whether the version was promoted although its gate had not passed it.
        restores: The earlier generation whose version it restores: for a rollback, and for a
            change of the operating point.
        target_fmr: The false-match rate that the version keeps; None for its own threshold.
        prior: Prior probability of a genuine pair.
    """

    generation: int
    model_version: str
    requested_by: str
    reason: str
    gate_overridden: bool
    restores: int | None
    at: datetime
    target_fmr: float | None = None
    prior: float = 0.5


class VersionRegistry:
    """Lists versions, and decides which one serves.

    Every method raises `Unavailable` if a store that it needs cannot be reached.

    Args:
        pool: Connections to a database with the schema `trainer`.
        require_files: Raises `PreconditionFailed` unless the object store has all files of a
            version; blocks.
    """

    def __init__(self, pool: Pool, require_files: Callable[[Manifest], None]) -> None:
        self._pool = pool
        self._require_files = require_files

    async def get(self, model_version: str) -> ModelVersion:
        """Return a version.

        Raises:
            NotFound: If there is no such version.
        """
        async with transaction(self._pool) as connection:
            return await read_version(connection, model_version)

    async def list(self, size: int, before: int | None = None) -> Sequence[ModelVersion]:
        """List up to `size` versions, newest first; with `before`, only those of smaller `seq`."""
        async with transaction(self._pool) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(queries.LIST_VERSIONS, {"before": before, "size": size})
            return [_version_from_row(row) async for row in cursor]

    async def serving(self) -> ServingDecision | None:
        """Return the decision in force; None before the first promotion."""
        async with transaction(self._pool) as connection:
            return await read_serving(connection)

    async def history(self, size: int, before: int | None = None) -> Sequence[ServingDecision]:
        """List up to `size` decisions, newest first; with `before`, only earlier generations."""
        async with transaction(self._pool) as connection:
            cursor = connection.cursor(row_factory=class_row(ServingDecision))
            await cursor.execute(queries.LIST_DECISIONS, {"before": before, "size": size})
            return await cursor.fetchall()

    async def promote(
        self,
        model_version: str,
        *,
        requested_by: str,
        reason: str,
        override_gate: bool = False,
        expected_generation: int | None = None,
        key: str | None = None,
    ) -> ServingDecision:
        """Make a version the serving one; changes nothing if it already is.

        Args:
            model_version: The version.
            requested_by: Who asks.
            reason: Their reason.
            override_gate: Promote it although its gate did not pass it.
            expected_generation: The generation that must be in force; None for any.
            key: Idempotency key. If it was used before, the decision made then is returned.

        Raises:
            InvalidInput: If the gate is overridden without a reason.
            NotFound: If there is no such version.
            PreconditionFailed: If its gate did not pass it, it has no verdict, or none at the
                operating point in force, and `override_gate` is false, or one of its files is not
                in the object store.
            Conflict: If the generation is not `expected_generation`, or another promotion or
                rollback is made at the same time.
            AlreadyExists: If the key was used for another request.
        """
        if override_gate and not reason:
            raise InvalidInput("reason", "is empty; overriding the gate needs one")
        idempotency_key = IdempotencyKey.of(
            requested_by,
            key,
            "promote",
            model_version=model_version,
            reason=reason,
            override_gate=override_gate,
            expected_generation=expected_generation,
        )
        async with transaction(self._pool) as connection:
            if saved := await CALL_RESULTS.claim(connection, idempotency_key):
                return await _saved_decision(connection, saved)
            version = await read_version(connection, model_version)
            serving = await read_serving(connection)
            overridden = (
                version.gate is None
                or not version.gate.passed
                or not judged_at_point(version.manifest, version.gate, serving)
            )
            if overridden and not override_gate:
                reason_not = _why_not(version, serving.target_fmr if serving else None)
                raise PreconditionFailed(
                    f"{reason_not}; to promote it anyway, override the gate and give a reason"
                )
            check_generation(serving, expected_generation)
            await asyncio.to_thread(self._require_files, version.manifest)
            if serving is None or serving.model_version != model_version:
                serving = await append_decision(
                    connection,
                    serving,
                    model_version,
                    requested_by=requested_by,
                    reason=reason,
                    gate_overridden=overridden,
                )
            result = {"generation": serving.generation}
            await CALL_RESULTS.save(connection, idempotency_key, result)
            return serving

    async def rollback(
        self,
        *,
        requested_by: str,
        reason: str,
        expected_generation: int | None = None,
        key: str | None = None,
    ) -> ServingDecision:
        """Restore the version that served before the present one.

        A second rollback goes further back; it does not undo the first.

        Args:
            requested_by: Who asks.
            reason: Their reason.
            expected_generation: The generation that must be in force; None for any.
            key: Idempotency key. If it was used before, the decision made then is returned.

        Raises:
            PreconditionFailed: If no version served before, or one of its files is not in the
                object store.
            Conflict: If the generation is not `expected_generation`, or a promotion or rollback
                is made at the same time.
            AlreadyExists: If the key was used for another request.
        """
        idempotency_key = IdempotencyKey.of(
            requested_by,
            key,
            "rollback",
            reason=reason,
            expected_generation=expected_generation,
        )
        async with transaction(self._pool) as connection:
            if saved := await CALL_RESULTS.claim(connection, idempotency_key):
                return await _saved_decision(connection, saved)
            serving = await read_serving(connection)
            check_generation(serving, expected_generation)
            previous = await _previous_decision(connection, serving)
            if previous is None:
                raise PreconditionFailed("no version served before the present one")
            version = await read_version(connection, previous.model_version)
            await asyncio.to_thread(self._require_files, version.manifest)
            decision = await append_decision(
                connection,
                serving,
                previous.model_version,
                requested_by=requested_by,
                reason=reason,
                gate_overridden=previous.gate_overridden,
                restores=previous.restores or previous.generation,
            )
            result = {"generation": decision.generation}
            await CALL_RESULTS.save(connection, idempotency_key, result)
            return decision


async def add_version(
    connection: AsyncConnection, manifest: Manifest, gate: GateVerdict | None, job_id: UUID
) -> None:
    """Add a version, whose files are stored, in the caller's transaction."""
    values = {
        "model_version": manifest.model_version,
        "manifest": manifest.model_dump_json(),
        "gate": verdict_to_json(gate),
        "job_id": job_id,
    }
    await connection.execute(queries.INSERT_VERSION, values)
    if gate is not None:
        await connection.execute(queries.INSERT_VERDICT, values)


async def replace_verdict(
    connection: AsyncConnection, model_version: str, gate: GateVerdict, job_id: UUID
) -> None:
    """Replace a version's verdict, in the caller's transaction; the history keeps the earlier."""
    values = {"model_version": model_version, "gate": verdict_to_json(gate), "job_id": job_id}
    await connection.execute(queries.SET_GATE, values)
    await connection.execute(queries.INSERT_VERDICT, values)


async def read_version(connection: AsyncConnection, model_version: str) -> ModelVersion:
    """Return a version, in the caller's transaction.

    Raises:
        NotFound: If there is no such version.
    """
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(queries.GET_VERSION, {"model_version": model_version})
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(f"there is no model version {model_version}")
    return _version_from_row(row)


async def lock_serving_history(connection: AsyncConnection) -> None:
    """Let promotions and rollbacks of others wait until the caller's transaction ends."""
    await connection.execute(queries.LOCK_SERVING_HISTORY)


async def read_serving(connection: AsyncConnection) -> ServingDecision | None:
    """Return the decision in force, in the caller's transaction; None before the first one."""
    cursor = connection.cursor(row_factory=class_row(ServingDecision))
    await cursor.execute(queries.LATEST_DECISION)
    return await cursor.fetchone()


async def append_decision(
    connection: AsyncConnection,
    serving: ServingDecision | None,
    model_version: str,
    *,
    requested_by: str,
    reason: str,
    gate_overridden: bool = False,
    restores: int | None = None,
) -> ServingDecision:
    """Add the generation after `serving`, in the caller's transaction.

    Raises:
        Conflict: If another transaction has added that generation.
    """
    values: Mapping[str, Any] = {
        "generation": serving.generation + 1 if serving else 1,
        "model_version": model_version,
        "requested_by": requested_by,
        "reason": reason,
        "gate_overridden": gate_overridden,
        "restores": restores,
    }
    cursor = connection.cursor(row_factory=class_row(ServingDecision))
    try:
        await cursor.execute(queries.INSERT_DECISION, values)
        return (await cursor.fetchall())[0]
    except UniqueViolation as error:
        raise Conflict(
            f"generation {values['generation']} was taken by another promotion at the same time"
        ) from error


def describe_refusal(gate: GateVerdict) -> str:
    """Say why a candidate did not pass: the bad figures with their limits, or what is missing."""
    if gate.outcome is GateOutcome.NOT_ENOUGH_EVIDENCE:
        return gate.missing
    failed = [check for check in gate.checks if not (check.passed or check.undecided)]
    if not failed:
        return "nothing was checked"
    return "; ".join(
        f"{check.name} {check.value:g}{_interval(check)} against {check.limit:g}"
        for check in failed
    )


def _interval(check: GateCheck) -> str:
    if check.low is None or check.high is None:
        return ""
    return f" ({check.low:g} to {check.high:g})"


def _why_not(version: ModelVersion, target_fmr: float | None) -> str:
    """Say why a version is not promoted without an override."""
    if version.gate is None:
        return (
            f"{version.name} was never measured: it was imported by an earlier release; import its"
            " checkpoint again, which measures it (`magface models import`)"
        )
    if version.gate.outcome is GateOutcome.NOT_ENOUGH_EVIDENCE:
        return (
            f"there is not enough evidence for {version.name} ({version.gate.missing}); judge it"
            f" again when there are more labels (`magface models judge {version.name}`)"
        )
    if not version.gate.passed:
        return f"the gate refused {version.name} ({describe_refusal(version.gate)})"
    return (
        f"{version.name} was judged at {_in_words(version.gate.target_fmr)}, and versions serve at"
        f" {_in_words(target_fmr)}; judge it again (`magface models judge {version.name}`), or"
        " quantize it again if it is an eight-bit version"
    )


def _in_words(target_fmr: float | None) -> str:
    return "equal error weights" if target_fmr is None else f"a false-match rate of {target_fmr:g}"


def judged_at_point(manifest: Manifest, gate: GateVerdict, serving: ServingDecision | None) -> bool:
    """Tell whether a verdict holds for the operating point in force.

    The verdict on an import, which has no parent to compare with, holds for all.
    """
    if serving is None or manifest.parent_version is None:
        return True
    return gate.target_fmr == serving.target_fmr


def check_generation(serving: ServingDecision | None, expected: int | None) -> None:
    """Check the generation in force; None expects any.

    Raises:
        Conflict: If another one is in force.
    """
    generation = serving.generation if serving else 0
    if expected not in (None, generation):
        raise Conflict(
            f"generation {generation} serves, not {expected}: another promotion came first"
        )


async def _previous_decision(
    connection: AsyncConnection, serving: ServingDecision | None
) -> ServingDecision | None:
    if serving is None:
        return None
    return await read_decision(connection, (serving.restores or serving.generation) - 1)


async def _saved_decision(connection: AsyncConnection, saved: Mapping[str, Any]) -> ServingDecision:
    decision = await read_decision(connection, saved["generation"])
    assert decision is not None  # noqa: S101 - the history only grows
    return decision


async def read_decision(connection: AsyncConnection, generation: int) -> ServingDecision | None:
    """Return the decision of a generation, in the caller's transaction; None if there is none."""
    cursor = connection.cursor(row_factory=class_row(ServingDecision))
    await cursor.execute(queries.DECISION, {"generation": generation})
    return await cursor.fetchone()


def _version_from_row(row: DictRow) -> ModelVersion:
    return ModelVersion(
        seq=row["seq"],
        manifest=Manifest.model_validate(row["manifest"]),
        gate=verdict_from_json(row["gate"]),
        job_id=row["job_id"],
    )
