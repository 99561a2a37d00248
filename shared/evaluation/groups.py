"""Error rates by group of people, and how unequal they are (NIST FRTE, part 8: demographics).

The false-match rate of a group is that of impostor pairs within it: an impostor is likely to be of
the same age and complexion, and pairs across groups would hide what a group suffers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.datasets.sampling import impostor_pairs
from shared.evaluation.operating_point import (
    PeopleBootstrap,
    RoundRates,
    ScoredPeople,
    rate_of,
)
from shared.evaluation.results import GroupComparison, GroupRate, GroupRates, Inequity
from shared.evaluation.scores import Scores, pair_similarity
from shared.model.operating_curve import Evidence

FEWEST_PEOPLE: Final = 10
FEWEST_PAIRS: Final = 30
# So that people with many images do not decide a group's rates.
_IMAGES_PER_PERSON: Final = 10
# Bounds the work; so many pairs resolve a false-match rate of 1e-4.
_MOST_IMPOSTORS: Final = 100_000


@dataclass(frozen=True)
class GroupPairs:
    """Pairs within one group.

    Attributes:
        name: Name of the group.
        images: int32 (P, 2), the images of each pair. P may be 0.
        genuine: bool (P,).
        people: int32 (P, 2), the person on each image.
    """

    name: str
    images: NDArray[np.int32]
    genuine: NDArray[np.bool_]
    people: NDArray[np.int32]

    def scored(self, embeddings: NDArray[np.float32]) -> ScoredPeople:
        """Score the pairs.

        Args:
            embeddings: (N, D), each row of length 1.

        Raises:
            InvalidInput: If there is no pair.
        """
        return ScoredPeople.of(
            Scores(pair_similarity(embeddings, self.images), self.genuine), self.people
        )


def pairs_within_groups(
    people: NDArray[np.integer],
    images_of: Mapping[str, NDArray[np.integer]],
    seed: int,
) -> list[GroupPairs]:
    """Pair the images of each group.

    A person counts with ten images. All genuine pairs of these are taken, and all impostor pairs
    of the group, or 100,000 of them.

    Args:
        people: (N,), the person on each image; a person is in one group.
        images_of: Images by group.
        seed: Seed of the choice of images and pairs.

    Returns:
        The groups by name.
    """
    rng = np.random.default_rng(seed)
    return [_pair(name, people, images_of[name], rng) for name in sorted(images_of)]


def measure_groups(
    groups: Sequence[GroupPairs],
    embeddings: NDArray[np.float32],
    threshold: float,
    seed: int,
) -> GroupComparison:
    """Measure the error rates of each group at a threshold, and compare the groups.

    Args:
        groups: Pairs of each group.
        embeddings: float32 (N, D), each row of length 1.
        threshold: Cosine similarity from which two faces are the same person.
        seed: Seed of the bootstrap.
    """
    measured = tuple(_measure(group, embeddings, threshold, seed) for group in groups)
    return GroupComparison(
        threshold=threshold,
        groups=measured,
        fnmr_inequity=inequity({group.name: group.fnmr for group in measured}),
        fmr_inequity=inequity({group.name: group.fmr for group in measured}),
    )


def is_enough(evidence: Evidence) -> bool:
    """Tell whether a group has enough people and pairs to be compared with others."""
    return evidence.people >= FEWEST_PEOPLE and evidence.pairs >= FEWEST_PAIRS


def inequity(rates: Mapping[str, GroupRate]) -> Inequity | None:
    """Compare an error rate of groups: the highest over the geometric mean.

    Groups with too few people or pairs take no part. A rate of zero counts in the mean as half an
    error among the group's pairs, or as the lowest rate above zero if that is less.

    Args:
        rates: An error rate by group.

    Returns:
        None with fewer than two groups, or if no group has an error.
    """
    judged = {name: rate for name, rate in rates.items() if rate.enough}
    values = {name: rate.rate.value for name, rate in judged.items() if rate.rate is not None}
    above_zero = [value for value in values.values() if value > 0]
    if len(values) < 2 or not above_zero:
        return None
    logs = [
        math.log(value or min(0.5 / judged[name].evidence.pairs, *above_zero))
        for name, value in values.items()
    ]
    worst = max(values, key=values.__getitem__)
    ratio = values[worst] / math.exp(sum(logs) / len(logs))
    return Inequity(worst=worst, ratio=ratio, groups=len(values))


def _pair(
    name: str,
    people: NDArray[np.integer],
    images: NDArray[np.integer],
    rng: np.random.Generator,
) -> GroupPairs:
    by_person = [
        np.sort(rng.permutation(images[people[images] == person])[:_IMAGES_PER_PERSON])
        for person in np.unique(people[images])
    ]
    kept = np.concatenate([images[:0], *by_person])
    genuine = np.concatenate([np.empty((0, 2), np.intp), *map(_all_pairs, by_person)])
    impostor = kept[impostor_pairs(people[kept], _MOST_IMPOSTORS, len(genuine), rng)]
    pairs = np.concatenate([genuine, impostor])
    return GroupPairs(
        name,
        pairs.astype(np.int32),
        np.arange(len(pairs)) < len(genuine),
        people[pairs].astype(np.int32),
    )


def _all_pairs(images: NDArray[np.integer]) -> NDArray[np.integer]:
    return np.stack([images[side] for side in np.triu_indices(len(images), 1)], axis=1)


def _measure(
    group: GroupPairs, embeddings: NDArray[np.float32], threshold: float, seed: int
) -> GroupRates:
    if not len(group.genuine):
        none = GroupRate(rate=None, evidence=Evidence(pairs=0, people=0), enough=False)
        return GroupRates(name=group.name, fnmr=none, fmr=none)
    scored = group.scored(embeddings)
    bootstrap = PeopleBootstrap(scored, seed)
    rejected = scored.genuine_similarity < threshold
    accepted = scored.impostor_similarity >= threshold
    return GroupRates(
        name=group.name,
        fnmr=_rate(rejected, bootstrap.fnmr(rejected), scored.genuine_evidence()),
        fmr=_rate(accepted, bootstrap.fmr(accepted), scored.impostor_evidence()),
    )


def _rate(wrong: NDArray[np.bool_], rounds: RoundRates, evidence: Evidence) -> GroupRate:
    rate = rate_of(float(wrong.mean()), rounds, evidence.people) if wrong.size else None
    return GroupRate(rate=rate, evidence=evidence, enough=is_enough(evidence))
