"""Step back towards the parent: how much of a training is kept, chosen on validation people."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.arrays import FeatureArray
from services.trainer.data.splits import EvaluationPairs
from services.trainer.evaluation.candidate_figures import GainWithinChance
from services.trainer.evaluation.candidate_metrics import score_pairs
from services.trainer.evaluation.paired_errors import area_under_roc
from services.trainer.training.distributed import broadcast
from services.trainer.training.weight_averaging import interpolate
from shared.evaluation.operating_point import (
    PeopleBootstrap,
    ScoredPeople,
    threshold_for,
)
from shared.model.network.iresnet import IResNet
from shared.model.operating_curve import FEWEST_MATCHES

# Shares of the parent's weights to choose from, beside the parent itself. 0 is the training as it
# ended.
_STEPS = (0.0, 0.15, 0.3, 0.5, 0.75)
_BOOTSTRAP_ROUNDS = 100
# Multiples of the target FMR at which FNMR is averaged: at one rate alone it varies more.
_AROUND = (0.3, 0.55, 1.0, 1.8, 3.2)


@dataclass(frozen=True)
class StepBack:
    """How much of a training was kept.

    Attributes:
        share: Share of the parent's weights in the result; 1 is the parent itself.
        gain: Gain of the best step over the parent on the validation people in the area under the
            ROC curve; may be below 0.
        noise: Standard error of `gain` over the validation people.
        people: Validation people with a genuine pair.
    """

    share: float
    gain: float
    noise: float
    people: int

    @property
    def within_chance(self) -> GainWithinChance | None:
        """What the training may have gained although the parent was kept; None for nothing."""
        found = GainWithinChance(self.gain, self.noise, self.people)
        hidden = self.share == 1 and self.gain <= self.noise and found.high > 0
        return found if hidden else None

    def describe(self) -> str:
        """Say what was kept, for the job's messages."""
        gained = f"a gain of AUC of {self.gain:.4f} ± {self.noise:.4f} on the validation people"
        if self.share < 1:
            return f"keeping {1 - self.share:.0%} of the training: {gained}"
        if self.within_chance is not None:
            why = "is within chance"
        elif self.gain > self.noise:
            why = "comes with a higher FNMR around the target"
        else:
            why = "shows nothing"
        return f"keeping the parent as it is: {gained} {why}"


def step_back(
    network: IResNet,
    parent: IResNet,
    features: Callable[[IResNet], FeatureArray],
    pairs: EvaluationPairs,
    *,
    target_fmr: float | None,
    seed: int,
) -> StepBack:
    """Move a trained network in place towards its parent, by the share that scores best (WiSE-FT).

    Wortsman et al., CVPR 2022, "Robust fine-tuning of zero-shot models". The parent itself is one
    of the choices. It is taken unless the gain over it exceeds the standard error of that gain, so
    that a training from which nothing was learned changes nothing. The area under the ROC curve
    chooses, because on few people it varies far less than the FNMR at one FMR; steps whose FNMR
    around the target is above the parent's are left out, and so are those that do worse beside the
    parent's stored embeddings, if any does not.

    With several processes each of them calls this, and all choose the same.

    Args:
        network: The trained network.
        parent: The network before the training.
        features: Computes a network's features of the N images, float32 [N, D].
        pairs: Pairs of the validation people, positions among these images.
        target_fmr: FMR around which a step must not be worse; None for none. If there are too few
            impostor pairs for it, the lowest FMR that they can place is taken.
        seed: Seed of the bootstrap.
    """
    trained = {name: value.clone() for name, value in network.state_dict().items()}

    def move(share: float) -> None:
        network.load_state_dict(trained)
        interpolate(network, parent, share)

    def moved(share: float) -> FeatureArray:
        move(share)
        return features(network)

    def scored(found: FeatureArray) -> _Step:
        own = ScoredPeople.of(score_pairs(pairs, found), pairs.people)
        mixed = score_pairs(pairs, found, stored)
        return _Step(own, mixed.similarity[mixed.genuine])

    stored = features(parent)
    steps = {share: scored(moved(share)) for share in _STEPS} | {1.0: scored(stored)}
    chosen = broadcast(_choose(steps, target_fmr, seed))
    move(chosen.share)
    return chosen


@dataclass(frozen=True)
class _Step:
    """Scores of one step.

    Attributes:
        own: Scored pairs of the validation people.
        mixed: float64 (2 G,), similarities of their genuine pairs with one of the two embeddings
            stored by the parent.
    """

    own: ScoredPeople
    mixed: NDArray[np.float64]

    def mean_fnmr(self, fmrs: Sequence[float]) -> tuple[float, float]:
        """Return the mean FNMR at some FMRs: of its own embeddings, and beside stored ones."""
        thresholds = [threshold_for(self.own.impostor_similarity, fmr) for fmr in fmrs]
        own, mixed = (
            float(np.mean([(similarity < threshold).mean() for threshold in thresholds]))
            for similarity in (self.own.genuine_similarity, self.mixed)
        )
        return own, mixed


def _choose(steps: dict[float, _Step], target_fmr: float | None, seed: int) -> StepBack:
    parent = steps[1.0].own
    areas = {share: area_under_roc(step.own) for share, step in steps.items()}
    eligible = _STEPS if target_fmr is None else _no_worse(steps, _placeable(target_fmr, parent))
    best = max(eligible or _STEPS, key=lambda share: (areas[share], share))
    gain = areas[best] - areas[1.0]
    bootstrap = PeopleBootstrap(parent, seed, _BOOTSTRAP_ROUNDS)
    rounds = [
        bootstrap.auc(each.genuine_similarity, each.impostor_similarity)
        for each in (steps[best].own, parent)
    ]
    noise = float(np.nanstd(rounds[0] - rounds[1]))
    kept = best if eligible and gain > noise else 1.0
    return StepBack(kept, gain, noise, parent.genuine_evidence().people)


def _no_worse(steps: dict[float, _Step], fmrs: Sequence[float]) -> Sequence[float]:
    """Return the steps whose FNMR is not above the parent's, beside stored embeddings as well.

    If all are worse beside stored embeddings, those are returned that are not worse by themselves.
    """
    fnmr = {share: step.mean_fnmr(fmrs) for share, step in steps.items()}
    limit, _ = fnmr[1.0]
    alone = [share for share in _STEPS if fnmr[share][0] <= limit]
    return [share for share in alone if fnmr[share][1] <= limit] or alone


def _placeable(target_fmr: float, pairs: ScoredPeople) -> tuple[float, ...]:
    lowest = FEWEST_MATCHES / pairs.scores.impostor_pairs
    return tuple(min(max(factor * target_fmr, lowest), 0.5) for factor in _AROUND)
