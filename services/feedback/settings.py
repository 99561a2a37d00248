"""Settings of the feedback service."""

from pydantic import Field

from shared.settings import (
    DatabaseSettings,
    ImageLimits,
    MagFaceSettings,
    ObjectStoreSettings,
    ServerSettings,
)


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


class FeedbackSettings(
    SelectionSettings, DatabaseSettings, ObjectStoreSettings, ServerSettings, ImageLimits
):
    """Everything that `python -m services.feedback` takes from the environment.

    Attributes:
        feedback_minimum_votes: Annotators that must have voted before a pair has a
            consensus. Changing it derives every consensus anew at the next start.
        feedback_consensus: No longer a choice: consensus is derived by majority. Any other value
            is ignored, and the log says so at the start.
        feedback_batch_labels: Labels that one transaction stores at most.
        feedback_queued_labels: Labels that may wait for their transaction; beyond,
            submitting is answered with RESOURCE_EXHAUSTED.
        feedback_image_threads: Threads that check pictures and talk to the object store.
        feedback_stream_labels: Labels of one stream that are read and not yet answered.
        feedback_retention_days: Images older than this many days are erased, with their
            labels; unset, they are kept.
        feedback_orphan_grace_s: Age from which the object of an image without a row, left
            by a crash, is removed, in seconds.
        feedback_sweep_every_s: Pause between two searches for such objects, in seconds.
    """

    feedback_minimum_votes: int = Field(default=1, ge=1)
    feedback_consensus: str = "majority"
    feedback_batch_labels: int = Field(default=256, ge=1)
    feedback_queued_labels: int = Field(default=4096, ge=1)
    feedback_image_threads: int = Field(default=8, ge=1)
    feedback_stream_labels: int = Field(default=512, ge=1)
    feedback_retention_days: int | None = Field(default=None, ge=1)
    feedback_orphan_grace_s: float = Field(default=3600.0, ge=0)
    feedback_sweep_every_s: float = Field(default=3600.0, gt=0)
