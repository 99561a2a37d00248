"""Automatic promotion of the version that a job made."""

from dataclasses import dataclass

from psycopg import AsyncConnection

from services.trainer.evaluation.gate import GateOutcome, GateVerdict
from services.trainer.registry.versions import (
    ServingDecision,
    append_decision,
    describe_refusal,
    judged_at_point,
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
    serving = await read_serving(connection)
    if kept_back := _why_kept_back(manifest, gate, serving, automatic=automatic):
        return PromotionPlan(manifest.model_version, serving, kept_back)
    message = f"the gate passed {manifest.model_version}, which serves now"
    return PromotionPlan(manifest.model_version, serving, message, "gate passed")


def _why_kept_back(
    manifest: Manifest, gate: GateVerdict, serving: ServingDecision | None, *, automatic: bool
) -> str:
    """Say why a candidate is not promoted, led by its verdict; empty if it is."""
    version = manifest.model_version
    if gate.outcome is GateOutcome.NOT_ENOUGH_EVIDENCE:
        return (
            f"not enough evidence for {version}: {gate.missing}; it stays pending and can be judged"
            f" again when there are more labels (`magface models judge {version}`)"
        )
    if not gate.passed:
        return f"the gate refused {version}: {describe_refusal(gate)}"
    return _why_not_due(manifest, gate, serving, automatic=automatic)


def _why_not_due(
    manifest: Manifest, gate: GateVerdict, serving: ServingDecision | None, *, automatic: bool
) -> str:
    """Say why a candidate that passed is not promoted; empty if it is."""
    version = manifest.model_version
    passed = f"the gate passed {version}"
    if not judged_at_point(manifest, gate, serving):
        return (
            f"{passed}, but the operating point was changed meanwhile; judge it again"
            f" (`magface models judge {version}`)"
        )
    serves = serving.model_version if serving else "no version"
    if serves == version:
        return f"{passed}, which serves already"
    if not automatic:
        return f"{passed}; it does not serve until it is promoted"
    if serves != manifest.parent_version:
        return (
            f"{passed} against its parent {manifest.parent_version}, but {serves} serves now;"
            f" {version} is not promoted automatically"
        )
    return ""


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
