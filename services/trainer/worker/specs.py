"""What a job's `spec` says, kind by kind."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from services.trainer.training.spec import Recipe, TrainingSpec
from shared.model.manifest import ChannelOrder


class JobKind(StrEnum):
    TRAIN = "train"
    IMPORT = "import"
    EVALUATE = "evaluate"
    QUANTIZE = "quantize"


UPLOAD_PREFIX = "uploads/"


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImportSpec(_Spec):
    """Make a model version of a checkpoint.

    Attributes:
        upload: SHA-256 of the uploaded file; None for the bundled default.
        promote_if_first: Let it serve, if nothing does by then.
    """

    upload: str | None
    channel_order: ChannelOrder
    threshold: float = Field(ge=-1, le=1)
    promote_if_first: bool = False


class TrainOptions(_Spec):
    """Fields of `TrainingSpec`; one that is None takes its default."""

    epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    genuine_margin: float | None = None
    impostor_margin: float | None = None
    seed: int | None = None
    recipe: Recipe | None = None


class TrainSpec(_Spec):
    """Fine-tune a model version on the feedback.

    Attributes:
        no_promotion: Keep the candidate out of service even if the gate passes it.
    """

    parent_version: str
    options: TrainOptions
    no_promotion: bool = False

    def for_job(self, job_id: str) -> TrainingSpec:
        """Say it in the words of the learning.

        Raises:
            InvalidInput: Names the option that is out of its range.
        """
        given: dict[str, Any] = self.options.model_dump(exclude_none=True)
        return TrainingSpec(job_id=job_id, parent_version=self.parent_version, **given)


class EvaluateSpec(_Spec):
    """Measure a model version on the feedback.

    Attributes:
        against_version: Another version to compare with on the same pairs.
        data_snapshot: Which feedback; None takes it as it stands when the job starts.
    """

    model_version: str
    against_version: str | None = None
    data_snapshot: str | None = None


class QuantizeSpec(_Spec):
    """Make the eight-bit form of a model version."""

    model_version: str


def upload_key(sha256: str) -> str:
    """Name the object of an uploaded checkpoint."""
    return f"{UPLOAD_PREFIX}{sha256}"
