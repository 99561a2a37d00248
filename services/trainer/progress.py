"""Progress of a job: stage, share of the work done, and figures.

Imports neither torch nor psycopg: the worker reports progress, and the server records it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Stage(StrEnum):
    """Stage of a job; each kind of job passes through some of them."""

    # Waits for a runner, before the first attempt and between attempts.
    QUEUED = "queued"
    # Claimed by a runner, which starts the worker. Each attempt begins with this stage.
    STARTING = "starting"
    # Fetches and reads the networks of the job and the reference faces.
    LOADING_MODEL = "loading_model"
    # Takes the data snapshot and fetches its pairs.
    PULLING_FEEDBACK = "pulling_feedback"
    PULLING_IMAGES = "pulling_images"
    # Decodes the images and aligns the faces.
    DECODING_IMAGES = "decoding_images"
    EMBEDDING = "embedding"
    # Estimates which labels are wrong; if needed, by training on half of the people and testing
    # on the other half.
    CHECKING_LABELS = "checking_labels"
    TRAINING = "training"
    # Converts the network to 8 bits.
    QUANTIZING = "quantizing"
    # Fits magnitude quantiles, threshold and match probability to the network's output.
    CALIBRATING = "calibrating"
    # Measures a candidate and its parent for the gate, or a version on the feedback.
    EVALUATING = "evaluating"
    # Writes the files of the version.
    EXPORTING = "exporting"
    # Writes the HTML report of an evaluation.
    REPORTING = "reporting"
    # Puts the results into the object store and records them.
    PUBLISHING = "publishing"
    # Makes the new version the serving one.
    PROMOTING = "promoting"


@dataclass(frozen=True)
class StageStart:
    """A stage that a job has entered, and when."""

    stage: Stage
    started_at: datetime


@dataclass(frozen=True)
class Progress:
    """Progress of a job.

    Attributes:
        stage: The current stage.
        fraction: Share of the work done, 0..1.
        message: Current activity, for people.
        figures: Numbers by name, e.g. epoch, loss, images_per_second.
    """

    stage: Stage
    fraction: float
    message: str
    figures: Mapping[str, float] = field(default_factory=dict)


# Called at least once per training step. If it raises, the training stops.
Report = Callable[[Progress], None]


def stage_report(
    report: Report, stage: Stage, message: str, start: float, end: float
) -> Callable[[float], None]:
    """Make a callback that takes the share of a stage that is done, 0..1, and reports it.

    Args:
        report: Takes the progress of the job.
        stage: The stage.
        message: Current activity, for people.
        start: Share of the whole work that is done before the stage, 0..1.
        end: Share of the whole work that is done after the stage, 0..1.
    """
    return lambda done: report(Progress(stage, start + done * (end - start), message))
