"""Progress of a job: its stage, the share of the work done, and figures.

Free of torch and of psycopg: the worker reports with it, and the server keeps what is reported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Stage(StrEnum):
    """What a job is doing; a job passes through the ones that its kind has."""

    # Waits for a runner, before its first attempt and between two attempts.
    QUEUED = "queued"
    # Claimed by a runner, which starts the worker. Each attempt begins with it.
    STARTING = "starting"
    # Fetches and reads the networks that the job works with, and the reference faces.
    LOADING_MODEL = "loading_model"
    # Freezes the feedback as a data snapshot, and fetches its pairs.
    PULLING_FEEDBACK = "pulling_feedback"
    PULLING_IMAGES = "pulling_images"
    # Decodes the images and aligns the faces.
    DECODING_IMAGES = "decoding_images"
    EMBEDDING = "embedding"
    # Estimates which labels are wrong, where need be by training on one half of the people and
    # testing on the other.
    CHECKING_LABELS = "checking_labels"
    TRAINING = "training"
    # Converts the network to eight bits.
    QUANTIZING = "quantizing"
    # Fits what maps the network's output to magnitude quantiles, threshold and probability.
    CALIBRATING = "calibrating"
    # Measures a candidate beside its parent for the gate, or a version on the feedback.
    EVALUATING = "evaluating"
    # Writes the version's files.
    EXPORTING = "exporting"
    # Writes the page that shows an evaluation.
    REPORTING = "reporting"
    # Puts what was made into the object store, and records it.
    PUBLISHING = "publishing"
    # Makes the new version the serving one.
    PROMOTING = "promoting"


@dataclass(frozen=True)
class StageStart:
    """A stage that a job has entered, and when it did."""

    stage: Stage
    started_at: datetime


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        stage: What it is doing.
        fraction: Share of the work done, 0..1.
        message: For a person to read.
        figures: Numbers by name, for instance epoch, loss, images_per_second.
    """

    stage: Stage
    fraction: float
    message: str
    figures: Mapping[str, float] = field(default_factory=dict)


# Called at least once a training step; raising from it stops the training there.
Report = Callable[[Progress], None]


def stage_report(
    report: Report, stage: Stage, message: str, start: float, end: float
) -> Callable[[float], None]:
    """Make the callback that reports the share done, 0..1, of a stage.

    Args:
        report: Takes the progress.
        stage: The stage.
        message: For a person to read.
        start: Share of the whole work that is done before the stage.
        end: Share of the whole work that is done after it.
    """
    return lambda done: report(Progress(stage, start + done * (end - start), message))
