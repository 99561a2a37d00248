"""Conversion of jobs, versions and evaluations into response messages."""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from magface.v1 import trainer_pb2 as pb

from services.trainer.data.label_report import AnnotatorReliability, LabelReport, Suspect, Suspicion
from services.trainer.data.left_out import LeftOutImage, LeftOutReason
from services.trainer.evaluation.gate import GateCheck, GateOutcome, GateVerdict
from services.trainer.evaluation.result import AgainstVersion
from services.trainer.jobs.queue import Job, JobEvent, JobState
from services.trainer.progress import Stage
from services.trainer.registry.evaluations import StoredEvaluation
from services.trainer.registry.operating_points import KeptPoint, OperatingTarget
from services.trainer.registry.replicas import Rollout
from services.trainer.registry.shadow import ShadowSummary, replica_shadow
from services.trainer.registry.versions import ModelVersion, ServingDecision
from services.trainer.worker.specs import JobKind
from shared.evaluation.results import Difference, Evaluation, Interval
from shared.model.operating_curve import Evidence, OperatingCurve, Rate
from shared.registry.heartbeats import Replica
from shared.rpc.converters import pack_timestamp
from shared.rpc.paging import Page

CHUNK_BYTES: Final = 2**20

_KINDS: Final = {
    JobKind.TRAIN: pb.JOB_KIND_TRAIN,
    JobKind.IMPORT: pb.JOB_KIND_IMPORT,
    JobKind.EVALUATE: pb.JOB_KIND_EVALUATE,
    JobKind.QUANTIZE: pb.JOB_KIND_QUANTIZE,
    JobKind.JUDGE: pb.JOB_KIND_JUDGE,
}
_STATES: Final = {
    JobState.QUEUED: pb.JOB_STATE_QUEUED,
    JobState.RUNNING: pb.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
    JobState.FAILED: pb.JOB_STATE_FAILED,
    JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
}
_OUTCOMES: Final = {
    GateOutcome.PASSED: pb.GATE_OUTCOME_PASSED,
    GateOutcome.FAILED: pb.GATE_OUTCOME_FAILED,
    GateOutcome.NOT_ENOUGH_EVIDENCE: pb.GATE_OUTCOME_NOT_ENOUGH_EVIDENCE,
}
_STAGES: Final = {
    Stage.QUEUED: pb.JOB_STAGE_QUEUED,
    Stage.STARTING: pb.JOB_STAGE_STARTING,
    Stage.LOADING_MODEL: pb.JOB_STAGE_LOADING_MODEL,
    Stage.PULLING_FEEDBACK: pb.JOB_STAGE_PULLING_FEEDBACK,
    Stage.PULLING_IMAGES: pb.JOB_STAGE_PULLING_IMAGES,
    Stage.DECODING_IMAGES: pb.JOB_STAGE_DECODING_IMAGES,
    Stage.EMBEDDING: pb.JOB_STAGE_EMBEDDING,
    Stage.CHECKING_LABELS: pb.JOB_STAGE_CHECKING_LABELS,
    Stage.TRAINING: pb.JOB_STAGE_TRAINING,
    Stage.QUANTIZING: pb.JOB_STAGE_QUANTIZING,
    Stage.CALIBRATING: pb.JOB_STAGE_CALIBRATING,
    Stage.EVALUATING: pb.JOB_STAGE_EVALUATING,
    Stage.EXPORTING: pb.JOB_STAGE_EXPORTING,
    Stage.REPORTING: pb.JOB_STAGE_REPORTING,
    Stage.PUBLISHING: pb.JOB_STAGE_PUBLISHING,
    Stage.PROMOTING: pb.JOB_STAGE_PROMOTING,
}
_FIGURES: Final = (
    "accuracy",
    "precision",
    "recall",
    "best_accuracy",
    "best_threshold",
    "auc",
    "eer",
    "mean_magnitude",
)
_SUSPECT_REASONS: Final = {
    Suspicion.UNLIKELY: pb.SUSPECT_REASON_UNLIKELY,
    Suspicion.CONTRADICTION: pb.SUSPECT_REASON_CONTRADICTION,
}
_LEFT_OUT_REASONS: Final = {
    LeftOutReason.NO_FACE: pb.LEFT_OUT_REASON_NO_FACE,
    LeftOutReason.UNREADABLE: pb.LEFT_OUT_REASON_UNREADABLE,
    LeftOutReason.ERASED: pb.LEFT_OUT_REASON_ERASED,
    LeftOutReason.NEAR_DUPLICATE: pb.LEFT_OUT_REASON_NEAR_DUPLICATE,
}


