"""Paired comparison of two models on the same pairs."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from shared.datasets.pairs import PairSet
from shared.errors import InvalidInput
from shared.evaluation.bootstrap import differences
from shared.evaluation.measure import Measurement
from shared.evaluation.results import ChangedPair, Changes, Comparison, Difference, McNemar


def mcnemar(old_right: NDArray[np.bool_], new_right: NDArray[np.bool_]) -> McNemar:
    """Compare decisions pair by pair (McNemar 1947, exact binomial form).

    Args:
        old_right: (P,), whether the old model decides each pair correctly.
        new_right: (P,), the same for the new model.
    """
    fixed = int((~old_right & new_right).sum())
    broken = int((old_right & ~new_right).sum())
    changed = fixed + broken
    p_value = binomtest(fixed, changed, 0.5).pvalue if changed else 1.0
    return McNemar(fixed=fixed, broken=broken, p_value=float(p_value))


def compare(old: Measurement, new: Measurement, pair_set: PairSet) -> Changes:
    """Compare two models that were measured on the same pairs with the same bootstrap seed.

    Raises:
        InvalidInput: If the labels differ, so the pairs are not the same.
    """
    if not np.array_equal(old.scores.genuine, new.scores.genuine):
        raise InvalidInput("scores", "both models must be measured on the same pairs")
    genuine = new.scores.genuine
    old_right = old.scores.decisions(old.evaluation.threshold) == genuine
    new_right = new.scores.decisions(new.evaluation.threshold) == genuine
    shift = new.scores.similarity - old.scores.similarity
    return Changes(
        comparison=Comparison(
            mcnemar=mcnemar(old_right, new_right),
            differences=_differences(old, new),
            genuine_shift=float(shift[genuine].mean()) if genuine.any() else None,
            impostor_shift=float(shift[~genuine].mean()) if not genuine.all() else None,
        ),
        fixed=_changed(np.flatnonzero(~old_right & new_right), old, new, pair_set),
        broken=_changed(np.flatnonzero(old_right & ~new_right), old, new, pair_set),
    )


def _differences(old: Measurement, new: Measurement) -> dict[str, Difference]:
    values = {}
    for name in new.samples:
        before, after = old.evaluation.figure(name), new.evaluation.figure(name)
        if before is not None and after is not None:
            values[name] = after - before
    return differences(old.samples, new.samples, values)


def _changed(
    pairs: NDArray[np.intp], old: Measurement, new: Measurement, pair_set: PairSet
) -> tuple[ChangedPair, ...]:
    """Describe pairs, sorted by the change of their similarity, largest first."""
    moved = np.abs(new.scores.similarity[pairs] - old.scores.similarity[pairs])
    changed = []
    for pair in pairs[np.argsort(-moved, kind="stable")].tolist():
        first, second = pair_set.pairs[pair].tolist()
        changed.append(
            ChangedPair(
                pair=pair,
                genuine=bool(new.scores.genuine[pair]),
                images=(pair_set.name(first), pair_set.name(second)),
                old_similarity=float(old.scores.similarity[pair]),
                similarity=float(new.scores.similarity[pair]),
            )
        )
    return tuple(changed)
