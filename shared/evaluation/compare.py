"""Two model versions on the same pairs: is one better, or was it luck?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from shared.errors import InvalidInput
from shared.evaluation.scores import Scores


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test on paired decisions.

    Attributes:
        fixed: Pairs that the old version had wrong and the new has right.
        broken: Pairs that the old version had right and the new has wrong.
        p_value: Chance of a split at least this uneven, either way, if both were equally good.
    """

    fixed: int
    broken: int
    p_value: float


def mcnemar(old_right: NDArray[np.bool_], new_right: NDArray[np.bool_]) -> McNemar:
    """Compare decisions pair by pair (McNemar 1947, exact binomial form).

    Args:
        old_right: (P,), whether the old version decided each pair rightly.
        new_right: (P,), the same of the new version.
    """
    fixed = int((~old_right & new_right).sum())
    broken = int((old_right & ~new_right).sum())
    changed = fixed + broken
    p_value = binomtest(fixed, changed, 0.5).pvalue if changed else 1.0
    return McNemar(fixed, broken, float(p_value))


@dataclass(frozen=True)
class Comparison:
    """What changed from the old version to the new, each at its own threshold.

    Attributes:
        fixed: Numbers of the pairs the new version mended.
        broken: Numbers of the pairs it got wrong anew.
        test: McNemar's test on the decisions.
        similarity_shift: Mean of new minus old similarity, genuine then impostor pairs.
    """

    fixed: NDArray[np.int64]
    broken: NDArray[np.int64]
    test: McNemar
    similarity_shift: tuple[float, float]


def compare(old: Scores, old_threshold: float, new: Scores, new_threshold: float) -> Comparison:
    """Compare two versions' scores of the same pairs.

    Raises:
        InvalidInput: If the labels differ: then they are not the same pairs.
    """
    if not np.array_equal(old.genuine, new.genuine):
        raise InvalidInput("scores", "both versions must be measured on the same pairs")
    old.need_both_classes("a comparison")
    old_right = old.decisions(old_threshold) == old.genuine
    new_right = new.decisions(new_threshold) == new.genuine
    shift = new.similarity - old.similarity
    return Comparison(
        fixed=np.flatnonzero(~old_right & new_right),
        broken=np.flatnonzero(old_right & ~new_right),
        test=mcnemar(old_right, new_right),
        similarity_shift=(float(shift[old.genuine].mean()), float(shift[~old.genuine].mean())),
    )