def pack_job(job: Job) -> pb.Job:
    """Pack a job."""
    return pb.Job(
        job_id=str(job.job_id),
        kind=_KINDS[job.kind],
        state=_STATES[job.state],
        requested_by=job.requested_by,
        created_at=pack_timestamp(job.created_at),
        started_at=pack_timestamp(job.started_at) if job.started_at else None,
        ended_at=pack_timestamp(job.ended_at) if job.ended_at else None,
        progress=job.progress,
        message=job.message,
        model_version=job.model_version or "",
        gate=_pack_gate(job.gate) if job.gate else None,
        stage=_STAGES[job.stages[-1].stage] if job.stages else pb.JOB_STAGE_UNSPECIFIED,
        stages=[
            pb.JobStageStart(
                stage=_STAGES[start.stage], started_at=pack_timestamp(start.started_at)
            )
            for start in job.stages
        ],
    )


def pack_event(event: JobEvent) -> pb.WatchJobResponse:
    """Pack an event of a job."""
    return pb.WatchJobResponse(
        job=pack_job(event.job), at=pack_timestamp(event.at), figures=event.figures
    )


def pack_version(version: ModelVersion, serving: ServingDecision | None) -> pb.ModelVersion:
    """Pack a model version, and whether it serves."""
    manifest = version.manifest
    return pb.ModelVersion(
        model_version=manifest.model_version,
        architecture=manifest.architecture,
        embedding_size=manifest.embedding_size,
        channel_order=manifest.channel_order,
        threshold=manifest.threshold,
        parent_version=manifest.parent_version or "",
        job_id=str(version.job_id),
        created_at=pack_timestamp(manifest.created_at),
        serving=serving is not None and serving.model_version == manifest.model_version,
        gate=_pack_gate(version.gate) if version.gate else None,
        compatible_versions=manifest.compatible_versions,
        operating_curve=_pack_curve(manifest.operating_curve),
        reference=manifest.reference_note,
    )


def pack_decision(decision: ServingDecision) -> pb.Promotion:
    """Pack an entry of the serving history."""
    return pb.Promotion(
        serving_generation=decision.generation,
        model_version=decision.model_version,
        requested_by=decision.requested_by,
        reason=decision.reason,
        at=pack_timestamp(decision.at),
        gate_overridden=decision.gate_overridden,
        restores=decision.restores or 0,
        target_fmr=decision.target_fmr,
    )


def pack_operating_point(target: OperatingTarget) -> pb.OperatingPoint:
    """Pack an operating point of the history."""
    return pb.OperatingPoint(
        target_fmr=target.target_fmr,
        prior=target.prior,
        requested_by=target.requested_by,
        reason=target.reason,
        at=pack_timestamp(target.at),
        serving_generation=target.generation or 0,
    )


def pack_kept(kept: KeptPoint | None) -> pb.KeptOperatingPoint | None:
    """Pack what the serving version does at the operating point."""
    if kept is None:
        return None
    return pb.KeptOperatingPoint(
        model_version=kept.model_version,
        threshold=kept.threshold,
        kept_fmr=kept.kept_fmr,
        fnmr=_pack_rate(kept.fnmr) if kept.fnmr else None,
        missing_people=kept.missing_people,
    )


def _pack_curve(curve: OperatingCurve | None) -> pb.OperatingCurve | None:
    if curve is None:
        return None
    points = [
        pb.CurvePoint(
            target=point.target,
            threshold=point.threshold,
            fmr=_pack_rate(point.fmr),
            fnmr=_pack_rate(point.fnmr),
        )
        for point in curve.points
    ]
    impostor, genuine = _pack_evidence(curve.impostor), _pack_evidence(curve.genuine)
    return pb.OperatingCurve(points=points, impostor=impostor, genuine=genuine)


def _pack_rate(rate: Rate) -> pb.ErrorRate:
    return pb.ErrorRate(value=rate.value, low=rate.low, high=rate.high)


def _pack_evidence(evidence: Evidence) -> pb.PairEvidence:
    return pb.PairEvidence(pairs=evidence.pairs, people=evidence.people)


def pack_rollout(rollout: Rollout) -> pb.GetRolloutResponse:
    """Pack a rollout."""
    serving = rollout.serving
    return pb.GetRolloutResponse(
        model_version=serving.model_version if serving else "",
        serving_generation=serving.generation if serving else 0,
        complete=rollout.complete,
        replicas=map(_pack_replica, rollout.replicas),
        shadow=_pack_shadow(rollout.shadow),
    )


def _pack_replica(replica: Replica) -> pb.Replica:
    return pb.Replica(
        instance=replica.instance,
        model_version=replica.model_version,
        generation=replica.generation,
        swap_error=replica.swap_error,
        shadow=_pack_shadow(replica_shadow(replica)),
    )


def _pack_shadow(summary: ShadowSummary | None) -> pb.ShadowReport | None:
    if summary is None:
        return None
    return pb.ShadowReport(
        model_version=summary.model_version,
        pairs=summary.pairs,
        agreement=summary.agreement,
        similarity_shift=summary.similarity_shift,
        error=summary.error,
    )


