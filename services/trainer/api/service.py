"""What can be asked of the trainer, in the domain's words."""

import math
from collections.abc import AsyncIterator

from services.trainer.jobs.queue import Job, Jobs
from services.trainer.jobs.uploads import Uploads
from services.trainer.registry.evaluations import Evaluations
from services.trainer.registry.replicas import ReplicaWatch, Rollout
from services.trainer.registry.serving_pointer import PointerPublisher
from services.trainer.registry.shadow import ShadowPublisher
from services.trainer.registry.suspects import Suspects
from services.trainer.registry.versions import Serving, Versions
from services.trainer.worker.specs import (
    EvaluateSpec,
    ImportSpec,
    JobKind,
    QuantizeSpec,
    TrainOptions,
    TrainSpec,
)
from shared.errors import InvalidInput, PreconditionFailed
from shared.model.manifest import ChannelOrder
from shared.storage.idempotency import IdempotencyKey

_UNCALIBRATED_THRESHOLD = 0.4


class Trainer:
    """Queues work, and decides which version serves.

    A method that takes an idempotency key (1..128 characters; None for none) gives the result of
    the call that used it before, if there is one, and raises `AlreadyExists` if that call asked
    for something else.

    Attributes:
        jobs: To look jobs up, follow and cancel them.
        versions: To look versions up.
        evaluations: To look up what was measured of them.
        suspects: To look up which labels trainings suspect.
    """

    def __init__(
        self,
        jobs: Jobs,
        versions: Versions,
        evaluations: Evaluations,
        suspects: Suspects,
        *,
        uploads: Uploads,
        pointer: PointerPublisher,
        replicas: ReplicaWatch,
        shadow: ShadowPublisher,
    ) -> None:
        self.jobs = jobs
        self.versions = versions
        self.evaluations = evaluations
        self.suspects = suspects
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
            options: How to train.
            parent_version: What to start from; the serving version when empty.
            requested_by: Who asks.
            no_promotion: Keep the candidate out of service even if the gate passes it.
            key: Idempotency key.

        Raises:
            InvalidInput: Names the option that is out of its range.
            NotFound: If there is no such parent.
            PreconditionFailed: If no parent is named and nothing serves.
        """
        asked = options.model_dump(mode="json", exclude_none=True)
        once = IdempotencyKey.of(
            requested_by,
            key,
            "start training",
            options=asked,
            parent_version=parent_version,
            no_promotion=no_promotion,
        )
        if kept := await self.jobs.find_by_key(once):
            return kept
        parent = parent_version or await self._serving_version("options.parent_version")
        spec = TrainSpec(parent_version=parent, options=options, no_promotion=no_promotion)
        spec.training_spec("")
        await self.versions.get(parent)
        return await self.jobs.create(
            JobKind.TRAIN, spec.model_dump(mode="json"), requested_by, once
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
        """Queue the measurement of a version on the feedback.

        Args:
            model_version: The serving version when empty.
            against_version: What to compare it with; nothing when empty.
            data_snapshot: Which feedback; as it stands when the job starts if empty.
            requested_by: Who asks.
            key: Idempotency key.

        Raises:
            InvalidInput: If it is to be compared with itself.
            NotFound: If there is no such version.
            PreconditionFailed: If no version is named and nothing serves.
        """
        once = IdempotencyKey.of(
            requested_by,
            key,
            "evaluate",
            model_version=model_version,
            against_version=against_version,
            data_snapshot=data_snapshot,
        )
        if kept := await self.jobs.find_by_key(once):
            return kept
        measured = model_version or await self._serving_version("model_version")
        await self.versions.get(measured)
        if against_version:
            await self.versions.get(against_version)
        if measured == against_version:
            raise InvalidInput("against_version", f"is {measured}, which is to be measured itself")
        spec = EvaluateSpec(
            model_version=measured,
            against_version=against_version or None,
            data_snapshot=data_snapshot or None,
        )
        return await self.jobs.create(
            JobKind.EVALUATE, spec.model_dump(mode="json"), requested_by, once
        )

    async def quantize_model(
        self, model_version: str, *, requested_by: str, key: str | None = None
    ) -> Job:
        """Queue the making of a version's eight-bit form.

        Args:
            model_version: The serving version when empty.
            requested_by: Who asks.
            key: Idempotency key.

        Raises:
            NotFound: If there is no such version.
            PreconditionFailed: If no version is named and nothing serves, or if the version
                is quantized already.
        """
        once = IdempotencyKey.of(requested_by, key, "quantize", model_version=model_version)
        if kept := await self.jobs.find_by_key(once):
            return kept
        full = model_version or await self._serving_version("model_version")
        made_by = await self.jobs.get((await self.versions.get(full)).job_id)
        if made_by.kind is JobKind.QUANTIZE:
            raise PreconditionFailed(f"{full} is quantized already; name the version it is made of")
        spec = QuantizeSpec(model_version=full)
        return await self.jobs.create(
            JobKind.QUANTIZE, spec.model_dump(mode="json"), requested_by, once
        )

    async def _serving_version(self, field: str) -> str:
        serving = await self.versions.serving()
        if serving is None:
            raise PreconditionFailed(f"no version serves yet; import one, or name {field}")
        return serving.model_version

    async def import_model(
        self,
        chunks: AsyncIterator[bytes],
        *,
        channel_order: ChannelOrder,
        threshold: float | None,
        requested_by: str,
        key: str | None = None,
    ) -> Job:
        """Take a checkpoint in, and queue the job that makes a version of it.

        Args:
            chunks: The file.
            channel_order: What the network was trained with.
            threshold: Cosine similarity from which two faces are the same person.
            requested_by: Who asks.
            key: Idempotency key; the file must be the same when it is used again.

        Raises:
            InvalidInput: If an option is out of its range, or the file empty or too large.
        """
        if threshold is None:
            threshold = _UNCALIBRATED_THRESHOLD
        if not math.isfinite(threshold) or abs(threshold) > 1:
            raise InvalidInput("options.threshold", f"{threshold} is outside -1..1")
        upload = await self._uploads.store(chunks)
        spec = ImportSpec(upload=upload, channel_order=channel_order, threshold=threshold)
        asked = spec.model_dump(mode="json")
        once = IdempotencyKey.of(requested_by, key, "import", **asked)
        return await self.jobs.create(JobKind.IMPORT, asked, requested_by, once)

    async def promote(
        self,
        model_version: str,
        *,
        who: str,
        why: str,
        override_gate: bool,
        expected_generation: int | None,
        key: str | None = None,
    ) -> Serving:
        """Make a version the serving one, and publish that; see `Versions.promote`."""
        serving = await self.versions.promote(
            model_version,
            who=who,
            why=why,
            override_gate=override_gate,
            expected_generation=expected_generation,
            key=key,
        )
        await self._pointer.try_to_publish()
        return serving

    async def rollback(
        self, *, who: str, why: str, expected_generation: int | None, key: str | None = None
    ) -> Serving:
        """Make the version before serve again, and publish that; see `Versions.rollback`."""
        serving = await self.versions.rollback(
            who=who, why=why, expected_generation=expected_generation, key=key
        )
        await self._pointer.try_to_publish()
        return serving

    async def rollout(self) -> Rollout:
        """Say which embedders live, and what each of them serves of what was decided."""
        serving = await self.versions.serving()
        return Rollout(serving, self._replicas.live, self._replicas.candidate)

    async def shadow(
        self, model_version: str, *, requested_by: str, key: str | None = None
    ) -> None:
        """Let the embedders try a version on live requests, instead of any other.

        Args:
            model_version: None is tried any longer when empty.
            requested_by: Who asks.
            key: Idempotency key.

        Raises:
            NotFound: If there is no such version.
            PreconditionFailed: If it is the one that serves.
            Unavailable: If a store cannot be reached.
        """
        await self._shadow.publish(model_version, who=requested_by, key=key)
