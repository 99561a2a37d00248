"""The operating point: the false-match rate that every serving version must keep.

Each change is kept with who made it and why. It also adds a generation to the serving history, so
the embedders take it up as they take up a promotion.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

from services.trainer.registry import queries
from services.trainer.registry.idempotency import CALL_RESULTS
from services.trainer.registry.versions import (
    ServingDecision,
    append_decision,
    check_generation,
    lock_serving_history,
    read_decision,
    read_serving,
    read_version,
)
from shared.errors import InvalidInput, PreconditionFailed
from shared.model.manifest import Manifest
from shared.model.operating_curve import FMRS, HIGHEST_TARGET, Rate
from shared.storage.idempotency import IdempotencyKey
from shared.storage.postgres import Pool, transaction

_LOWEST_TARGET: Final = FMRS[-1]
DEFAULT_PRIOR: Final = 0.5


@dataclass(frozen=True)
class OperatingTarget:
    """An operating point that an operator has set; the latest one is in force.

    Attributes:
        seq: Number of the change, rising.
        target_fmr: The false-match rate to keep; None serves each version at its own threshold,
            which weighs both errors equally.
        prior: Prior probability of a genuine pair.
        requested_by: Who asked.
        reason: Their reason.
        generation: The first serving generation with it; None if no version served.
    """

    seq: int
    target_fmr: float | None
    prior: float
    requested_by: str
    reason: str
    at: datetime
    generation: int | None


@dataclass(frozen=True)
class KeptPoint:
    """What a version does with a target.

    Attributes:
        kept_fmr: The false-match rate that its threshold keeps; None where it serves at its own.
        fnmr: False-non-match rate at the threshold; None in the same case.
        missing_people: How many more people would resolve the target; 0 if it is resolved.
    """

    model_version: str
    threshold: float
    kept_fmr: float | None
    fnmr: Rate | None
    missing_people: int

    @classmethod
    def of(cls, manifest: Manifest, target_fmr: float | None) -> "KeptPoint":
        curve, point = manifest.operating_curve, manifest.kept_point(target_fmr)
        if curve is None or point is None or target_fmr is None:
            return cls(manifest.model_version, manifest.threshold, None, None, 0)
        missing = curve.missing_people(target_fmr)
        return cls(manifest.model_version, point.threshold, point.target, point.fnmr, missing)


class OperatingPoints:
    """Sets and lists operating points.

    Every method raises `Unavailable` if Postgres cannot be reached.

    Args:
        pool: Connections to a database with the schema `trainer`.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def set(
        self,
        target_fmr: float | None,
        prior: float,
        *,
        requested_by: str,
        reason: str,
        expected_generation: int | None = None,
        key: str | None = None,
    ) -> tuple[OperatingTarget, ServingDecision | None]:
        """Set the operating point; changes nothing if it is in force already.

        Args:
            target_fmr: 1e-6..0.1, or None for no target.
            prior: Above 0 and below 1.
            requested_by: Who asks.
            reason: Their reason.
            expected_generation: The generation that must be in force; None for any.
            key: Idempotency key. If it was used before, the operating point set then is returned.

        Returns:
            The operating point, and the serving decision with it; None if no version serves.

        Raises:
            InvalidInput: If an argument is out of its range.
            PreconditionFailed: If the serving version has no measured curve.
            Conflict: If the generation is not `expected_generation`, or a promotion is made at the
                same time.
            AlreadyExists: If the key was used for another request.
        """
        _check_ranges(target_fmr, prior)
        idempotency_key = IdempotencyKey.of(
            requested_by,
            key,
            "set operating point",
            target_fmr=target_fmr,
            prior=prior,
            reason=reason,
            expected_generation=expected_generation,
        )
        async with transaction(self._pool) as connection:
            if saved := await CALL_RESULTS.claim(connection, idempotency_key):
                target = await _read(connection, queries.OPERATING_POINT, {"seq": saved["seq"]})
                assert target is not None  # noqa: S101 - the history only grows
                return target, await read_decision(connection, saved["generation"])
            await lock_serving_history(connection)
            serving = await read_serving(connection)
            check_generation(serving, expected_generation)
            target = await _read(connection, queries.LATEST_OPERATING_POINT, {})
            if target is None or (target.target_fmr, target.prior) != (target_fmr, prior):
                change = {
                    "target_fmr": target_fmr,
                    "prior": prior,
                    "requested_by": requested_by,
                    "reason": reason,
                }
                target, serving = await _append(connection, serving, change)
            generation = serving.generation if serving else 0
            result = {"seq": target.seq, "generation": generation}
            await CALL_RESULTS.save(connection, idempotency_key, result)
            return target, serving

    async def list(self, size: int, before: int | None = None) -> Sequence[OperatingTarget]:
        """List up to `size`, newest first; with `before`, only those of smaller `seq`."""
        async with transaction(self._pool) as connection:
            cursor = connection.cursor(row_factory=class_row(OperatingTarget))
            values = {"before": before, "size": size}
            await cursor.execute(queries.LIST_OPERATING_POINTS, values)
            return await cursor.fetchall()

    async def kept(self, serving: ServingDecision | None) -> KeptPoint | None:
        """Return what a decision's version does at its operating point; None for no decision."""
        if serving is None:
            return None
        async with transaction(self._pool) as connection:
            version = await read_version(connection, serving.model_version)
            return KeptPoint.of(version.manifest, serving.target_fmr)


async def _append(
    connection: AsyncConnection,
    serving: ServingDecision | None,
    change: Mapping[str, Any],
) -> tuple[OperatingTarget, ServingDecision | None]:
    if serving is not None and change["target_fmr"] is not None:
        version = await read_version(connection, serving.model_version)
        require_curve(version.manifest)
    target = await _read(
        connection,
        queries.INSERT_OPERATING_POINT,
        {**change, "generation": serving.generation + 1 if serving else None},
    )
    assert target is not None  # noqa: S101 - an insert returns its row
    if serving is None:
        return target, None
    decision = await append_decision(
        connection,
        serving,
        serving.model_version,
        requested_by=change["requested_by"],
        reason=change["reason"],
        gate_overridden=serving.gate_overridden,
        # A rollback then goes to the version before, not to the same one.
        restores=serving.restores or serving.generation,
    )
    return target, decision


def require_curve(manifest: Manifest) -> None:
    """Check that a version can keep a false-match rate.

    Raises:
        PreconditionFailed: If its error rates were not measured.
    """
    if manifest.operating_curve is None:
        raise PreconditionFailed(
            f"{manifest.model_version} was made by an earlier release, which did not measure its "
            "error rates by false-match rate; import its checkpoint again or train a new version"
        )


async def _read(
    connection: AsyncConnection, query: str, values: Mapping[str, Any]
) -> OperatingTarget | None:
    cursor = connection.cursor(row_factory=class_row(OperatingTarget))
    await cursor.execute(query, values)
    return await cursor.fetchone()


def _check_ranges(target_fmr: float | None, prior: float) -> None:
    if target_fmr is not None and not _LOWEST_TARGET <= target_fmr <= HIGHEST_TARGET:
        raise InvalidInput(
            "target_fmr", f"{target_fmr:g} is outside {_LOWEST_TARGET:g}..{HIGHEST_TARGET:g}"
        )
    if math.isnan(prior) or not 0 < prior < 1:
        raise InvalidInput("prior", f"{prior:g} is not above 0 and below 1")