def _pack_gate(gate: GateVerdict) -> pb.GateVerdict:
    return pb.GateVerdict(
        passed=gate.passed,
        checks=map(_pack_check, gate.checks),
        outcome=_OUTCOMES[gate.outcome],
        missing=gate.missing,
        target_fmr=gate.target_fmr,
    )


def _pack_check(check: GateCheck) -> pb.GateCheck:
    return pb.GateCheck(
        name=check.name,
        passed=check.passed,
        value=check.value,
        limit=check.limit,
        detail=check.detail,
        low=check.low,
        high=check.high,
        people=check.people,
        pairs=check.pairs,
        undecided=check.undecided,
    )


def pack_evaluation(stored: StoredEvaluation) -> pb.Evaluation:
    """Pack an evaluation."""
    result = stored.result
    return pb.Evaluation(
        job_id=str(stored.job_id),
        model_version=result.model_version,
        data_snapshot=result.data_snapshot,
        at=pack_timestamp(stored.at),
        pairs_trained_on=result.pairs_trained_on,
        figures=_pack_figures(result.evaluation),
        against=_pack_against(result.against) if result.against else None,
    )


def _pack_figures(evaluation: Evaluation) -> pb.Figures:
    values = {name: getattr(evaluation, name) for name in _FIGURES}
    values |= {f"tar_at_far.{far}": tar for far, tar in evaluation.tar_at_far.items()}
    return pb.Figures(
        images=evaluation.images,
        genuine_pairs=evaluation.genuine_pairs,
        impostor_pairs=evaluation.impostor_pairs,
        threshold=evaluation.threshold,
        tp=evaluation.tp,
        tn=evaluation.tn,
        fp=evaluation.fp,
        fn=evaluation.fn,
        values={name: value for name, value in values.items() if value is not None},
        intervals=_pack_intervals(evaluation.intervals),
    )


def _pack_against(against: AgainstVersion) -> pb.VersionComparison:
    comparison = against.comparison
    return pb.VersionComparison(
        model_version=against.model_version,
        figures=_pack_figures(against.evaluation),
        fixed=comparison.mcnemar.fixed,
        broken=comparison.mcnemar.broken,
        p_value=comparison.mcnemar.p_value,
        difference_intervals=_pack_intervals(comparison.differences),
    )


def _pack_intervals(intervals: Mapping[str, Interval | Difference]) -> dict[str, pb.Interval]:
    return {name: pb.Interval(low=each.low, high=each.high) for name, each in intervals.items()}


def pack_report(job_id: UUID, report: LabelReport, page: Page) -> pb.ListSuspectsResponse:
    """Pack a page of a label report; annotators are on the first page only.

    Args:
        job_id: The training.
        report: Its report.
        page: Part of the report. Suspects are numbered backwards, so the most suspect one has the
            highest number.
    """
    start, end, token = _part(len(report.suspects), page)
    return pb.ListSuspectsResponse(
        job_id=str(job_id),
        suspects=map(_pack_suspect, report.suspects[start:end]),
        annotators=map(_pack_annotator, report.annotators if start == 0 else ()),
        pairs=report.pairs,
        wrong_share=report.wrong_share,
        treated=report.treated,
        next_page_token=token,
    )


def pack_left_out(images: Sequence[LeftOutImage], page: Page) -> pb.ListLeftOutResponse:
    """Pack a page of the images that a job left out."""
    start, end, token = _part(len(images), page)
    return pb.ListLeftOutResponse(
        images=[
            pb.LeftOutImage(
                sha256=one.sha256, reason=_LEFT_OUT_REASONS[one.reason], detail=one.detail
            )
            for one in images[start:end]
        ],
        next_page_token=token,
    )


def _part(total: int, page: Page) -> tuple[int, int, str]:
    """Return start and end of a page of a list that is numbered backwards, and the next token."""
    left = total if page.before is None else min(page.before, total)
    start = total - left
    end = start + page.size
    return start, end, str(total - end) if end < total else ""


def _pack_annotator(annotator: AnnotatorReliability) -> pb.AnnotatorReliability:
    return pb.AnnotatorReliability(
        annotator=annotator.annotator,
        votes=annotator.votes,
        genuine_right=annotator.sensitivity,
        impostor_right=annotator.specificity,
    )


def _pack_suspect(suspect: Suspect) -> pb.Suspect:
    return pb.Suspect(
        sha256_a=suspect.sha256_a,
        sha256_b=suspect.sha256_b,
        same=suspect.same,
        wrong_probability=suspect.wrong_probability,
        reason=_SUSPECT_REASONS[suspect.reason],
        annotators=suspect.annotators,
    )
