"""Job specifications: the content of a job's `spec`, by kind of job."""

from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from services.trainer.training.spec import TrainingRecipe, TrainingSpec
from shared.model.manifest import ChannelOrder

UPLOAD_PREFIX = "uploads/"


class JobKind(StrEnum):
    TRAIN = "train"
    IMPORT = "import"
    EVALUATE = "evaluate"
    QUANTIZE = "quantize"
    JUDGE = "judge"


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImportSpec(_Spec):
    """Make a model version from a checkpoint.

    Attributes:
        upload: SHA-256 of the uploaded file; None for the bundled checkpoint.
        threshold: See `Manifest`; None calibrates it on the reference faces.
        promote_if_first: Promote the version if none is serving when it is done and the gate
            passed it.
        file_name: What the caller calls the uploaded file, for errors.
        batch_norm_eps: See `load_checkpoint`.
    """

    upload: str | None
    channel_order: ChannelOrder
    threshold: float | None = Field(default=None, ge=-1, le=1)
    promote_if_first: bool = False
    file_name: str | None = None
    batch_norm_eps: float | None = Field(default=None, gt=0, le=1e-2)


class TrainOptions(_Spec):
    """Fields of `TrainingSpec`; None for its default."""

    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    genuine_margin: float | None = None
    impostor_margin: float | None = None
    seed: int | None = None
    recipe: TrainingRecipe | None = None


class TrainSpec(_Spec):
    """Fine-tune a model version on the feedback.

    Attributes:
        parent_version: Version to start from; None for the one that serves when the work begins.
        no_promotion: Do not promote the new version even if it passes the gate.
    """

    parent_version: str | None
    options: TrainOptions
    no_promotion: bool = False

    def training_spec(
        self, job_id: str, parent_version: str, target_fmr: float | None
    ) -> TrainingSpec:
        """Make the specification of the training.

        Args:
            job_id: The job.
            parent_version: Version to start from.
            target_fmr: The operator's target false-match rate; None for none.

        Raises:
            InvalidInput: If an option is out of its range; names the option.
        """
        options: dict[str, Any] = self.options.model_dump(exclude_none=True)
        return TrainingSpec(
            job_id=job_id, parent_version=parent_version, target_fmr=target_fmr, **options
        )


class EvaluateSpec(_Spec):
    """Evaluate a model version on the feedback.

    Attributes:
        model_version: The version; None for the one that serves when the work begins.
        against_version: Another version to compare with on the same pairs.
        data_snapshot: The snapshot; None makes one when the job starts.
    """

    model_version: str | None
    against_version: str | None = None
    data_snapshot: str | None = None


class QuantizeSpec(_Spec):
    """Make the eight-bit form of a model version.

    Attributes:
        model_version: The version; None for the one that serves when the work begins.
    """

    model_version: str | None


class JudgeSpec(_Spec):
    """Judge a candidate again, on people that it was not trained on.

    Attributes:
        model_version: The candidate.
        training_job: The training that made it; its label report names the held-out people.
        seed: Seed of that training, which chose the reference people to measure on.
        no_promotion: Do not promote the candidate even if it passes the gate.
    """

    model_version: str
    training_job: UUID
    seed: int
    no_promotion: bool = False


def upload_key(sha256: str) -> str:
    """Return the object key of an uploaded checkpoint."""
    return f"{UPLOAD_PREFIX}{sha256}"
