"""Settings of what chooses the pairs to label."""

from pydantic import Field

from shared.settings import MagFaceSettings


class SelectionSettings(MagFaceSettings):
    """How the pool is embedded, and pairs are chosen and handed out.

    Attributes:
        embedder_address: Where the embedder is; without one the pool is not embedded, and
            pairs are drawn at random.
        feedback_pool_poll_s: How often new images and model versions are looked for, and
            prepared pairs are counted, in seconds.
        feedback_overlap: How many people are asked about one pair.
        feedback_lease_s: How long a pair is held for one annotator, in seconds.
        feedback_random_share: Share of pairs drawn at random whatever the strategy, so that
            what is estimated from labels stays honest.
        feedback_gold_share: Share of pairs whose truth is known, to measure annotators.
        feedback_candidates: Pairs that are kept prepared for each strategy.
    """

    embedder_address: str | None = None
    feedback_pool_poll_s: float = Field(default=2.0, gt=0)
    feedback_overlap: int = Field(default=1, ge=1, le=100)
    feedback_lease_s: float = Field(default=900.0, gt=0)
    feedback_random_share: float = Field(default=0.1, ge=0, le=1)
    feedback_gold_share: float = Field(default=0.05, ge=0, le=1)
    feedback_candidates: int = Field(default=500, ge=1)
