"""What the job runner hands to the learning, and what it gets back.

Free of torch, so that the trainer's server process can import it. The work itself is
`services.trainer.training.run.run_training`, which only the training child imports.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from services.trainer.data.label_report import LabelReport
from services.trainer.evaluation.gate import GateVerdict
from shared.errors import InvalidInput
from shared.model.manifest import Manifest


class Recipe(StrEnum):
    """Loss and its surroundings; see `services.trainer.training.losses`."""

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
    labels: LabelReport
