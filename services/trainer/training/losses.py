"""Losses and training objectives on a batch of distinct images.

Pairs are weights over all pairs of the batch: ``genuine[i, j]`` and ``impostor[i, j]`` are the
weights of images i and j as a genuine and as an impostor pair; 0 means no such pair. Both are
symmetric with an empty diagonal.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import normalize

_HADSELL_MARGIN = 1.0
# Distances of the margins from the threshold. A pair on the wrong side of the threshold is then
# always on the wrong side of its margin, and has a gradient.
_GENUINE_ABOVE = 0.4
_IMPOSTOR_BELOW = 0.2
_EPSILON = 1e-12


@dataclass(frozen=True)
class Margins:
    """Cosine similarities from which a pair has no loss.

    Attributes:
        genuine: Genuine pairs have no loss at or above it.
        impostor: Impostor pairs have no loss at or below it.
    """

    genuine: float
    impostor: float


def margins_around(threshold: float) -> Margins:
    """Return margins on both sides of a decision threshold, within -1..1.

    With a margin at the threshold or on its wrong side, pairs that are decided wrongly would
    have no loss and would never be corrected.
    """
    return Margins(min(threshold + _GENUINE_ABOVE, 1.0), max(threshold - _IMPOSTOR_BELOW, -1.0))


def hadsell_loss(
    similarity: Tensor, genuine: Tensor, impostor: Tensor, margin: float = _HADSELL_MARGIN
) -> Tensor:
    """Contrastive loss of Hadsell, Chopra and LeCun 2006, in the form of the seed script.

    ``d**2`` for genuine pairs and ``max(0, margin - d)**2`` for impostor pairs, averaged
    over all pairs, where ``d`` is the Euclidean distance of the unit embeddings.

    Args:
        similarity: [N, N], cosine similarities.
        genuine: [N, N], weights.
        impostor: [N, N], weights.
        margin: Distance from which impostor pairs have no loss.
    """
    squared = (2 - 2 * similarity).clamp_min(_EPSILON)
    shortfall = (margin - squared.sqrt()).clamp_min(0).square()
    total = (squared * genuine + shortfall * impostor).sum()
    return total / (genuine + impostor).sum().clamp_min(_EPSILON)


def margin_loss(similarity: Tensor, genuine: Tensor, impostor: Tensor, margins: Margins) -> Tensor:
    """Squared shortfall of genuine pairs plus squared excess of impostor pairs.

    Each class is averaged over its own pairs, so that the many impostor pairs of a batch do not
    outweigh the few genuine ones.

    Args:
        similarity: [N, M], cosine similarities.
        genuine: [N, M], weights.
        impostor: [N, M], weights.
        margins: Similarities from which a pair has no loss.
    """
    shortfall = (margins.genuine - similarity).clamp_min(0).square()
    excess = (similarity - margins.impostor).clamp_min(0).square()
    return _weighted_mean(shortfall, genuine) + _weighted_mean(excess, impostor)


def info_nce(similarity: Tensor, genuine: Tensor, impostor: Tensor, temperature: float) -> Tensor:
    """InfoNCE: cross-entropy of choosing the genuine partner of an image among its impostors.

    Van den Oord et al. 2018. Hard impostor and hard genuine pairs get the largest gradients.

    Args:
        similarity: [N, M], cosine similarities of N images with M others.
        genuine: [N, M], weights of the pairs in the mean.
        impostor: [N, M], weights of the impostors in the softmax.
        temperature: Difference of similarity that changes a softmax weight by the factor e.
    """
    logits = similarity / temperature
    # The logarithm must stay finite: a row without impostors would have a gradient of NaN.
    impostors = torch.logsumexp(logits + impostor.clamp_min(_EPSILON**2).log(), dim=1, keepdim=True)
    return _weighted_mean(functional.softplus(impostors - logits), genuine)


def distillation_loss(embeddings: Tensor, parent: Tensor) -> Tensor:
    """Mean squared distance of unit embeddings from the parent's of the same images.

    Args:
        embeddings: [N, D], unit.
        parent: [N, D], unit.
    """
    return (embeddings - parent).square().sum(dim=1).mean()


def magnitude_loss(magnitudes: Tensor, parent: Tensor) -> Tensor:
    """Mean squared log ratio of the magnitudes to the parent's of the same images, both [N]."""
    return (magnitudes / parent).log().square().mean()


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(_EPSILON)


