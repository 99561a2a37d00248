"""Automatic promotion of the version that a job made."""

from dataclasses import dataclass

from psycopg import AsyncConnection

from services.trainer.evaluation.gate import GateVerdict
from services.trainer.registry.versions import (
    ServingDecision,
    append_decision,
    describe_refusal,
    read_serving,
)
from shared.model.manifest import Manifest


@dataclass(frozen=True)
class PromotionPlan:
    """Whether a new version is promoted, and why.

    Attributes:
        model_version: The new version.
        serving: The decision that is in force; None before the first one.
        message: Outcome of the job, for people.
        reason: Reason of the promotion; None if the version is not promoted.
    """

    model_version: str
    serving: ServingDecision | None
    message: str
    reason: str | None = None

    @property
    def due(self) -> bool:
        """Whether the version is promoted."""
        return self.reason is not None


async def plan_import(
    connection: AsyncConnection, manifest: Manifest, gate: GateVerdict, *, promote_if_first: bool
) -> PromotionPlan:
    """Decide whether an imported version is promoted: only if no version serves yet.

    The caller's transaction must hold the lock of `lock_serving_history`.

    Args:
        connection: The caller's transaction.
        manifest: Of the version.
        gate: Its verdict.
        promote_if_first: Whether it may be promoted without anyone asking.
    """
    model_version = manifest.model_version
    serving = await read_serving(connection)
    message = f"imported as {model_version}"
    if not gate.passed:
        details = "; ".join(check.detail for check in gate.checks if not check.passed)
        message = f"{message}, which the gate refused: {gate.missing or details}"
        return PromotionPlan(model_version, serving, message)
    if not promote_if_first or serving is not None:
        return PromotionPlan(model_version, serving, message)
    return PromotionPlan(
        model_version, serving, f"{message}, which serves now", "first version, bundled"
    )


async def plan_candidate(
    connection: AsyncConnection, manifest: Manifest, gate: GateVerdict, *, automatic: bool
) -> PromotionPlan:
    """Decide whether a candidate is promoted: if its gate passed it and its parent still serves.

    The caller's transaction must hold the lock of `lock_serving_history`.

    Args:
        connection: The caller's transaction.
        manifest: Of the candidate.
        gate: Its verdict.
        automatic: Whether the candidate may be promoted without anyone asking.
    """
    version = manifest.model_version
    serving = await read_serving(connection)
    if not gate.passed:
        message = f"the gate refused {version}: {describe_refusal(gate)}"
        return PromotionPlan(version, serving, message)
    if not automatic:
        message = f"the gate passed {version}; it does not serve until it is promoted"
        return PromotionPlan(version, serving, message)
    if serving is None or serving.model_version != manifest.parent_version:
        other = serving.model_version if serving else "no version"
        message = (
            f"the gate passed {version} against its parent {manifest.parent_version}, but {other}"
            f" serves now; {version} is not promoted automatically"
        )
        return PromotionPlan(version, serving, message)
    return PromotionPlan(
        version, serving, f"the gate passed {version}, which serves now", "gate passed"
    )


async def promote_new(
    connection: AsyncConnection, plan: PromotionPlan, *, requested_by: str
) -> ServingDecision:
    """Promote a version as planned, in the transaction of the plan.

    Raises:
        Conflict: If another promotion was made at the same time.
    """
    return await append_decision(
        connection,
        plan.serving,
        plan.model_version,
        requested_by=requested_by,
        reason=plan.reason or "",
    )
