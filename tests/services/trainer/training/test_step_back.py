"""The step back towards the parent: which share of a training is kept, and when none is."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from services.trainer.data.arrays import FeatureArray
from services.trainer.data.splits import EvaluationPairs
from services.trainer.evaluation.candidate_figures import GainWithinChance
from services.trainer.training.step_back import StepBack, step_back
from shared.model.network.iresnet import IResNet, IResNetSpec

PEOPLE, IMAGES = 40, 3
PERSON = np.repeat(np.arange(PEOPLE), IMAGES)
DIRECTIONS = np.random.default_rng(0).normal(size=(PEOPLE, 32))


def network(seed: int) -> IResNet:
    torch.manual_seed(seed)
    return IResNet(IResNetSpec((1,) * 4, widths=(4, 4, 4, 8, 8), embedding_size=8)).eval()


def all_pairs() -> EvaluationPairs:
    pairs = np.stack(np.triu_indices(len(PERSON), 1), axis=1)
    people = PERSON[pairs].astype(np.int32)
    return EvaluationPairs(pairs, people[:, 0] == people[:, 1], people)


def share_of_parent(moved: IResNet, trained: torch.Tensor, parent: torch.Tensor) -> float:
    gap = (parent - trained).norm()
    return round(float((moved.fc.weight.detach() - trained).norm() / gap), 3)


def step(make: Callable[[float], FeatureArray], target_fmr: float | None) -> StepBack:
    """Step back where `make` gives the features by the share of the parent's weights.

    Checks that the network has the weights of the share that is returned.
    """
    trained, parent = network(0), network(1)
    before = trained.fc.weight.detach().clone()
    target = parent.fc.weight.detach()
    kept = step_back(
        trained,
        parent,
        lambda moved: make(share_of_parent(moved, before, target)),
        all_pairs(),
        target_fmr=target_fmr,
        seed=0,
    )
    assert share_of_parent(trained, before, target) == pytest.approx(kept.share, abs=1e-3)
    if kept.share == 1:
        for one, other in zip(trained.parameters(), parent.parameters(), strict=True):
            assert torch.equal(one, other)
    return kept


def faces(noise: float, seed: int) -> FeatureArray:
    """Features of people, the less alike for one person the larger the noise."""
    spread = np.random.default_rng(seed).normal(size=(len(PERSON), DIRECTIONS.shape[1]))
    return (DIRECTIONS[PERSON] + noise * spread).astype(np.float32)


@pytest.mark.parametrize("target_fmr", [None, 1e-2, 1e-6])
def test_the_share_that_scores_best_is_kept(target_fmr: float | None) -> None:
    noise = {0.0: 1.4, 0.15: 1.2, 0.3: 0.6, 0.5: 1.0, 0.75: 1.2, 1.0: 1.4}
    kept = step(lambda share: faces(noise[share], 0), target_fmr)
    assert kept.share == 0.3
    assert kept.gain > 2 * kept.noise > 0
    assert kept.within_chance is None
    assert "keeping 70% of the training" in kept.describe()


@pytest.mark.parametrize("target_fmr", [None, 1e-2])
def test_a_training_that_is_worse_or_the_same_leaves_the_parent(target_fmr: float | None) -> None:
    worse = step(lambda share: faces(1.8 - 0.6 * share, 0), target_fmr)
    assert (worse.share, worse.within_chance) == (1, None)
    assert worse.gain < 0
    same = step(lambda _: faces(1.5, 0), target_fmr)
    assert (same.share, same.gain, same.within_chance) == (1, 0, None)
    assert "keeping the parent as it is" in same.describe()


@pytest.mark.parametrize("seed", [1, 3])
def test_what_may_have_been_gained_on_few_people_is_named(seed: int) -> None:
    kept = step(lambda share: faces(1.4, 0) if share == 1 else faces(1.5, seed), None)
    assert kept.share == 1
    assert kept.gain < kept.noise
    assert kept.within_chance == GainWithinChance(kept.gain, kept.noise, PEOPLE)
    assert "within chance" in kept.describe()


def test_a_step_that_no_longer_matches_stored_embeddings_is_left_out() -> None:
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(32, 32)))

    def make(share: float, rotated_below: float) -> FeatureArray:
        made = faces(1.4 if share == 1 else 0.6 + 0.1 * share, 0)
        return made @ rotation.astype(np.float32) if share < rotated_below else made

    assert step(lambda share: make(share, 0.0), 1e-2).share == 0
    assert step(lambda share: make(share, 0.4), 1e-2).share == 0.5
    # Where no step matches them, the gate has to say so.
    assert step(lambda share: make(share, 0.9), 1e-2).share == 0


def test_a_gain_elsewhere_than_at_the_operating_point_is_none() -> None:
    """A few impostors become very similar, so the AUC rises and the operating point suffers."""

    def make(share: float) -> FeatureArray:
        made = faces(1.1 if share == 1 else 0.7, 0)
        if share < 1:
            # Ten people come to look alike: 1 pair in 19, far above the target FMR.
            twins = np.flatnonzero(PERSON < 10)
            made[twins] = DIRECTIONS[0] + 0.5 * made[twins]
        return made

    assert step(make, None).share < 1
    kept = step(make, 1e-2)
    assert (kept.share, kept.within_chance) == (1, None)
    assert "comes with a higher FNMR around the target" in kept.describe()