class Objective(Protocol):
    """Loss of a training: on labelled images, and on replayed faces."""

    def feedback(
        self, features: Tensor, parent: Tensor, genuine: Tensor, impostor: Tensor
    ) -> Tensor:
        """Loss on a batch of feedback images.

        Args:
            features: [B, D], the candidate's features, not normalised.
            parent: [B, D], the parent's features of the same images without augmentation.
            genuine: [B, B], weights; see the module.
            impostor: [B, B], weights; see the module.
        """

    def replay(self, features: Tensor, parent: Tensor) -> Tensor:
        """Loss on replayed faces, which have no labels.

        Args:
            features: [R, D], the candidate's features, not normalised.
            parent: [R, D], the target features.
        """


@dataclass(frozen=True, kw_only=True)
class CosineObjective:
    """Losses on cosine similarities for the labels, and distillation from the parent.

    Attributes:
        margins: Margins on both sides of the parent's threshold.
        info_nce: Weight of `info_nce`, which gives hard pairs the largest gradients.
        temperature: Temperature of `info_nce`.
        margin: Weight of `margin_loss`, which keeps the threshold where it is.
        compatibility: Weight of `info_nce` between the candidate's embedding of one image and
            the parent's of the other (Shen et al., CVPR 2020).
        distillation: Weight of `distillation_loss` on feedback images.
        replay_distillation: Weight of `distillation_loss` on replayed faces.
        magnitude: Weight of `magnitude_loss`.
    """

    margins: Margins
    info_nce: float = 1.0
    temperature: float = 0.1
    margin: float = 1.0
    compatibility: float = 1.0
    distillation: float = 0.5
    replay_distillation: float = 8.0
    magnitude: float = 1.0

    def feedback(
        self, features: Tensor, parent: Tensor, genuine: Tensor, impostor: Tensor
    ) -> Tensor:
        """See `Objective.feedback`."""
        child, old = normalize(features), normalize(parent)
        similarity, across = child @ child.T, child @ old.T
        return (
            self.info_nce * info_nce(similarity, genuine, impostor, self.temperature)
            + self.margin * margin_loss(similarity, genuine, impostor, self.margins)
            + self.compatibility * info_nce(across, genuine, impostor, self.temperature)
            + self.distillation * distillation_loss(child, old)
            + self.magnitude * magnitude_loss(features.norm(dim=1), parent.norm(dim=1))
        )

    def replay(self, features: Tensor, parent: Tensor) -> Tensor:
        """See `Objective.replay`."""
        return self.replay_distillation * distillation_loss(
            normalize(features), normalize(parent)
        ) + self.magnitude * magnitude_loss(features.norm(dim=1), parent.norm(dim=1))


@dataclass(frozen=True)
class HadsellObjective:
    """The loss of the seed script alone, without replay.

    Attributes:
        margin: Margin of `hadsell_loss`.
    """

    margin: float = _HADSELL_MARGIN

    def feedback(
        self, features: Tensor, parent: Tensor, genuine: Tensor, impostor: Tensor
    ) -> Tensor:
        """See `Objective.feedback`."""
        del parent
        child = normalize(features)
        return hadsell_loss(child @ child.T, genuine, impostor, self.margin)

    def replay(self, features: Tensor, parent: Tensor) -> Tensor:
        """Return 0: the seed script has no replay."""
        del parent
        return features.new_zeros(())
