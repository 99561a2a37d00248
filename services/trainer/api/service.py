"""Operations of the trainer, without protobuf."""

from collections.abc import AsyncIterator

from services.trainer.jobs.queue import Job, JobQueue
from services.trainer.jobs.uploads import UploadStore
from services.trainer.registry.evaluations import EvaluationStore
from services.trainer.registry.operating_points import (
    KeptPoint,
    OperatingPoints,
    OperatingTarget,
)
from services.trainer.registry.replicas import ReplicaWatch, Rollout
from services.trainer.registry.serving_pointer import ServingPointerPublisher
from services.trainer.registry.shadow import ShadowPublisher
from services.trainer.registry.suspects import SuspectLabels
from services.trainer.registry.versions import ServingDecision, VersionRegistry
from services.trainer.worker.specs import (
    EvaluateSpec,
    ImportSpec,
    JobKind,
    JudgeSpec,
    QuantizeSpec,
    TrainOptions,
    TrainSpec,
)
from shared.errors import InvalidInput, PreconditionFailed
from shared.model.manifest import ChannelOrder
from shared.storage.idempotency import IdempotencyKey

_MAX_EPS = 1e-2


class Trainer:
    """Queues jobs, and decides which version serves.

    Methods take an idempotency key of 1..128 characters, or None. If the key was used before, they
    return the result of that call, or raise `AlreadyExists` if it was another request.

    Attributes:
        jobs: Lists, watches and cancels jobs.
        versions: Lists versions.
        evaluations: Lists evaluations of versions.
        suspects: Reads the label reports of trainings.
        operating_points: Lists operating points.
    """

    def __init__(
        self,
        jobs: JobQueue,
        versions: VersionRegistry,
        evaluations: EvaluationStore,
        suspects: SuspectLabels,
        *,
        operating_points: OperatingPoints,
        uploads: UploadStore,
        pointer: ServingPointerPublisher,
        replicas: ReplicaWatch,
        shadow: ShadowPublisher,
    ) -> None:
        self.jobs = jobs
        self.versions = versions
        self.evaluations = evaluations
        self.suspects = suspects
        self.operating_points = operating_points
        self._uploads = uploads
        self._pointer = pointer
        self._replicas = replicas
        self._shadow = shadow

    async def start_training(
        self,
        options: TrainOptions,
        parent_version: str,
        *,
        requested_by: str,
        no_promotion: bool,
        key: str | None = None,
    ) -> Job:
        """Queue a fine-tuning.

        Args:
            options: Options of the training.
            parent_version: Version to start from; empty for the one that serves when the work
                begins.
            requested_by: Who asks.
            no_promotion: Do not promote the candidate even if the gate passes it.
            key: Idempotency key.

        Raises:
            InvalidInput: If an option is out of its range.
            NotFound: If there is no such parent.
            PreconditionFailed: If no parent is named and no version serves.
        """
        idempotency_key = IdempotencyKey.of(
            requested_by,
            key,
            "start training",
            options=options.model_dump(mode="json", exclude_none=True),
            parent_version=parent_version,
            no_promotion=no_promotion,
        )
        if job := await self.jobs.find_by_key(idempotency_key):
            return job
        parent = parent_version or await self._serving_version("options.parent_version")
        spec = TrainSpec(
            parent_version=parent_version or None, options=options, no_promotion=no_promotion
        )
        spec.training_spec("", parent, None)
        await self.versions.get(parent)
        return await self.jobs.create(
            JobKind.TRAIN, spec.model_dump(mode="json"), requested_by, idempotency_key
        )

    async def evaluate_model(
        self,
        model_version: str,
        *,
        against_version: str,
        data_snapshot: str,
        requested_by: str,
        key: str | None = None,
    ) -> Job:
        """Queue the evaluation of a version on the feedback.

        Args:
            model_version: The version; empty for the one that serves when the work begins.
            against_version: Version to compare it with; empty for none.
            data_snapshot: The feedback to use; empty for all feedback when the job starts.
            requested_by: Who asks.
            key: Idempotency key.

        Raises:
            InvalidInput: If it would be compared with itself.
            NotFound: If there is no such version.
            PreconditionFailed: If no version is named and no version serves.
        """
        idempotency_key = IdempotencyKey.of(
            requested_by,
            key,
            "evaluate",
            model_version=model_version,
            against_version=against_version,
            data_snapshot=data_snapshot,
        )
        if job := await self.jobs.find_by_key(idempotency_key):
            return job
        evaluated = model_version or await self._serving_version("model_version")
        await self.versions.get(evaluated)
        if against_version:
            await self.versions.get(against_version)
        if evaluated == against_version:
            raise InvalidInput("against_version", f"is {evaluated}, the version to evaluate")
        spec = EvaluateSpec(
            model_version=model_version or None,
            against_version=against_version or None,
            data_snapshot=data_snapshot or None,
        )
        return await self.jobs.create(
            JobKind.EVALUATE, spec.model_dump(mode="json"), requested_by, idempotency_key
        )

    async def quantize_model(
        self, model_version: str, *, requested_by: str, key: str | None = None
    ) -> Job:
        """Queue the quantization of a version to 8 bits.

        Args:
            model_version: The version; empty for the one that serves when the work begins.
            requested_by: Who asks.
            key: Idempotency key.

        Raises:
            NotFound: If there is no such version.
            PreconditionFailed: If no version is named and no version serves, or the version is
                already quantized.
        """
        idempotency_key = IdempotencyKey.of(
            requested_by, key, "quantize", model_version=model_version
        )
        if job := await self.jobs.find_by_key(idempotency_key):
            return job
        source = model_version or await self._serving_version("model_version")
        source_job = await self.jobs.get((await self.versions.get(source)).job_id)
        if source_job.kind is JobKind.QUANTIZE:
            raise PreconditionFailed(f"{source} is already quantized; name its parent instead")
        spec = QuantizeSpec(model_version=model_version or None)
        return await self.jobs.create(
            JobKind.QUANTIZE, spec.model_dump(mode="json"), requested_by, idempotency_key
        )

    async def judge_model(
        self, model_version: str, *, requested_by: str, key: str | None = None
    ) -> Job:
        """Queue another judgement of a candidate.

        Args:
            model_version: The candidate.
            requested_by: Who asks.
            key: Idempotency key.

        Raises:
            NotFound: If there is no such version.
            PreconditionFailed: If it was not fine-tuned here.
        """
        idempotency_key = IdempotencyKey.of(requested_by, key, "judge", model_version=model_version)
        if job := await self.jobs.find_by_key(idempotency_key):
            return job
        training = await self.jobs.get((await self.versions.get(model_version)).job_id)
        if training.kind is not JobKind.TRAIN:
            raise PreconditionFailed(
                f"{model_version} was not fine-tuned here ({training.kind}), so there is no parent "
                "to judge it against"
            )
        trained = TrainSpec.model_validate(training.spec)
        spec = JudgeSpec(
            model_version=model_version,
            training_job=training.job_id,
            seed=trained.training_spec("", "", None).seed,
            no_promotion=trained.no_promotion,
        )
        return await self.jobs.create(
            JobKind.JUDGE, spec.model_dump(mode="json"), requested_by, idempotency_key
        )

    async def _serving_version(self, field: str) -> str:
        serving = await self.versions.serving()
        if serving is None:
            raise PreconditionFailed(f"no version serves yet; import one, or set {field}")
        return serving.model_version

    async def import_model(
        self,
        chunks: AsyncIterator[bytes],
        *,
        channel_order: ChannelOrder,
        threshold: float | None,
        requested_by: str,
        key: str | None = None,
        file_name: str | None = None,
        batch_norm_eps: float | None = None,
    ) -> Job:
        """Store an uploaded checkpoint, and queue the job that makes a version of it.

        If the same file was imported with the same options, or is being imported, its job is
        returned.

        Args:
            chunks: The file.
            channel_order: Channel order that the network was trained with.
            threshold: Cosine similarity, -1..1, from which two faces are the same person; None
                calibrates it on the reference faces.
            requested_by: Who asks.
            key: Idempotency key; a repeated call must send the same file.
            file_name: What the caller calls the file.
            batch_norm_eps: Epsilon of the network's BatchNorms; None to tell by the file.

        Raises:
            InvalidInput: If an option is out of its range, or the file is empty or too large.
        """
        if threshold is not None and not abs(threshold) <= 1:
            raise InvalidInput("options.threshold", f"{threshold} is outside -1..1")
        if batch_norm_eps is not None and not 0 < batch_norm_eps <= _MAX_EPS:
            raise InvalidInput(
                "options.batch_norm_eps", f"{batch_norm_eps} is not above 0 and at most {_MAX_EPS}"
            )
        upload = await self._uploads.store(chunks)
        spec = ImportSpec(
            upload=upload,
            channel_order=channel_order,
            threshold=threshold,
            file_name=file_name,
            batch_norm_eps=batch_norm_eps,
        ).model_dump(mode="json", exclude_none=True)
        content = {option: value for option, value in spec.items() if option != "file_name"}
        idempotency_key = IdempotencyKey.of(requested_by, key, "import", **content)
        if job := await self.jobs.find_by_key(idempotency_key):
            return job
        if same := await self.jobs.find_import(content):
            return same
        return await self.jobs.create(JobKind.IMPORT, spec, requested_by, idempotency_key)

    async def promote(
        self,
        model_version: str,
        *,
        requested_by: str,
        reason: str,
        override_gate: bool,
        expected_generation: int | None,
        key: str | None = None,
    ) -> ServingDecision:
        """Promote a version and publish that; see `VersionRegistry.promote`."""
        serving = await self.versions.promote(
            model_version,
            requested_by=requested_by,
            reason=reason,
            override_gate=override_gate,
            expected_generation=expected_generation,
            key=key,
        )
        await self._pointer.try_to_publish()
        return serving

    async def rollback(
        self,
        *,
        requested_by: str,
        reason: str,
        expected_generation: int | None,
        key: str | None = None,
    ) -> ServingDecision:
        """Restore the previous version and publish that; see `VersionRegistry.rollback`."""
        serving = await self.versions.rollback(
            requested_by=requested_by,
            reason=reason,
            expected_generation=expected_generation,
            key=key,
        )
        await self._pointer.try_to_publish()
        return serving

    async def set_operating_point(
        self,
        target_fmr: float | None,
        prior: float,
        *,
        requested_by: str,
        reason: str,
        expected_generation: int | None,
        key: str | None = None,
    ) -> tuple[OperatingTarget, ServingDecision | None, KeptPoint | None]:
        """Set the operating point and publish it; see `OperatingPoints.set`.

        Returns:
            The operating point, the serving decision, and what the serving version does with it.
        """
        target, serving = await self.operating_points.set(
            target_fmr,
            prior,
            requested_by=requested_by,
            reason=reason,
            expected_generation=expected_generation,
            key=key,
        )
        await self._pointer.try_to_publish()
        return target, serving, await self.operating_points.kept(serving)

    async def rollout(self) -> Rollout:
        """Return the serving decision and what the live embedders serve."""
        serving = await self.versions.serving()
        return Rollout(serving, self._replicas.live, self._replicas.candidate)

    async def shadow(
        self, model_version: str, *, requested_by: str, key: str | None = None
    ) -> None:
        """Have the embedders evaluate a version in the shadow; see `ShadowPublisher.publish`."""
        await self._shadow.publish(model_version, requested_by=requested_by, key=key)
