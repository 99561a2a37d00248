"""Training specification and outcome.

Imports no torch, so that the trainer's server can use it. `services.trainer.training.run` does
the work, and only the worker imports it.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from services.trainer.data.label_report import LabelReport
from services.trainer.data.left_out import LeftOut
from services.trainer.evaluation.gate import GateVerdict
from shared.errors import InvalidInput
from shared.model.manifest import Manifest


class TrainingRecipe(StrEnum):
    """Objective and hyperparameters; see `services.trainer.training.recipes`."""

    COSINE = "cosine"
    HADSELL = "hadsell"


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """How to fine-tune a version; docs/learning.md measures the defaults.

    Attributes:
        job_id: The job; the new version's name contains it.
        parent_version: Model version to start from.
        epochs: Passes over the training images.
        learning_rate: Peak learning rate of AdamW; None for the recipe's.
        batch_size: Labelled pairs per step; the cosine recipe takes twice as many images.
        genuine_margin: Cosine similarity from which a genuine pair has no loss; None derives
            it from the parent's threshold.
        impostor_margin: Cosine similarity up to which an impostor pair has no loss; None
            derives it from the parent's threshold.
        seed: Seed of the split, the order and the augmentation.
        recipe: The recipe.
        target_fmr: False-match rate at which the result is compared with the parent; None if no
            operating point is set.

    Raises:
        InvalidInput: If an option is out of its range; names the option.
    """

    job_id: str
    parent_version: str
    epochs: int = 8
    learning_rate: float | None = None
    batch_size: int = 18
    genuine_margin: float | None = None
    impostor_margin: float | None = None
    seed: int = 0
    recipe: TrainingRecipe = TrainingRecipe.COSINE
    target_fmr: float | None = None

    def __post_init__(self) -> None:
        _require_range("options.epochs", self.epochs, 1, 1000)
        if self.learning_rate is not None:
            _require_range("options.learning_rate", self.learning_rate, 1e-8, 1.0)
        _require_range("options.batch_size", self.batch_size, 2, 1024)
        for name in ("genuine_margin", "impostor_margin"):
            margin = getattr(self, name)
            if margin is not None:
                _require_range(f"options.{name}", margin, -1.0, 1.0)
                if self.recipe is TrainingRecipe.HADSELL:
                    raise InvalidInput(f"options.{name}", "the hadsell recipe has no such margin")
        _require_range("options.seed", self.seed, 0, 2**63 - 1)
        if self.target_fmr is not None:
            _require_range("target_fmr", self.target_fmr, 1e-9, 0.5)


@dataclass(frozen=True)
class TrainingOutcome:
    """The result of a training.

    Attributes:
        folder: The version's files, ready to publish.
        manifest: Manifest in `folder`.
        gate: The gate's verdict; a version that fails is published too, but not promoted.
        labels: Report on the labels of the feedback.
        left_out: What of the feedback was not used.
    """

    folder: Path
    manifest: Manifest
    gate: GateVerdict
    labels: LabelReport
    left_out: LeftOut


def _require_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidInput(name, f"{value} is outside {low}..{high}")
