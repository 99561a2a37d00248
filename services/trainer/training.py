"""What the job runner hands to the learning, and what it gets back.

Free of torch, so that the trainer's server process can import it. The work itself is
`services.trainer.learning.run_training`, which only the training child imports.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidInput
from shared.model.manifest import Manifest

if TYPE_CHECKING:  # it needs OpenCV, which the trainer's server does without
    from services.trainer.suspects import LabelReport
    from shared.model.image.face_reader import FaceImage


class Recipe(StrEnum):
    """Loss and its surroundings; see `services.trainer.losses`."""

    COSINE = "cosine"
    HADSELL = "hadsell"


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """How to fine-tune; the defaults are the measured ones.

    Attributes:
        job_id: The job; the version it makes is named for it.
        parent_version: Model version to start from.
        epochs: Passes over the training people's pairs.
        learning_rate: Peak learning rate of AdamW; None takes the recipe's.
        batch_size: Labelled pairs a step; the cosine recipe takes twice as many images.
        genuine_margin: Cosine similarity above which a genuine pair costs nothing;
            None derives it from the parent's threshold.
        impostor_margin: Cosine similarity below which an impostor pair costs nothing;
            None derives it from the parent's threshold.
        seed: Of the split, the order, and the augmentation.
        recipe: Which loss.

    Raises:
        InvalidInput: Names the option that is out of its range.
    """

    job_id: str
    parent_version: str
    epochs: int = 8
    learning_rate: float | None = None
    batch_size: int = 18
    genuine_margin: float | None = None
    impostor_margin: float | None = None
    seed: int = 0
    recipe: Recipe = Recipe.COSINE

    def __post_init__(self) -> None:
        _within("options.epochs", self.epochs, 1, 1000)
        if self.learning_rate is not None:
            _within("options.learning_rate", self.learning_rate, 1e-8, 1.0)
        _within("options.batch_size", self.batch_size, 2, 1024)
        for name in ("genuine_margin", "impostor_margin"):
            margin = getattr(self, name)
            if margin is not None:
                _within(f"options.{name}", margin, -1.0, 1.0)
                if self.recipe is Recipe.HADSELL:
                    raise InvalidInput(f"options.{name}", "the hadsell recipe has no such margin")
        _within("options.seed", self.seed, 0, 2**63 - 1)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidInput(name, f"{value} is outside {low}..{high}")


@dataclass(frozen=True)
class Vote:
    """What one annotator said of a pair; `same` is None for unsure."""

    annotator: str
    same: bool | None


@dataclass(frozen=True)
class LabelledPair:
    """Two images, by hash, and the consensus on them.

    Attributes:
        same: True when they show one person.
        confidence: Share of the votes that agree, or the estimated probability that the label
            is right, 0..1.
        votes: The votes behind it.
    """

    sha256_a: str
    sha256_b: str
    same: bool
    confidence: float = 1.0
    votes: tuple[Vote, ...] = ()


def images_of(pairs: Iterable[LabelledPair]) -> frozenset[str]:
    """Hashes of the images of some pairs."""
    return frozenset(sha for pair in pairs for sha in (pair.sha256_a, pair.sha256_b))


class FeedbackSource(Protocol):
    """One frozen snapshot of the feedback."""

    @property
    def snapshot_id(self) -> str: ...

    def pairs(self) -> Iterator[LabelledPair]:
        """Give every pair with a consensus, the same ones in the same order each time."""

    def image(self, sha256: str) -> "FaceImage":
        """Fetch an image as it was sent.

        Raises:
            NotFound: If the snapshot does not hold it.
        """


@dataclass(frozen=True)
class ReferenceFaces:
    """Faces that the parent is good at, and the child must stay good at.

    Attributes:
        crops: uint8 N,112,112,3 BGR.
        persons: int64 N, who is on each crop.
        sha256: Name of what is stored of them; None where nothing needs to be.
    """

    crops: NDArray[np.uint8]
    persons: NDArray[np.int64]
    sha256: str | None = None


class EpochState(Protocol):
    """Where a job keeps what it needs to go on after a kill; one file, replaced whole."""

    def save(self, file: Path) -> None:
        """Keep the file's content durably in place of what was kept before."""

    def load(self, file: Path) -> bool:
        """Write what was kept to `file`; False when nothing was."""


class NoState:
    """Keeps nothing: for what is short, and the same when it is done again."""

    def save(self, file: Path) -> None:
        del file

    def load(self, file: Path) -> bool:
        del file
        return False


@dataclass(frozen=True)
class Progress:
    """Where a job stands.

    Attributes:
        fraction: Share of the work done, 0..1.
        message: For a person to read.
        figures: Numbers by name, for instance epoch, loss, images_per_second.
    """

    fraction: float
    message: str
    figures: Mapping[str, float] = field(default_factory=dict)


# Called at least once a training step; raising from it stops the training there.
Report = Callable[[Progress], None]


def stage(report: Report, message: str, start: float, end: float) -> Callable[[float], None]:
    """Make what reports the share done, 0..1, of a stage that lies between two fractions."""
    return lambda done: report(Progress(start + done * (end - start), message))


@dataclass(frozen=True)
class GateCheck:
    """One figure of a candidate held against its limit."""

    name: str
    passed: bool
    value: float
    limit: float
    detail: str


@dataclass(frozen=True)
class GateVerdict:
    """Whether a candidate may serve, and every check behind it."""

    checks: tuple[GateCheck, ...]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)


@dataclass(frozen=True)
class TrainingOutcome:
    """A finished training.

    Attributes:
        folder: The version's files, ready to publish.
        manifest: What `folder` holds.
        gate: The verdict; a refused candidate is published too, but not promoted.
        labels: What the training thinks of the labels it was given.
    """

    folder: Path
    manifest: Manifest
    gate: GateVerdict
    labels: "LabelReport"
