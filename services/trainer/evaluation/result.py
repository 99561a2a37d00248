"""What an evaluation job found out, for the pipe from its worker and for Postgres."""

from pydantic import BaseModel, ConfigDict, Field

from shared.evaluation.results import Comparison, Evaluation


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AgainstVersion(_Frozen):
    """Another version on the same pairs, and how the measured one differs from it."""

    model_version: str
    evaluation: Evaluation
    comparison: Comparison


class EvaluationResult(_Frozen):
    """A version on the pairs of a data snapshot.

    Attributes:
        pairs_trained_on: Pairs with an image of the feedback that it was trained on.
        against: None when it was measured alone.
    """

    model_version: str
    data_snapshot: str
    pairs_trained_on: int = Field(ge=0)
    evaluation: Evaluation
    against: AgainstVersion | None
