"""TrainerService: unpacks requests, calls the trainer, packs the results."""

import asyncio
from collections.abc import AsyncIterator
from operator import attrgetter

from magface.v1 import trainer_pb2 as pb
from magface.v1 import trainer_pb2_grpc

from services.trainer.api.request_converters import (
    read_channel_order,
    read_expected_generation,
    read_job_id,
    read_options,
    read_upload,
)
from services.trainer.api.response_converters import (
    CHUNK_BYTES,
    pack_decision,
    pack_evaluation,
    pack_event,
    pack_job,
    pack_kept,
    pack_left_out,
    pack_operating_point,
    pack_report,
    pack_rollout,
    pack_version,
)
from services.trainer.api.service import Trainer
from services.trainer.registry.operating_points import DEFAULT_PRIOR
from shared.rpc.paging import read_page
from shared.rpc.server.deferred import Deferred
from shared.rpc.server.idempotency import read_idempotency_key
from shared.rpc.server.interceptors import Context


class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    """Implements TrainerService; calls fail with UNAVAILABLE until `trainer` is set.

    Args:
        stopping: Set when the server begins to stop; `WatchJob` ends then.
    """

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self.trainer: Deferred[Trainer] = Deferred("the trainer")

    async def StartTraining(
        self, request: pb.StartTrainingRequest, context: Context
    ) -> pb.StartTrainingResponse:
        job = await self.trainer().start_training(
            read_options(request.options),
            request.options.parent_version,
            requested_by=request.requested_by,
            no_promotion=request.no_promotion,
            key=read_idempotency_key(request.idempotency_key, context),
        )
        return pb.StartTrainingResponse(job=pack_job(job))

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        job = await self.trainer().jobs.get(read_job_id(request.job_id))
        return pb.GetJobResponse(job=pack_job(job))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        page = read_page(request.page_size, request.page_token)
        jobs, token = page.cut(await self.trainer().jobs.list(page.limit, page.before))
        return pb.ListJobsResponse(jobs=map(pack_job, jobs), next_page_token=token)

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchJobResponse]:
        job_id = read_job_id(request.job_id)
        async for event in self.trainer().jobs.watch(job_id, self._stopping):
            yield pack_event(event)

    async def CancelJob(
        self, request: pb.CancelJobRequest, context: Context
    ) -> pb.CancelJobResponse:
        job = await self.trainer().jobs.cancel(
            read_job_id(request.job_id),
            request.requested_by,
            read_idempotency_key(request.idempotency_key, context),
        )
        return pb.CancelJobResponse(job=pack_job(job))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        page = read_page(request.page_size, request.page_token)
        versions, token = page.cut(await self.trainer().versions.list(page.limit, page.before))
        serving = await self.trainer().versions.serving()
        return pb.ListModelsResponse(
            models=[pack_version(version, serving) for version in versions],
            next_page_token=token,
            serving_generation=serving.generation if serving else 0,
        )

    async def ImportModel(
        self, request_iterator: AsyncIterator[pb.ImportModelRequest], context: Context
    ) -> pb.ImportModelResponse:
        options, chunks = await read_upload(request_iterator)
        job = await self.trainer().import_model(
            chunks,
            channel_order=read_channel_order(options.channel_order),
            threshold=options.threshold if options.HasField("threshold") else None,
            requested_by=options.requested_by,
            key=read_idempotency_key(options.idempotency_key, context),
            file_name=options.file_name or None,
            batch_norm_eps=options.batch_norm_eps if options.HasField("batch_norm_eps") else None,
        )
        return pb.ImportModelResponse(job=pack_job(job))

    async def PromoteModel(
        self, request: pb.PromoteModelRequest, context: Context
    ) -> pb.PromoteModelResponse:
        serving = await self.trainer().promote(
            request.model_version,
            requested_by=request.requested_by,
            reason=request.reason,
            override_gate=request.override_gate,
            expected_generation=read_expected_generation(request),
            key=read_idempotency_key(request.idempotency_key, context),
        )
        return pb.PromoteModelResponse(
            model_version=serving.model_version, serving_generation=serving.generation
        )

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.RollbackResponse:
        serving = await self.trainer().rollback(
            requested_by=request.requested_by,
            reason=request.reason,
            expected_generation=read_expected_generation(request),
            key=read_idempotency_key(request.idempotency_key, context),
        )
        return pb.RollbackResponse(
            model_version=serving.model_version, serving_generation=serving.generation
        )

    async def SetOperatingPoint(
        self, request: pb.SetOperatingPointRequest, context: Context
    ) -> pb.SetOperatingPointResponse:
        target, serving, kept = await self.trainer().set_operating_point(
            request.target_fmr if request.HasField("target_fmr") else None,
            request.prior if request.HasField("prior") else DEFAULT_PRIOR,
            requested_by=request.requested_by,
            reason=request.reason,
            expected_generation=read_expected_generation(request),
            key=read_idempotency_key(request.idempotency_key, context),
        )
        return pb.SetOperatingPointResponse(
            operating_point=pack_operating_point(target),
            serving=pack_kept(kept),
            serving_generation=serving.generation if serving else 0,
        )

    async def ListOperatingPoints(
        self, request: pb.ListOperatingPointsRequest, context: Context
    ) -> pb.ListOperatingPointsResponse:
        page = read_page(request.page_size, request.page_token)
        trainer = self.trainer()
        points, serving = trainer.operating_points, await trainer.versions.serving()
        targets, token = page.cut(await points.list(page.limit, page.before))
        return pb.ListOperatingPointsResponse(
            operating_points=map(pack_operating_point, targets),
            next_page_token=token,
            serving=pack_kept(await points.kept(serving)),
        )

    async def ListPromotions(
        self, request: pb.ListPromotionsRequest, context: Context
    ) -> pb.ListPromotionsResponse:
        page = read_page(request.page_size, request.page_token)
        history = await self.trainer().versions.history(page.limit, page.before)
        decisions, token = page.cut(history, attrgetter("generation"))
        return pb.ListPromotionsResponse(
            promotions=map(pack_decision, decisions), next_page_token=token
        )

    async def GetRollout(
        self, request: pb.GetRolloutRequest, context: Context
    ) -> pb.GetRolloutResponse:
        return pack_rollout(await self.trainer().rollout())

    async def ShadowModel(
        self, request: pb.ShadowModelRequest, context: Context
    ) -> pb.ShadowModelResponse:
        await self.trainer().shadow(
            request.model_version,
            requested_by=request.requested_by,
            key=read_idempotency_key(request.idempotency_key, context),
        )
        return pb.ShadowModelResponse(model_version=request.model_version)

    async def EvaluateModel(
        self, request: pb.EvaluateModelRequest, context: Context
    ) -> pb.EvaluateModelResponse:
        job = await self.trainer().evaluate_model(
            request.model_version,
            against_version=request.against_version,
            data_snapshot=request.data_snapshot,
            requested_by=request.requested_by,
            key=read_idempotency_key(request.idempotency_key, context),
        )
        return pb.EvaluateModelResponse(job=pack_job(job))

    async def QuantizeModel(
        self, request: pb.QuantizeModelRequest, context: Context
    ) -> pb.QuantizeModelResponse:
        job = await self.trainer().quantize_model(
            request.model_version,
            requested_by=request.requested_by,
            key=read_idempotency_key(request.idempotency_key, context),
        )
        return pb.QuantizeModelResponse(job=pack_job(job))

    async def JudgeModel(
        self, request: pb.JudgeModelRequest, context: Context
    ) -> pb.JudgeModelResponse:
        job = await self.trainer().judge_model(
            request.model_version,
            requested_by=request.requested_by,
            key=read_idempotency_key(request.idempotency_key, context),
        )
        return pb.JudgeModelResponse(job=pack_job(job))

    async def ListEvaluations(
        self, request: pb.ListEvaluationsRequest, context: Context
    ) -> pb.ListEvaluationsResponse:
        page = read_page(request.page_size, request.page_token)
        found = await self.trainer().evaluations.list(
            page.limit, page.before, request.model_version or None
        )
        evaluations, token = page.cut(found)
        return pb.ListEvaluationsResponse(
            evaluations=map(pack_evaluation, evaluations), next_page_token=token
        )

    async def GetEvaluationReport(
        self, request: pb.GetEvaluationReportRequest, context: Context
    ) -> AsyncIterator[pb.GetEvaluationReportResponse]:
        report = await self.trainer().evaluations.report(read_job_id(request.job_id))
        for start in range(0, len(report), CHUNK_BYTES):
            yield pb.GetEvaluationReportResponse(chunk=report[start : start + CHUNK_BYTES])

    async def ListSuspects(
        self, request: pb.ListSuspectsRequest, context: Context
    ) -> pb.ListSuspectsResponse:
        page = read_page(request.page_size, request.page_token)
        requested = read_job_id(request.job_id) if request.job_id else None
        job_id, report = await self.trainer().suspects.report(requested)
        return pack_report(job_id, report, page)

    async def ListLeftOut(
        self, request: pb.ListLeftOutRequest, context: Context
    ) -> pb.ListLeftOutResponse:
        page = read_page(request.page_size, request.page_token)
        images = await self.trainer().suspects.left_out(read_job_id(request.job_id))
        return pack_left_out(images, page)
