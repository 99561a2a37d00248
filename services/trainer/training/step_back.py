"""Step back towards the parent: how much of a training is kept, chosen on validation people."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.trainer.data.arrays import FeatureArray
from services.trainer.data.splits import EvaluationPairs
from services.trainer.evaluation.candidate_figures import GainWithinChance
from services.trainer.evaluation.candidate_metrics import score_pairs
from services.trainer.evaluation.paired_errors import area_under_roc
from services.trainer.training.distributed import broadcast
from services.trainer.training.weight_averaging import interpolate
from shared.evaluation.operating_point import (
    PeopleBootstrap,
    RoundRates,
    ScoredPeople,
    threshold_for,
)
from shared.model.network.iresnet import IResNet
from shared.model.operating_curve import FEWEST_MATCHES

# Shares of the parent's weights to choose from, beside the parent itself. 0 is the training as it
# ended.
_STEPS = (0.0, 0.15, 0.3, 0.5, 0.75)
_BOOTSTRAP_ROUNDS = 100


@dataclass(frozen=True)
class StepBack:
    """How much of a training was kept.

    Attributes:
        share: Share of the parent's weights in the result; 1 is the parent itself.
        gain: Gain of the best step over the parent on the validation people, which may be below 0:
            of 1 - FNMR at the target FMR, or of the AUC if no target is set.
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
        return found if self.share == 1 and found.high > 0 else None

    def describe(self) -> str:
        """Say what was kept, for the job's messages."""
        gained = f"a gain of {self.gain:.4f} ± {self.noise:.4f} on the validation people"
        if self.share < 1:
            return f"keeping {1 - self.share:.0%} of the training: {gained}"
        why = "shows nothing" if self.within_chance is None else "is within chance"
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
    that a training from which nothing was learned changes nothing.

    With several processes each of them calls this, and all choose the same.

    Args:
        network: The trained network.
        parent: The network before the training.
        features: Computes a network's features of the N images, float32 [N, D].
        pairs: Pairs of the validation people, positions among these images.
        target_fmr: FMR to compare at; None to compare the areas under the ROC curves. If there
            are too few impostor pairs for it, the lowest FMR that they can place is taken.
        seed: Seed of the bootstrap.
    """
    trained = {name: value.clone() for name, value in network.state_dict().items()}

    def move(share: float) -> None:
        network.load_state_dict(trained)
        interpolate(network, parent, share)

    def scored(share: float) -> ScoredPeople:
        move(share)
        return ScoredPeople.of(score_pairs(pairs, features(network)), pairs.people)

    chosen = broadcast(
        _choose({share: scored(share) for share in (*_STEPS, 1.0)}, target_fmr, seed)
    )
    move(chosen.share)
    return chosen


def _choose(steps: dict[float, ScoredPeople], target_fmr: float | None, seed: int) -> StepBack:
    parent = steps[1.0]
    fmr = None if target_fmr is None else _placeable(target_fmr, parent)
    values = {share: _score(scored, fmr) for share, scored in steps.items()}
    best = max(_STEPS, key=lambda share: (values[share], share))
    gain = values[best] - values[1.0]
    bootstrap = PeopleBootstrap(parent, seed, _BOOTSTRAP_ROUNDS)
    drawn = _rounds(bootstrap, steps[best], fmr) - _rounds(bootstrap, parent, fmr)
    noise = float(np.nanstd(drawn))
    people = parent.genuine_evidence().people
    return StepBack(best if gain > noise else 1.0, gain, noise, people)


def _placeable(target_fmr: float, pairs: ScoredPeople) -> float:
    return min(max(target_fmr, FEWEST_MATCHES / pairs.scores.impostor_pairs), 0.5)


def _score(pairs: ScoredPeople, fmr: float | None) -> float:
    """Return the share of accepted genuine pairs at an FMR, or the area under the ROC curve."""
    if fmr is None:
        return area_under_roc(pairs)
    threshold = threshold_for(pairs.impostor_similarity, fmr)
    return float((pairs.genuine_similarity >= threshold).mean())


def _rounds(bootstrap: PeopleBootstrap, pairs: ScoredPeople, fmr: float | None) -> RoundRates:
    """Return the same in each round."""
    genuine, impostor = pairs.genuine_similarity, pairs.impostor_similarity
    if fmr is None:
        return bootstrap.auc(genuine, impostor)
    return 1 - bootstrap.fnmr_at(genuine, bootstrap.thresholds(impostor, fmr))
