"""Settings of the feedback service."""

from pydantic import Field

from shared.decoding.settings import DecodingSettings, upload_share
from shared.settings import (
    ClientSettings,
    DatabaseSettings,
    MagFaceSettings,
    ObjectStoreSettings,
    ServerAddress,
    ServerSettings,
)


class SelectionSettings(MagFaceSettings):
    """How the pool is embedded, and how pairs are selected and leased.

    Attributes:
        embedder_address: Address of the embedder. Without one the pool is not embedded and
            pairs are selected at random.
        feedback_pool_poll_s: How often to look for new images and model versions and to refill
            the candidate queue, in seconds.
        feedback_overlap: Annotators per pair.
        feedback_lease_s: How long a pair is held for one annotator, in seconds.
        feedback_random_share: Share of random pairs whatever the strategy, so that estimates
            from labels are unbiased.
        feedback_gold_share: Share of gold pairs, whose truth is known, to measure annotators.
        feedback_candidates: Open pairs to keep for each strategy.
    """

    embedder_address: ServerAddress | None = None
    feedback_pool_poll_s: float = Field(default=2.0, gt=0)
    feedback_overlap: int = Field(default=1, ge=1, le=100)
    feedback_lease_s: float = Field(default=900.0, gt=0)
    feedback_random_share: float = Field(default=0.1, ge=0, le=1)
    feedback_gold_share: float = Field(default=0.05, ge=0, le=1)
    feedback_candidates: int = Field(default=500, ge=1)


class FeedbackSettings(
    SelectionSettings,
    DatabaseSettings,
    ObjectStoreSettings,
    ServerSettings,
    ClientSettings,
    DecodingSettings,
):
    """All settings of `python -m services.feedback`, from the environment.

    Attributes:
        upload_bytes: See `ServerSettings`; by default an eighth of `memory_bytes`.
        feedback_minimum_votes: Votes that a pair needs for a consensus. A change derives every
            consensus again at the next start.
        feedback_consensus: Deprecated and ignored: consensus is derived by majority. Any other
            value is logged at the start.
        feedback_batch_labels: Most labels of one transaction.
        feedback_queued_labels: Most labels that wait for their transaction; further ones are
            answered with RESOURCE_EXHAUSTED.
        feedback_image_threads: Threads that call the object store.
        feedback_stream_labels: Most labels of one stream that are read and not answered yet.
        feedback_retention_days: Age from which images are erased with their labels, in days;
            unset, they are kept.
        feedback_daily_erasure_share: Largest share of the images that the retention, or the sweep
            of objects without a row, may erase within 24 hours. More waits until it is approved.
        feedback_orphan_grace_s: Age from which the object of an image without a row, left by a
            crash, is removed, in seconds.
        feedback_sweep_every_s: Pause between two sweeps for such objects, and for rows of images
            without an object, in seconds.
        feedback_read_back_every_s: Pause between two images that are read back in the background
            and compared with their hash, in seconds.
        feedback_tombstone_days: Days for which images and labels that were erased on request are
            refused, so that a late retry does not bring them back; with 0 they never are. A change
            also holds for what was erased before.
    """

    upload_bytes: int = Field(default_factory=upload_share, ge=2**20)
    feedback_minimum_votes: int = Field(default=1, ge=1)
    feedback_consensus: str = "majority"
    feedback_batch_labels: int = Field(default=256, ge=1)
    feedback_queued_labels: int = Field(default=4096, ge=1)
    feedback_image_threads: int = Field(default=8, ge=1)
    feedback_stream_labels: int = Field(default=512, ge=1)
    feedback_retention_days: int | None = Field(default=None, ge=1)
    feedback_daily_erasure_share: float = Field(default=0.05, ge=0, le=1)
    feedback_orphan_grace_s: float = Field(default=3600.0, ge=0)
    feedback_sweep_every_s: float = Field(default=3600.0, gt=0)
    feedback_tombstone_days: int = Field(default=30, ge=0, le=36500)
    feedback_read_back_every_s: float = Field(default=0.5, gt=0)
