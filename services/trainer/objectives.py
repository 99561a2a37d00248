"""What a training step minimises, one objective a recipe."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn.functional import normalize

from services.trainer.losses import (
    Margins,
    hadsell_loss,
    magnitude_loss,
    margin_loss,
    mimicry_loss,
    ranking_loss,
)


class Objective(Protocol):
    """Judges a batch of features against its labels and against the parent."""

    def feedback(
        self, features: Tensor, parent: Tensor, genuine: Tensor, impostor: Tensor
    ) -> Tensor:
        """Loss on feedback images.

        Args:
            features: [B, D], the child's, not normalised.
            parent: [B, D], the parent's of the same images as they were sent.
            genuine: [B, B], see `losses`.
            impostor: [B, B], see `losses`.
        """

    def replay(self, features: Tensor, parent: Tensor) -> Tensor:
        """Loss on faces without labels that the child must see as the parent does."""


@dataclass(frozen=True, kw_only=True)
class CosineObjective:
    """Learns from the labels what the parent does not know, and keeps what it does.

    Attributes:
        margins: On both sides of the parent's threshold.
        ranking: Strength of `ranking_loss`, which finds the hard pairs by itself.
        temperature: Of the ranking.
        margin: Strength of `margin_loss`, which keeps the threshold where it is.
        compatibility: Strength of `ranking_loss` between the child's embedding of one
            image and the parent's of the other (Shen et al., CVPR 2020).
        mimicry: Strength of `mimicry_loss` on feedback images.
        replay_mimicry: Strength of `mimicry_loss` on replayed faces.
        magnitude: Strength of `magnitude_loss`.
    """

    margins: Margins
    ranking: float = 1.0
    temperature: float = 0.1
    margin: float = 1.0
    compatibility: float = 0.2
    mimicry: float = 0.5
    replay_mimicry: float = 8.0
    magnitude: float = 1.0

    def feedback(
        self, features: Tensor, parent: Tensor, genuine: Tensor, impostor: Tensor
    ) -> Tensor:
        """See `Objective.feedback`."""
        child, old = normalize(features), normalize(parent)
        similarity, across = child @ child.T, child @ old.T
        return (
            self.ranking * ranking_loss(similarity, genuine, impostor, self.temperature)
            + self.margin * margin_loss(similarity, genuine, impostor, self.margins)
            + self.compatibility * ranking_loss(across, genuine, impostor, self.temperature)
            + self.mimicry * mimicry_loss(child, old)
            + self.magnitude * magnitude_loss(features.norm(dim=1), parent.norm(dim=1))
        )

    def replay(self, features: Tensor, parent: Tensor) -> Tensor:
        """See `Objective.replay`."""
        return self.replay_mimicry * mimicry_loss(
            normalize(features), normalize(parent)
        ) + self.magnitude * magnitude_loss(features.norm(dim=1), parent.norm(dim=1))


@dataclass(frozen=True)
class HadsellObjective:
    """The seed's loss and nothing else.

    Attributes:
        margin: Euclidean distance of unit embeddings.
    """

    margin: float = 1.0

    def feedback(
        self, features: Tensor, parent: Tensor, genuine: Tensor, impostor: Tensor
    ) -> Tensor:
        """See `Objective.feedback`."""
        del parent
        child = normalize(features)
        return hadsell_loss(child @ child.T, genuine, impostor, self.margin)

    def replay(self, features: Tensor, parent: Tensor) -> Tensor:
        """Nothing: the seed has no replay."""
        del parent
        return features.new_zeros(())
