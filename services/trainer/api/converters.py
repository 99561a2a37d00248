"""Translates between the contract's messages and the domain's words."""

from collections.abc import AsyncIterator, Mapping
from typing import Final
from uuid import UUID

from magface.v1 import trainer_pb2 as pb

from services.trainer.data.label_report import LabelReport, Suspect, Suspicion
from services.trainer.evaluation.gate import GateVerdict
from services.trainer.evaluation.result import AgainstVersion
from services.trainer.jobs.queue import Job, JobEvent, JobState
from services.trainer.progress import Stage
from services.trainer.registry.evaluations import StoredEvaluation
from services.trainer.registry.replicas import Rollout
from services.trainer.registry.shadow import ShadowReport, report_of
from services.trainer.registry.versions import Serving, Version
from services.trainer.training.spec import TrainingRecipe
from services.trainer.worker.specs import JobKind, TrainOptions
from shared.errors import InvalidInput
from shared.evaluation.results import Difference, Evaluation, Interval
from shared.model.manifest import ChannelOrder
from shared.registry.heartbeats import Replica
from shared.rpc.converters import pack_timestamp
from shared.rpc.paging import Page
from shared.rpc.server.requests import check_texts

_KINDS: Final = {
    JobKind.TRAIN: pb.JOB_KIND_TRAIN,
    JobKind.IMPORT: pb.JOB_KIND_IMPORT,
    JobKind.EVALUATE: pb.JOB_KIND_EVALUATE,
    JobKind.QUANTIZE: pb.JOB_KIND_QUANTIZE,
}
_STATES: Final = {
    JobState.QUEUED: pb.JOB_STATE_QUEUED,
    JobState.RUNNING: pb.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
    JobState.FAILED: pb.JOB_STATE_FAILED,
    JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
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
_RECIPES: Final[dict[pb.Recipe.ValueType, TrainingRecipe]] = {
    pb.RECIPE_UNSPECIFIED: TrainingRecipe.COSINE,
    pb.RECIPE_COSINE: TrainingRecipe.COSINE,
    pb.RECIPE_HADSELL: TrainingRecipe.HADSELL,
}
_ORDERS: Final[dict[pb.ChannelOrder.ValueType, ChannelOrder]] = {
    pb.CHANNEL_ORDER_UNSPECIFIED: "bgr",
    pb.CHANNEL_ORDER_BGR: "bgr",
    pb.CHANNEL_ORDER_RGB: "rgb",
}


def read_job_id(job_id: str) -> UUID:
    """Unpack a job's id.

    Raises:
        InvalidInput: If it cannot be one.
    """
    try:
        return UUID(job_id)
    except ValueError as error:
        raise InvalidInput("job_id", f"{job_id!r} is no job's id, which is a UUID") from error


def read_options(options: pb.TrainingOptions) -> TrainOptions:
    """Unpack training options; their ranges are looked at later.

    Raises:
        InvalidInput: If the recipe is a number this contract does not have.
    """
    recipe = _RECIPES.get(options.recipe)
    if recipe is None:
        raise InvalidInput("options.recipe", f"is {options.recipe}, which is not a Recipe")
    given = {field.name: value for field, value in options.ListFields()} | {"recipe": recipe}
    given.pop("parent_version", None)
    return TrainOptions.model_validate(given)


def read_channel_order(number: pb.ChannelOrder.ValueType) -> ChannelOrder:
    """Unpack a channel order.

    Raises:
        InvalidInput: If it is a number this contract does not have.
    """
    order = _ORDERS.get(number)
    if order is None:
        raise InvalidInput("options.channel_order", f"is {number}, which is not a ChannelOrder")
    return order


def read_expected_generation(request: pb.PromoteModelRequest | pb.RollbackRequest) -> int | None:
    """Unpack the generation that must serve; None when any may."""
    return request.expected_generation if request.HasField("expected_generation") else None


async def read_upload(
    requests: AsyncIterator[pb.ImportModelRequest],
) -> tuple[pb.ImportOptions, AsyncIterator[bytes]]:
    """Split an upload into its options and the file.

    Raises:
        InvalidInput: If the options do not come first, or a text in them breaks its rule.
    """
    first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != "options":
        raise InvalidInput("options", "is missing; it must be the first message of the upload")
    check_texts(first)
    return first.options, _chunks(requests)


async def _chunks(requests: AsyncIterator[pb.ImportModelRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidInput("chunk", "is missing; all messages but the first carry one")
        yield request.chunk


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


def pack_version(version: Version, serving: Serving | None) -> pb.ModelVersion:
    """Pack a model version, given what serves."""
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
    )


def pack_rollout(rollout: Rollout) -> pb.GetRolloutResponse:
    """Pack which embedders serve what."""
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
        shadow=_pack_shadow(report_of(replica)),
    )


def _pack_shadow(report: ShadowReport | None) -> pb.ShadowReport | None:
    if report is None:
        return None
    return pb.ShadowReport(
        model_version=report.model_version,
        pairs=report.pairs,
        agreement=report.agreement,
        similarity_shift=report.similarity_shift,
        error=report.error,
    )


def _pack_gate(gate: GateVerdict) -> pb.GateVerdict:
    return pb.GateVerdict(
        passed=gate.passed,
        checks=[
            pb.GateCheck(
                name=check.name,
                passed=check.passed,
                value=check.value,
                limit=check.limit,
                detail=check.detail,
            )
            for check in gate.checks
        ],
    )


CHUNK_BYTES: Final = 2**20
_VALUES: Final = (
    "accuracy",
    "precision",
    "recall",
    "best_accuracy",
    "best_threshold",
    "auc",
    "eer",
    "mean_magnitude",
)


def pack_evaluation(stored: StoredEvaluation) -> pb.Evaluation:
    """Pack a result."""
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
    values = {name: getattr(evaluation, name) for name in _VALUES}
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


_REASONS: Final = {
    Suspicion.UNLIKELY: pb.SUSPECT_REASON_UNLIKELY,
    Suspicion.CONTRADICTION: pb.SUSPECT_REASON_CONTRADICTION,
}


def pack_report(job_id: UUID, report: LabelReport, page: Page) -> pb.ListSuspectsResponse:
    """Pack a page of a report.

    Args:
        job_id: The training's.
        report: What it found.
        page: Which part of it; the suspects are counted backwards, the surest being the last.
    """
    total = len(report.suspects)
    left = total if page.before is None else min(page.before, total)
    start = total - left
    end = start + page.size
    return pb.ListSuspectsResponse(
        job_id=str(job_id),
        suspects=map(_pack_suspect, report.suspects[start:end]),
        annotators=[]
        if start
        else [
            pb.AnnotatorReliability(
                annotator=one.annotator,
                votes=one.votes,
                genuine_right=one.sensitivity,
                impostor_right=one.specificity,
            )
            for one in report.annotators
        ],
        pairs=report.pairs,
        wrong_share=report.wrong_share,
        treated=report.treated,
        next_page_token=str(total - end) if end < total else "",
    )


def _pack_suspect(suspect: Suspect) -> pb.Suspect:
    return pb.Suspect(
        sha256_a=suspect.sha256_a,
        sha256_b=suspect.sha256_b,
        same=suspect.same,
        wrong_probability=suspect.wrong_probability,
        reason=_REASONS[suspect.reason],
        annotators=suspect.annotators,
    )
