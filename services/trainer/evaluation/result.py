"""Result of an evaluation job, as sent by the worker and stored in Postgres."""

from pydantic import BaseModel, ConfigDict, Field

from shared.evaluation.results import Comparison, Evaluation


class _StoredModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AgainstVersion(_StoredModel):
    """Another version on the same pairs, and the comparison with the evaluated one."""

    model_version: str
    evaluation: Evaluation
    comparison: Comparison


class EvaluationResult(_StoredModel):
    """The evaluation of a version on the pairs of a data snapshot.

    Attributes:
        pairs_trained_on: Number of pairs with an image that the version was trained on.
        against: The other version; None if the version was evaluated alone.
    """

    model_version: str
    data_snapshot: str
    pairs_trained_on: int = Field(ge=0)
    evaluation: Evaluation
    against: AgainstVersion | None
