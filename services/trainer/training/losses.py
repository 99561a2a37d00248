"""Losses on a batch in which every distinct image was embedded once.

Pairs are given as weights over all couples of the batch: ``genuine[i, j]`` and
``impostor[i, j]`` say how much it counts that i and j are the same person, or that they
are not; 0 means the couple is no such pair. Both are symmetric with an empty diagonal.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import normalize

SEED_MARGIN = 1.0
# Far enough from the threshold that a pair on its wrong side always has a gradient.
_GENUINE_ABOVE = 0.4
_IMPOSTOR_BELOW = 0.2
_EPSILON = 1e-12


@dataclass(frozen=True)
class Margins:
    """Cosine similarities between which a pair still costs something.

    Attributes:
        genuine: A genuine pair at or above it costs nothing.
        impostor: An impostor pair at or below it costs nothing.
    """

    genuine: float
    impostor: float


def margins_around(threshold: float) -> Margins:
    """Margins on both sides of a decision threshold, within -1..1.

    With a margin on the threshold itself, or on its wrong side, pairs that are decided
    wrongly cost nothing and are never corrected.
    """
    return Margins(min(threshold + _GENUINE_ABOVE, 1.0), max(threshold - _IMPOSTOR_BELOW, -1.0))


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(_EPSILON)


def hadsell_loss(
    similarity: Tensor, genuine: Tensor, impostor: Tensor, margin: float = SEED_MARGIN
) -> Tensor:
    """The contrastive loss of Hadsell, Chopra and LeCun 2006, as the seed writes it.

    ``d**2`` for genuine pairs and ``max(0, margin - d)**2`` for impostor pairs, averaged
    over all pairs, where ``d`` is the Euclidean distance of the unit embeddings.

    Args:
        similarity: [N, N], cosines.
        genuine: [N, N], weights.
        impostor: [N, N], weights.
        margin: Distance from which impostors cost nothing.
    """
    squared = (2 - 2 * similarity).clamp_min(_EPSILON)
    short = (margin - squared.sqrt()).clamp_min(0).square()
    total = (squared * genuine + short * impostor).sum()
    return total / (genuine + impostor).sum().clamp_min(_EPSILON)


def margin_loss(similarity: Tensor, genuine: Tensor, impostor: Tensor, margins: Margins) -> Tensor:
    """Squared shortfall of genuine pairs plus squared excess of impostor pairs.

    Each class is averaged over its own pairs, so that the many impostors of a batch do
    not drown the few genuine pairs.

    Args:
        similarity: [N, M], cosines.
        genuine: [N, M], weights.
        impostor: [N, M], weights.
        margins: Where a pair stops to cost.
    """
    shortfall = (margins.genuine - similarity).clamp_min(0).square()
    excess = (similarity - margins.impostor).clamp_min(0).square()
    return _weighted_mean(shortfall, genuine) + _weighted_mean(excess, impostor)


def ranking_loss(
    similarity: Tensor, genuine: Tensor, impostor: Tensor, temperature: float
) -> Tensor:
    """Every genuine pair should be more similar than all impostors of its first image.

    The cross-entropy of picking the genuine partner among the impostors (InfoNCE, van den
    Oord et al. 2018): hard impostors and hard genuine pairs get the largest gradients.

    Args:
        similarity: [N, M], cosines of N images with M others.
        genuine: [N, M], weights; a pair's share of the mean.
        impostor: [N, M], weights; how often a rival counts.
        temperature: Similarity difference by which a rival counts e times less.
    """
    logits = similarity / temperature
    # The logarithm stays finite: a row without impostors would make the gradient NaN.
    rivals = torch.logsumexp(logits + impostor.clamp_min(_EPSILON**2).log(), dim=1, keepdim=True)
    return _weighted_mean(functional.softplus(rivals - logits), genuine)


def mimicry_loss(embeddings: Tensor, parent: Tensor) -> Tensor:
    """Mean squared distance of unit embeddings from the parent's of the same images.

    Args:
        embeddings: [N, D], unit.
        parent: [N, D], unit.
    """
    return (embeddings - parent).square().sum(dim=1).mean()


def magnitude_loss(magnitudes: Tensor, parent: Tensor) -> Tensor:
    """Mean squared log ratio of the magnitudes to the parent's of the same images, both [N]."""
    return (magnitudes / parent).log().square().mean()


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
