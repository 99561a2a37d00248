import numpy as np
import pytest

from shared.errors import InvalidInput
from shared.evaluation.calibration import (
    best_accuracy_threshold,
    far_threshold,
    fit_probability,
)
from shared.evaluation.metrics import confusion
from shared.evaluation.scores import Scores


def overlapping(pairs: int, seed: int = 0) -> Scores:
    generator = np.random.default_rng(seed)
    genuine = np.arange(pairs) % 2 == 0
    return Scores(generator.normal(np.where(genuine, 0.5, 0.1), 0.15), genuine)


def test_threshold_of_best_accuracy_is_near_the_theoretical_one() -> None:
    assert best_accuracy_threshold(overlapping(20_000)) == pytest.approx(0.3, abs=0.03)


def test_far_threshold_holds_on_its_set_and_nearly_on_another() -> None:
    threshold = far_threshold(overlapping(20_000), 0.01)
    assert confusion(overlapping(20_000), threshold).fp <= 100
    unseen = confusion(overlapping(20_000, seed=1), threshold)
    assert unseen.fp / 10_000 == pytest.approx(0.01, abs=0.004)


def test_far_beyond_the_impostor_pairs_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 10000 impostor pairs; there are 50"):
        far_threshold(overlapping(100), 1e-4)


def test_probability_is_what_happens() -> None:
    curve = fit_probability(overlapping(20_000))
    unseen = overlapping(20_000, seed=2)
    said = curve(unseen.similarity)
    for low in (0.1, 0.4, 0.7):
        inside = (said >= low) & (said < low + 0.2)
        assert unseen.genuine[inside].mean() == pytest.approx(said[inside].mean(), abs=0.04)


def test_probability_ignores_how_many_of_each_class_were_seen() -> None:
    scores = overlapping(20_000)
    kept = scores.genuine | (np.arange(len(scores)) % 10 == 1)
    few_impostors = Scores(scores.similarity[kept], scores.genuine[kept])
    at = np.array([0.2, 0.3, 0.4])
    assert fit_probability(few_impostors)(at) == pytest.approx(
        fit_probability(scores)(at), abs=0.03
    )
