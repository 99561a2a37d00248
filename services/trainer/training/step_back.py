"""Step back towards the parent: how much of a training is kept, chosen on validation people."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.trainer.data.arrays import FeatureArray
from services.trainer.data.splits import EvaluationPairs
from services.trainer.evaluation.candidate_metrics import score_pairs
from services.trainer.training.distributed import broadcast
from services.trainer.training.weight_averaging import interpolate
from shared.evaluation.metrics import Weights, identity_bootstrap, roc
from shared.evaluation.scores import Scores
from shared.model.network.iresnet import IResNet

# Shares of the parent's weights to choose from. 0 is the training as it ended, 1 the parent.
_SHARES = (0.0, 0.15, 0.3, 0.5, 0.75, 1.0)
_BOOTSTRAP_ROUNDS = 100
# Impostor pairs that must lie above a threshold to place it: with fewer, a single pair moves it.
_FEWEST_ABOVE = 10


@dataclass(frozen=True)
class StepBack:
    """How much of a training was kept.

    Attributes:
        share: Share of the parent's weights in the result; 1 is the parent itself.
        gain: Gain of the best step over the parent on the validation people: of 1 - FNMR at the
            target FMR, or of the AUC if no target is set.
        noise: Standard error of `gain` over the validation people.
    """

    share: float
    gain: float
    noise: float

    def describe(self) -> str:
        """Say what was kept, for the job's messages."""
        gained = f"a gain of {self.gain:.4f} ± {self.noise:.4f} on the validation people"
        if self.share == 1:
            return f"keeping the parent as it is: {gained} is within chance"
        return f"keeping {1 - self.share:.0%} of the training: {gained}"


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

    def scored(share: float) -> Scores:
        move(share)
        return score_pairs(pairs, features(network))

    steps = {share: scored(share) for share in _SHARES}
    chosen = broadcast(_choose(steps, pairs, target_fmr, seed))
    move(chosen.share)
    return chosen


def _choose(
    steps: dict[float, Scores], pairs: EvaluationPairs, target_fmr: float | None, seed: int
) -> StepBack:
    fmr = None if target_fmr is None else _placeable(target_fmr, pairs)
    best = max(steps, key=lambda share: (_score(steps[share], fmr), share))
    gain = _score(steps[best], fmr) - _score(steps[1.0], fmr)
    drawn = [
        _score(steps[best], fmr, weights) - _score(steps[1.0], fmr, weights)
        for weights in identity_bootstrap(pairs.people, pairs.genuine, _BOOTSTRAP_ROUNDS, seed)
    ]
    noise = float(np.std(drawn))
    return StepBack(best if gain > noise else 1.0, gain, noise)


def _placeable(target_fmr: float, pairs: EvaluationPairs) -> float:
    impostors = int((~pairs.genuine).sum())
    return min(max(target_fmr, _FEWEST_ABOVE / impostors), 0.5)


def _score(scores: Scores, fmr: float | None, weights: Weights | None = None) -> float:
    curve = roc(scores, weights)
    return curve.auc if fmr is None else curve.at_far(fmr)[1]
